"""Training summaries that are no summaries: too deep, too large, of two meanings, in other encodings."""

from __future__ import annotations

import codecs
import json
from collections.abc import Callable
from typing import Any

from postval_assets_tests.factories import good_claims, make_summary
from postval_assets_tests.hostile.cases import Case, Outcome
from postval_assets_tests.hostile.zip_bytes import (
    STAMP,
    SUMMARY,
    Part,
    good_parts,
    good_summary,
    writes,
    zip_bytes,
)

REFUSED, QUARANTINED, ACCEPTED = Outcome.REFUSED, Outcome.QUARANTINED, Outcome.ACCEPTED

_MB = 2**20
_NESTED = "nested more than 32 deep; expected"


def _archive(summary: bytes) -> bytes:
    return zip_bytes([Part(SUMMARY, summary, method=0), good_parts()[1]])


def _with(metric: str, value: str) -> bytes:
    """Good claims, one value of which is this text of JSON."""
    claims: dict[str, Any] = {**good_claims(), metric: "@"}
    return json.dumps({"symbols": {"AAPL_1Hour": {"metrics": claims}}}).replace('"@"', value).encode()


def _plain(**top: Any) -> bytes:
    return json.dumps({**make_summary({"AAPL_1Hour": good_claims()}, timestamp=STAMP), **top}).encode()


def _doubled_symbol() -> bytes:
    claims = json.dumps({"metrics": good_claims()})
    return f'{{"symbols": {{"AAPL_1Hour": {claims}, "AAPL_1Hour": {claims}}}}}'.encode()


def _doubled_metric() -> bytes:
    text = good_summary().decode()
    return text.replace('"fitness_score"', '"fitness_score": [0.99], "fitness_score"', 1).encode()


def _two_spellings() -> bytes:
    claims = {"metrics": good_claims()}
    return json.dumps({"symbols": {"AAPL": claims, "AAPL_1Hour": claims}}).encode()


def _escapes_without_end() -> bytes:
    """Each escaped quote is a place where a careless search for the text's end begins again."""
    return b'{"note": "' + b'\\"' * 500_000


# (what it is, the summary, what becomes of it, what is said)
_SHAPES: tuple[tuple[str, Callable[[], bytes], Outcome, str], ...] = (
    ("lists a million deep", lambda: b"[" * 1_000_000, REFUSED, _NESTED),
    ("lists 2,000 deep, closed", lambda: b"[" * 2_000 + b"]" * 2_000, REFUSED, _NESTED),
    ("objects 100,000 deep", lambda: b'{"a":' * 100_000 + b"1" + b"}" * 100_000, REFUSED, _NESTED),
    (
        "a deep value beside good claims",
        lambda: _with("fitness_score", "[" * 40 + "]" * 40),
        REFUSED,
        _NESTED,
    ),
    (
        "two million empty lists",
        lambda: b"[" + b"[]," * 2_000_000 + b"[]]",
        REFUSED,
        "has about 4000002 values; at most 1048576 are read .*max_summary_mb",
    ),
    (
        "two million numbers",
        lambda: _with("fitness_score", "[" + "1," * 2_000_000 + "1]"),
        REFUSED,
        r"has about \d+ values; at most 1048576",
    ),
    (
        "two million keys",
        lambda: b"{" + b'"":{},' * 2_000_000 + b"}",
        REFUSED,
        r"has about \d+ values; at most 1048576",
    ),
    (
        "as many keys as are read",
        lambda: b"{" + b",".join(b'"%d":{}' % n for n in range(340_000)) + b"}",
        REFUSED,
        "no metrics per symbol",
    ),
    (
        "a million escaped quotes without an end",
        _escapes_without_end,
        REFUSED,
        "not JSON: Unterminated string",
    ),
    ("15 MB of closing brackets", lambda: b"]" * 15 * _MB, REFUSED, "not JSON"),
    ("a key of 10 MB", lambda: b'{"' + b"k" * 10 * _MB + b'": 1}', REFUSED, "no metrics per symbol"),
    (
        "a symbol of 10 MB",
        lambda: good_summary("AAPL", "S" * 10 * _MB),
        QUARANTINED,
        "symbol 'SSS.* is not usable: expected 1 to 15 of A-Z",
    ),
    (
        "one key twice",
        lambda: b'{"seed": 1, "seed": 2}',
        REFUSED,
        "has the key 'seed' twice in one object; expected it once",
    ),
    ("one symbol twice", _doubled_symbol, REFUSED, "has the key 'AAPL_1Hour' twice"),
    ("one metric twice, first a better one", _doubled_metric, REFUSED, "has the key 'fitness_score' twice"),
    (
        "one key twice by an escape",
        lambda: good_summary().replace(
            b'"fitness_score"', b'"fitness\\u005fscore": [0.99], "fitness_score"', 1
        ),
        REFUSED,
        "has the key 'fitness_score' twice",
    ),
    (
        "claims in two places",
        lambda: _plain(models={"AAPL_1Hour": {"metrics": good_claims()}}),
        REFUSED,
        "metrics under both symbols and models; expected one",
    ),
    (
        "one model in two spellings",
        _two_spellings,
        QUARANTINED,
        "AAPL 1Hour appears more than once in the summary",
    ),
    ("nothing", lambda: b"", REFUSED, "not JSON"),
    ("null", lambda: b"null", REFUSED, "the training summary is None; expected"),
    ("two documents", lambda: good_summary() + good_summary(), REFUSED, "not JSON: Extra data"),
    ("a comment", lambda: b"// trained\n" + good_summary(), REFUSED, "not JSON"),
    (
        "names of Python's insides",
        lambda: good_summary("AAPL", "__class__", "__proto__"),
        QUARANTINED,
        "symbol '__class__' is not usable.*symbol '__proto__' is not usable",
    ),
)

