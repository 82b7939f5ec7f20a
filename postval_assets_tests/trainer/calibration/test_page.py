"""The page and the picture say what the results say: a small study made by hand."""

import xml.etree.ElementTree as ET
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner

from postval_assets.cli import main
from postval_assets.core.decision import Decision
from postval_assets.trainer.calibration.outcome import Outcome
from postval_assets.trainer.calibration.page import page
from postval_assets.trainer.calibration.picture import picture
from postval_assets.trainer.calibration.rates import decided
from postval_assets.trainer.calibration.records import ResultsFile
from postval_assets.trainer.calibration.study import Family
from postval_assets_tests.trainer.calibration.calibration_cases import finished

SVG = "{http://www.w3.org/2000/svg}"


def lines(text: str, start: str) -> list[str]:
    return [line for line in text.splitlines() if line.startswith(start)]


def test_false_live_is_counted_by_archive_and_by_model() -> None:
    text = page(finished(), "postval calibrate", "x.svg")
    # 1 of 4: 0.0063 to 0.8059; 1 of 8: 0.0032 to 0.5265; 0 of 4: up to 0.6024; 0 of 8: up to 0.3694
    [evidence] = lines(text, "| Worthless, with costs | 180d | evidence |")
    assert evidence.endswith(
        "| 25.0 % (0.63 .. 81), 1 of 4 | 12.5 % (0.32 .. 53), 1 of 8 | 12.5 % | 12.5 % | 37.5 % | 37.5 % |"
    )
    [standard] = lines(text, "| Worthless, with costs | 180d | standard |")
    assert standard.endswith(
        "| 0.0 % (0 .. 60), 0 of 4 | 0.0 % (0 .. 37), 0 of 8 | 0.0 % | 0.0 % | 100.0 % | 0.0 % |"
    )


def test_power_is_beside_what_is_possible() -> None:
    text = page(finished(), "postval calibrate", "x.svg")
    # archives of two: z 1.955 at 2.53 %, 4 * sqrt(180 / 365.25) = 2.808, so 80 %
    assert lines(text, "| 180d | 4 | evidence |") == [
        "| 180d | 4 | evidence | 50.0 % (6.8 .. 93), 2 of 4 | 80 % | 50.0 % | 0.0 % | 0.0 % |"
    ]
    assert lines(text, "| 180d | 4 | standard |") == [
        "| 180d | 4 | standard | 25.0 % (0.63 .. 81), 1 of 4 | 80 % | 0.0 % | 75.0 % | 0.0 % |"
    ]
    assert "| 180d | 4 | 4.00 +/- 0.41 | 3.67 +/- 0.33 | 5.00 |" in text


def test_what_a_condition_alone_takes_is_said() -> None:
    text = page(finished(), "postval calibrate", "x.svg")
    assert lines(text, "| Sharpe 4 (4) | 180d |") == [
        "| Sharpe 4 (4) | 180d | 75.0 % | 100.0 % | 75.0 % | 100.0 % | 100.0 % | 100.0 % | 50.0 % |",
        "| Sharpe 4 (4) | 180d | 25.0 % | 0.0 % | 25.0 % | 0.0 % | 0.0 % | 0.0 % |",
    ]


def test_alarms_after_a_live_are_counted_by_future() -> None:
    text = page(finished(), "postval calibrate", "x.svg")
    assert "| 180d | 4 | 50.0 % (1.3 .. 99), 1 of 2 | 10 | 100.0 % (16 .. 100), 2 of 2 | 50 |" in text


def test_the_aim_is_only_called_reached_where_the_interval_says_so() -> None:
    done = finished()
    text = page(done, "postval calibrate", "x.svg")
    assert "which does not tell it from the 5 % that it aims at" in text
    quiet = [p for p in done.results if p.name == "fresh/00003"]
    many = replace(done, results=tuple(replace(quiet[0], name=f"fresh/{n:05d}") for n in range(100)))
    assert "(95 %: 0 .. 3.6) of archives of 2, at most the 5 % that it aims at" in page(many, "", None)
    loud = [p for p in done.results if p.name == "fresh/00000"]
    many = replace(done, results=tuple(replace(loud[0], name=f"fresh/{n:05d}") for n in range(100)))
    assert "above the 5 % that it aims at" in page(many, "", None)


def test_counts_add_up() -> None:
    models = Outcome(finished().results).worthless(Family.WITH_COSTS, "180d")
    assert sum(decided(models, "evidence", d).events for d in Decision) == len(models) == 8


def test_seed_command_and_versions_are_on_the_page() -> None:
    text = page(finished(), "postval calibrate --seed 9", "x.svg")
    assert "    postval calibrate --seed 9\n" in text
    assert "Seed 9;" in text
    assert "Rules `abc`" in text
    assert "numpy 2" in text
    assert " 5 minutes of one core" in text


def test_no_line_of_the_page_is_a_table_row_of_another_width() -> None:
    width = None
    for line in page(finished(), "postval calibrate", "x.svg").splitlines():
        if not line.startswith("|"):
            width = None
            continue
        width = width or line.count("|")
        assert line.count("|") == width, line


def test_picture_is_drawn_from_the_same_counts() -> None:
    root = ET.fromstring(picture(finished()))  # noqa: S314 - our own
    words = [element.text for element in root.iter(f"{SVG}text")]
    assert "evidence, 180d, with costs" in words
    filled = [c.attrib for c in root.iter(f"{SVG}circle") if c.attrib["fill"] == "#1f6fb4"]
    # the false LIVE of policy evidence: 25 % on an axis of 0 to 100 % from 790 to 1085
    assert [float(c["cx"]) for c in filled if float(c["cx"]) > 600.0] == [pytest.approx(863.75, abs=0.06)]
    # its power of 50 % is in the middle between 460 and 80
    assert "270.0" in [c["cy"] for c in filled]


def test_the_command_makes_the_page_from_results_that_there_are(tmp_path: Path) -> None:
    done = finished()
    kept = ResultsFile(tmp_path / "results.jsonl", done.depends_on)
    for result in done.results:
        kept.append(result)
    arguments = ["--data-dir", str(tmp_path / "data"), "calibrate", "--page-only"]
    out = ["--results", str(kept.path), "--out", str(tmp_path / "docs")]
    said = CliRunner().invoke(main, [*arguments, *out])
    assert said.exit_code == 0, said.output
    text = (tmp_path / "docs" / "calibration.md").read_text(encoding="utf-8")
    assert (
        "postval calibrate --archives 4 --edge-markets 1 --bundled-archives 0 --plans 180d --seed 9" in text
    )
    assert "](calibration.svg)" in text
    assert (tmp_path / "docs" / "calibration.svg").read_text(encoding="utf-8") == picture(done)


@pytest.mark.parametrize(
    ("options", "said"), [(["--plans", "90d"], "90d"), (["--page-only"], "results.jsonl")]
)
def test_what_cannot_be_is_one_readable_line(tmp_path: Path, options: list[str], said: str) -> None:
    base = ["--data-dir", str(tmp_path / "data"), "calibrate", "--results", str(tmp_path / "results.jsonl")]
    done = CliRunner().invoke(main, [*base, *options])
    assert done.exit_code == 1
    assert said in done.output
    assert "Traceback" not in done.output
