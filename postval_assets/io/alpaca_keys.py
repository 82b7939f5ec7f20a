"""Alpaca's keys, in every form in which people keep them.

Here: reading a pair of keys from variables or a file, and saying in one line what is wrong, without the keys. Not
here: the environment itself (settings.py hands its variables over), or whether Alpaca accepts them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import SecretStr

from postval_assets.core.failures import Rejected, Unavailable

KEY_ID, SECRET, KEYS_FILE = "APCA_API_KEY_ID", "APCA_API_SECRET_KEY", "ALPACA_KEYS_FILE"
VARIABLES = (KEY_ID, SECRET, KEYS_FILE)

_FORMS = f"{KEY_ID}=... and {SECRET}=... lines, Key: ... and Secret: ... lines, two bare lines (key ID first), or JSON"
# Names of the two, with nothing but letters and in lower case, as they are found in files.
_KEY_ID_NAMES = {
    *("apcaapikeyid", "alpacaapikeyid", "alpacakeyid", "apikeyid", "keyid"),
    *("alpacaapikey", "alpacakey", "apikey", "key"),
}
_SECRET_NAMES = {
    *("apcaapisecretkey", "alpacaapisecretkey", "alpacasecretkey", "apisecretkey", "secretkey"),
    *("alpacaapisecret", "alpacasecret", "apisecret", "secret"),
}
_NAMED = re.compile(r"(?:export\s+|set\s+|\$env:)?(?P<name>[A-Za-z][A-Za-z0-9_. -]*?)\s*[=:]\s*(?P<value>.*)")
_COMMENT = re.compile(r"\s+#.*\Z")
_USABLE = re.compile(r"[\x21-\x7e]+\Z")  # anything else cannot be sent in a header
_LOOKS_LIKE_KEY_ID = re.compile(r"[ACP]K[A-Z0-9]{16,24}\Z")
_LARGEST_FILE = 64 * 1024


@dataclass(frozen=True)
class AlpacaKeys:
    """A pair of keys that could be sent. Neither of them is ever shown."""

    key_id: str = field(repr=False)
    secret: str = field(repr=False)

    def __str__(self) -> str:
        return "AlpacaKeys(hidden)"

    def hide(self, text: str) -> str:
        """The text without the keys: what a server says may repeat what it was sent."""
        return text.replace(self.secret, "(secret)").replace(self.key_id, "(key ID)")


def alpaca_keys(variables: Mapping[str, SecretStr]) -> AlpacaKeys:
    """The keys that the variables hold or whose file they name; the two variables win over the file.

    Args:
        variables: those of VARIABLES that are set; a relative path of the file counts from the working directory.

    Raises:
        Rejected: where keys are missing, half or malformed; in one line, which never holds a key.
        Unavailable: where the disk does not give the file.
    """
    given = {name: value.get_secret_value().strip() for name, value in variables.items()}
    key_id, secret, file = (given.get(name, "") for name in VARIABLES)
    if key_id or secret:
        if not (key_id and secret):
            there, missing = (KEY_ID, SECRET) if key_id else (SECRET, KEY_ID)
            raise Rejected(f"Alpaca keys: {there} is set but {missing} is not; both are needed")
        return _checked(key_id, secret, KEY_ID, SECRET)
    if file:
        path = Path(file).expanduser()
        return _from_file(path)
    raise Rejected(
        f"Alpaca keys are missing: set {KEY_ID} and {SECRET}, or {KEYS_FILE} to a file with {_FORMS}"
    )


def _from_file(path: Path) -> AlpacaKeys:
    where = f"Alpaca keys: {KEYS_FILE} ({path})"
    try:
        content = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        raise Rejected(f"{where} is not a file") from None
    except OSError as error:
        raise Unavailable(f"{where} cannot be read: {error.strerror}") from error
    if len(content) > _LARGEST_FILE:
        raise Rejected(f"{where} is larger than {_LARGEST_FILE // 1024} KiB: expected {_FORMS}")
    try:
        # PowerShell's > writes UTF-16, with a mark in front.
        encoding = "utf-16" if content[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"
        text = content.decode(encoding)
    except UnicodeDecodeError:
        # Without its cause, which would show the content.
        raise Rejected(f"{where} is not text: expected {_FORMS}") from None
    found = _in_json(text, where) if text.lstrip().startswith("{") else _in_lines(text)
    for position, what in enumerate(("key ID", "secret key")):
        if not found[position]:
            other = ("secret key", "key ID")[position]
            half = f"holds a {other} but no {what}" if any(found) else "holds no keys"
            raise Rejected(f"{where} {half}: expected {_FORMS}")
    return _checked(*found, f"{where}: the key ID", f"{where}: the secret key")


def _in_json(text: str, where: str) -> tuple[str, str]:
    try:
        content = json.loads(text)
    except json.JSONDecodeError as error:
        raise Rejected(f"{where} is not JSON (line {error.lineno}): expected {_FORMS}") from None
    return _named({str(name): value for name, value in content.items() if isinstance(value, str)})


def _in_lines(text: str) -> tuple[str, str]:
    lines = [line.strip() for line in text.splitlines()]
    # No key holds a space, so what follows one with a # is a comment.
    lines = [_COMMENT.sub("", line) for line in lines if line and not line.startswith("#")]
    pairs = {m["name"]: m["value"] for line in lines if (m := _NAMED.match(line))}
    found = _named(pairs)
    if not any(found) and len(lines) == 2:
        return lines[0], lines[1]
    return found


def _named(pairs: Mapping[str, str]) -> tuple[str, str]:
    """Key ID and secret among named values, each empty where it is not there."""
    key_id = secret = ""
    for name, value in pairs.items():
        plain = re.sub(r"[^a-z]", "", name.lower())
        bare = value.strip().removesuffix(",").strip().strip("\"'").strip()
        if plain in _KEY_ID_NAMES:
            key_id = key_id or bare
        elif plain in _SECRET_NAMES:
            secret = secret or bare
    return key_id, secret


def _checked(key_id: str, secret: str, key_id_at: str, secret_at: str) -> AlpacaKeys:
    for value, at in ((key_id, key_id_at), (secret, secret_at)):
        if not _USABLE.match(value):
            raise Rejected(
                f"Alpaca keys: {at.removeprefix('Alpaca keys: ')} holds a space or another character that no key has"
            )
    if key_id == secret:
        raise Rejected("Alpaca keys: the key ID and the secret key are the same")
    if _LOOKS_LIKE_KEY_ID.match(secret) and not _LOOKS_LIKE_KEY_ID.match(key_id):
        raise Rejected(
            "Alpaca keys: the key ID and the secret key are exchanged (key IDs begin with PK or AK)"
        )
    return AlpacaKeys(key_id, secret)