_ENCODINGS: tuple[tuple[str, Callable[[], bytes], Outcome, str], ...] = (
    ("a byte order mark", lambda: codecs.BOM_UTF8 + good_summary(), ACCEPTED, ""),
    ("two byte order marks", lambda: codecs.BOM_UTF8 * 2 + good_summary(), REFUSED, "not JSON"),
    (
        "UTF-16, low byte first",
        lambda: good_summary().decode().encode("utf-16"),
        REFUSED,
        r"not UTF-8 text \(byte 0\)",
    ),
    ("UTF-16 without a mark", lambda: good_summary().decode().encode("utf-16-be"), REFUSED, "not JSON"),
    ("UTF-32", lambda: good_summary().decode().encode("utf-32"), REFUSED, "not UTF-8 text|not JSON"),
    (
        "bytes of no encoding",
        lambda: good_summary() + b"\xff",
        REFUSED,
        r"not UTF-8 text \(byte \d+\); expected JSON",
    ),
    ("a slash in two bytes", lambda: good_summary() + b"\xc0\xaf", REFUSED, "not UTF-8 text"),
    (
        "half a character of UTF-16 in bytes",
        lambda: good_summary() + b"\xed\xa0\x80",
        REFUSED,
        "not UTF-8 text",
    ),
    (
        "half a character of UTF-16 in a symbol",
        lambda: good_summary("AAPL", "SPY\ud800"),
        QUARANTINED,
        r"symbol 'SPY\\ud800' is not usable",
    ),
    (
        "half a character of UTF-16 in the timestamp",
        lambda: _plain().replace(STAMP.encode(), b"\\ud800"),
        ACCEPTED,
        r"timestamp is '\\ud800': treated as unknown; expected",
    ),
    ("a NUL", lambda: good_summary() + b"\0", REFUSED, "not JSON: Extra data"),
    (
        "a line's end in a text",
        lambda: good_summary().replace(b"AAPL", b"AA\nPL", 1),
        REFUSED,
        "not JSON: Invalid control",
    ),
    (
        "a symbol outside of the basic characters, which makes all of it wide",
        lambda: good_summary("AAPL", "\U0001f4a3" * 5),
        QUARANTINED,
        r"symbol '\\U0001f4a3.* is not usable",
    ),
)

