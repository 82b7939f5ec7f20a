"""Alpaca's keys: every form in which people keep them, and what is said where they are not right."""

from __future__ import annotations

import json
import traceback
from pathlib import Path

import pytest
from pydantic import SecretStr

from postval_assets.core.failures import Rejected
from postval_assets.io.alpaca_keys import AlpacaKeys, alpaca_keys
from postval_assets.settings import child_environment, load_settings
from postval_assets_tests.io.alpaca_server import KEY_ID, SECRET


def read(**variables: str) -> AlpacaKeys:
    return alpaca_keys({name: SecretStr(value) for name, value in variables.items()})


def from_file(path: Path, text: str, encoding: str = "utf-8") -> AlpacaKeys:
    path.write_text(text, encoding=encoding, newline="")
    return read(ALPACA_KEYS_FILE=str(path))


FORMS = {
    "KEY=VALUE": f"APCA_API_KEY_ID={KEY_ID}\nAPCA_API_SECRET_KEY={SECRET}\n",
    "in a shell": f"# mine\nexport APCA_API_KEY_ID='{KEY_ID}'\nexport APCA_API_SECRET_KEY=\"{SECRET}\"\n",
    "in PowerShell": f'$env:APCA_API_KEY_ID = "{KEY_ID}"\n$env:APCA_API_SECRET_KEY = "{SECRET}"\n',
    "in a command prompt": f"set APCA_API_KEY_ID={KEY_ID}\nset APCA_API_SECRET_KEY={SECRET}\n",
    "with comments": f"APCA_API_KEY_ID={KEY_ID}  # paper\nAPCA_API_SECRET_KEY='{SECRET}' # of 2025\n",
    "bare lines with comments": f"{KEY_ID} # key\n{SECRET}\t# secret\n",
    "other names": f"ALPACA_API_KEY={KEY_ID}\nALPACA_SECRET_KEY={SECRET}\nALPACA_PAPER=true\n",
    "Key: and Secret:": f"Key: {KEY_ID}\nSecret: {SECRET}\n",
    "as the web page shows them": f"Endpoint: https://paper-api.alpaca.markets\nKey: {KEY_ID}\nSecret: {SECRET}",
    "in the other order": f"Secret Key : {SECRET}\n\nAPI Key ID : {KEY_ID}\n",
    "two bare lines": f"{KEY_ID}\n{SECRET}\n",
    "bare lines with room": f"\n  {KEY_ID}  \n\n\t{SECRET}\n\n",
    "JSON": json.dumps({"APCA_API_KEY_ID": KEY_ID, "APCA_API_SECRET_KEY": SECRET}),
    "JSON with other names": json.dumps({"key": KEY_ID, "secret": SECRET, "paper": True}, indent=2),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_a_file_may_have_any_of_the_forms(tmp_path: Path, form: str, end: str, encoding: str) -> None:
    text = FORMS[form].replace("\n", end)
    assert from_file(tmp_path / "keys.txt", text, encoding) == AlpacaKeys(KEY_ID, SECRET)


def test_a_bare_secret_may_hold_the_signs_of_other_forms(tmp_path: Path) -> None:
    assert from_file(tmp_path / "k", f"{KEY_ID}\nab=cd:ef/+==\n") == AlpacaKeys(KEY_ID, "ab=cd:ef/+==")


def test_the_two_variables_are_enough_and_win(tmp_path: Path) -> None:
    both = {"APCA_API_KEY_ID": KEY_ID, "APCA_API_SECRET_KEY": f" {SECRET}\n"}
    assert read(**both) == AlpacaKeys(KEY_ID, SECRET)
    (tmp_path / "keys").write_text("OTHER\nOTHERSECRET\n")
    assert read(**both, ALPACA_KEYS_FILE=str(tmp_path / "keys")) == AlpacaKeys(KEY_ID, SECRET)


SAID_OF_FILES = {
    "": "holds no keys: expected APCA_API_KEY_ID=",
    "# nothing\n": "holds no keys",
    f"APCA_API_KEY_ID={KEY_ID}\n": "holds a key ID but no secret key",
    f"Secret: {SECRET}\n": "holds a secret key but no key ID",
    f"Key: {KEY_ID}\nSecret:\n": "holds a key ID but no secret key",
    f"{KEY_ID}\n": "holds no keys",
    f"{KEY_ID}\n{SECRET}\nmore\n": "holds no keys",
    f'{{"key": "{KEY_ID}"}}': "holds a key ID but no secret key",
    f'{{"key": "{KEY_ID}", "secret": "{SECRET}"': r"is not JSON \(line 1\)",
    f'{{"key": "{KEY_ID}", "secret": 7}}': "holds a key ID but no secret key",
    f"Key: {KEY_ID}\nSecret: {SECRET[:9]} {SECRET[9:]}\n": "the secret key holds a space",
    f"Key: {KEY_ID}\u00e9\nSecret: {SECRET}\n": "the key ID holds a space or another character",
    f"Key: {SECRET}\nSecret: {KEY_ID}\n": "are exchanged",
    f"Key: {SECRET}\nSecret: {SECRET}\n": "are the same",
}


@pytest.mark.parametrize("text", SAID_OF_FILES)
def test_what_is_wrong_with_a_file_is_one_line_without_the_keys(tmp_path: Path, text: str) -> None:
    with pytest.raises(Rejected, match=SAID_OF_FILES[text]) as caught:
        from_file(tmp_path / "keys.txt", text)
    require_silence(caught.value)


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        ({}, "Alpaca keys are missing: set APCA_API_KEY_ID and APCA_API_SECRET_KEY, or ALPACA_KEYS_FILE"),
        ({"APCA_API_KEY_ID": KEY_ID}, "APCA_API_KEY_ID is set but APCA_API_SECRET_KEY is not"),
        ({"APCA_API_SECRET_KEY": SECRET}, "APCA_API_SECRET_KEY is set but APCA_API_KEY_ID is not"),
        ({"APCA_API_KEY_ID": KEY_ID, "APCA_API_SECRET_KEY": "  "}, "APCA_API_SECRET_KEY is not"),
        ({"APCA_API_KEY_ID": SECRET, "APCA_API_SECRET_KEY": KEY_ID}, "are exchanged"),
        ({"APCA_API_KEY_ID": KEY_ID, "APCA_API_SECRET_KEY": f"{SECRET}\n{SECRET}"}, "holds a space"),
        ({"ALPACA_KEYS_FILE": "nowhere/keys.txt"}, r"ALPACA_KEYS_FILE \(.*keys.txt\) is not a file"),
    ],
)
def test_what_is_wrong_with_variables_is_one_line_without_the_keys(
    variables: dict[str, str], said: str
) -> None:
    with pytest.raises(Rejected, match=said) as caught:
        read(**variables)
    require_silence(caught.value)