# (what it is, metric, value as JSON, what is said)
_NUMBERS = (
    ("not a number", "fitness_score", "[0.5, NaN]", r"fitness_score\[1\] is nan; expected a finite number"),
    ("infinity", "profit_factor", "[Infinity]", r"profit_factor\[0\] is inf"),
    ("minus infinity", "profit_factor", "[-Infinity]", r"profit_factor\[0\] is -inf"),
    ("a number beyond all numbers", "profit_factor", "[1e999]", r"profit_factor\[0\] is inf"),
    (
        "a whole number of 400 digits",
        "profit_factor",
        "[1" + "0" * 400 + "]",
        r"profit_factor\[0\] is a huge number",
    ),
    (
        "a percentage",
        "consistency",
        "[85]",
        "consistency has 85; it looks like a percentage; expected fractions",
    ),
    (
        "a drawdown below zero",
        "max_drawdown",
        "[-0.1]",
        "max_drawdown has -0.1; expected fractions from 0 to 1",
    ),
    (
        "a number as text",
        "fitness_score",
        '["0.9"]',
        r"fitness_score\[0\] is '0\.9'; expected a finite number",
    ),
    ("yes", "fitness_score", "[true]", r"fitness_score\[0\] is True; expected a finite number"),
    ("nothing", "fitness_score", "[null]", r"fitness_score\[0\] is None"),
    ("a list in a list", "fitness_score", "[[0.9]]", r"fitness_score\[0\] is a list"),
    ("an object", "fitness_score", '{"0": 1}', r"fitness_score\[0\] is an object"),
    ("no values", "fitness_score", "[]", "fitness_score is empty; expected one number per validation"),
    (
        "more validations than the others",
        "fitness_score",
        "[0.5" + ", 0.5" * 99_999 + "]",
        "unequal lengths .*100000",
    ),
    (
        "a text with codes of a terminal",
        "fitness_score",
        '["\\u001b[2J"]',
        r"fitness_score\[0\] is '\\x1b\[2J'",
    ),
)

_TOP: tuple[tuple[str, Callable[[], bytes], Outcome, str], ...] = (
    (
        "a whole number of 5,000 digits",
        lambda: _with("profit_factor", "[1" + "0" * 5_000 + "]"),
        REFUSED,
        "a number of too many digits; expected whole numbers of at most 4300 digits",
    ),
    (
        "a fraction of 5 MB of digits",
        lambda: _with("profit_factor", "0." + "7" * 5 * _MB),
        QUARANTINED,
        "histories have unequal lengths",
    ),
    ("minus zero everywhere", lambda: good_summary().replace(b"0.05]", b"-0.0]"), ACCEPTED, ""),
    (
        "2^63 trials, 10^30 steps and a scale that is none",
        lambda: _plain(n_trials=2**63, validation_interval=10**30, reward_scale="x", seed=1e308),
        ACCEPTED,
        "validation_interval is a huge number: treated.*reward_scale is 'x'.*seed is 1e.308.*n_trials is a huge number",
    ),
    (
        "training before the first year",
        lambda: _plain(data={"start": "0001-01-01T00:00:00+14:00", "end": "9999-12-31T23:59:59-14:00"}),
        ACCEPTED,
        "training window's start is .*treated as unknown",
    ),
    (
        "training that ends before it starts",
        lambda: _plain(data={"start": "2024-01-01", "end": "2023-01-01"}),
        ACCEPTED,
        "ends .* before it starts: treated as unknown",
    ),
    (
        "a training window that is a list",
        lambda: _plain(data=["2024"]),
        ACCEPTED,
        "data is a list, not an object",
    ),
    (
        "a time with codes of a terminal",
        lambda: _plain(data={"start": "\x1b]0;owned\x07", "end": "<script>"}),
        ACCEPTED,
        r"start is '\\x1b\]0;owned\\x07': treated as unknown",
    ),
)


def _cases(rows: tuple[tuple[str, Callable[[], bytes], Outcome, str], ...], family: str) -> list[Case]:
    return [
        Case(f"a summary of {what}", family, writes(lambda make=make: _archive(make())), expected, says)
        for what, make, expected, says in rows
    ]


CASES: tuple[Case, ...] = (
    *_cases(_SHAPES, "summaries: shape"),
    *_cases(_ENCODINGS, "summaries: encoding"),
    *(
        Case(
            f"a metric that is {what}",
            "summaries: numbers",
            writes(lambda metric=metric, value=value: _archive(_with(metric, value))),
            QUARANTINED,
            says,
        )
        for what, metric, value, says in _NUMBERS
    ),
    *_cases(_TOP, "summaries: numbers"),
)