def test_a_file_that_is_no_text_or_too_large_is_told(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    path.write_bytes(b"\xff\x00\x9d" + SECRET.encode())
    with pytest.raises(Rejected, match="is not text") as caught:
        read(ALPACA_KEYS_FILE=str(path))
    require_silence(caught.value)
    path.write_bytes(SECRET.encode() * 10_000)
    with pytest.raises(Rejected, match="larger than 64 KiB"):
        read(ALPACA_KEYS_FILE=str(path))
    with pytest.raises(Rejected, match="is not a file"):
        read(ALPACA_KEYS_FILE=str(tmp_path))


def test_keys_are_never_shown() -> None:
    keys = AlpacaKeys(KEY_ID, SECRET)
    shown = f"{keys} {keys!r} {[keys]}"
    assert KEY_ID not in shown
    assert SECRET not in shown


def test_settings_hand_the_variables_over_and_do_not_keep_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("APCA_API_KEY_ID", KEY_ID)
    monkeypatch.setenv("APCA_API_SECRET_KEY", SECRET)
    monkeypatch.delenv("ALPACA_KEYS_FILE", raising=False)
    settings = load_settings(bars_source="alpaca")
    assert alpaca_keys(settings.alpaca_variables) == AlpacaKeys(KEY_ID, SECRET)
    shown = f"{settings!r} {settings.alpaca_variables} {settings.model_dump()} {vars(settings)}"
    assert KEY_ID not in shown
    assert SECRET not in shown
    monkeypatch.delenv("APCA_API_SECRET_KEY")
    assert set(settings.alpaca_variables) == {"APCA_API_KEY_ID"}


def test_a_child_finds_the_file_from_another_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ALPACA_KEYS_FILE", "keys.txt")
    assert child_environment(load_settings())["ALPACA_KEYS_FILE"] == str(tmp_path / "keys.txt")


@pytest.mark.parametrize(
    "url",
    [
        f"https://{KEY_ID}:{SECRET}@data.alpaca.markets",
        f"https://data.alpaca.markets?secret={SECRET}",
        f"ftp://{SECRET}",
        SECRET,
        f"https:///{SECRET}",
    ],
)
def test_an_address_that_is_none_is_refused_without_showing_it(
    monkeypatch: pytest.MonkeyPatch, url: str
) -> None:
    monkeypatch.setenv("POSTVAL_ALPACA_URL", url)
    with pytest.raises(Rejected, match="alpaca_url: expected https://HOST") as caught:
        load_settings()
    require_silence(caught.value)


def require_silence(error: BaseException) -> None:
    """One line, and no key in it nor in what a traceback shows."""
    assert "\n" not in str(error)
    shown = "".join(traceback.format_exception(error)) + repr(error)
    shown = shown.replace(str(Path(__file__).parent), "")
    for secret in (KEY_ID, SECRET, SECRET[:9] + " "):
        assert secret not in shown
