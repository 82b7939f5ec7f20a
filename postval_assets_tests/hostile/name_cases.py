"""Entries whose names are meant to lead somewhere, to look like something else, or to act where they are shown."""

from __future__ import annotations

import stat
import struct
import zlib

from postval_assets_tests.hostile.canary import SONG
from postval_assets_tests.hostile.cases import Case, Outcome
from postval_assets_tests.hostile.zip_bytes import (
    FOLDER,
    STAMP,
    SUMMARY,
    UTF8,
    Part,
    archive,
    good_model,
    good_parts,
    good_summary,
    writes,
    zip_bytes,
)

REFUSED, QUARANTINED, ACCEPTED = Outcome.REFUSED, Outcome.QUARANTINED, Outcome.ACCEPTED

_PARENT = r"name leads to a parent folder, .*expected names below"
_ABSOLUTE = r"name is absolute, .*expected names below"
_DRIVE = r"name names a drive, C:.*expected names below"
_NUL = r"name holds a NUL, .*x00.*expected names below"

# (what it is, the entry's name, what is said)
_TRAVERSALS = (
    ("a parent folder", f"../{SONG}.txt", _PARENT),
    ("many parent folders", "../" * 12 + f"tmp/{SONG}.txt", _PARENT),
    ("parent folders in the middle", f"notes/../../{SONG}.txt", _PARENT),
    ("parent folders below the models", f"{FOLDER}../../../{SONG}_1Hour.pt", _PARENT),
    ("parent folders with backslashes", f"..\\..\\{SONG}.txt", _PARENT),
    ("parent folders with both slashes", f"notes\\../..\\{SONG}.txt", _PARENT),
    ("three dots, which old Windows took for two parents", f".../{SONG}.txt", _PARENT),
    ("a parent folder with a space behind it", f".. /{SONG}.txt", _PARENT),
    ("a parent folder with dots and spaces", f"notes/.. ./{SONG}.txt", _PARENT),
    ("an absolute path", f"/etc/{SONG}.txt", _ABSOLUTE),
    ("an absolute path of a model", f"/{FOLDER}SPY_1Hour.pt", _ABSOLUTE),
    ("two slashes first", f"//{FOLDER}SPY_1Hour.pt", _ABSOLUTE),
    ("a share of the network", f"\\\\server\\share\\{SONG}.txt", _ABSOLUTE),
    ("a long path of Windows", f"\\\\?\\C:\\{SONG}.txt", _ABSOLUTE),
    ("a drive", f"C:\\Windows\\{SONG}.txt", _DRIVE),
    ("a drive's current folder", f"C:{SONG}.txt", _DRIVE),
    ("a drive before the models", f"C:/{FOLDER}SPY_1Hour.pt", _DRIVE),
    ("a NUL that ends the name early", f"{FOLDER}SPY_1Hour.pt\0.txt", _NUL),
    ("a NUL in a name that is ignored", f"notes\0/../{SONG}.txt", _NUL),
)

_KINDS = {
    "a symbolic link": stat.S_IFLNK,
    "a pipe": stat.S_IFIFO,
    "a device of characters": stat.S_IFCHR,
    "a device of blocks": stat.S_IFBLK,
    "a socket": stat.S_IFSOCK,
    "a folder": stat.S_IFDIR,
}

# (what it is, the file's name beside the good model, what is said)
_BAD_FILES = (
    ("the device CON", "CON.pt", r"CON\.pt is the name of a device on Windows; expected SYMBOL_TIMEFRAME"),
    ("the device NUL in small letters", "nul.pt", r"nul\.pt is the name of a device"),
    ("the device COM1", "COM1.pt", r"COM1\.pt is the name of a device"),
    ("the device LPT9 with a share class", "LPT9.A_1Hour.pt", r"LPT9\.A_1Hour\.pt is the name of a device"),
    ("the device AUX with a space", "AUX .pt", r"AUX \.pt is the name of a device"),
    ("a dot at the end", "SPY_1Hour.pt.", r"name ends in '\.pt\.'; expected \.pt"),
    ("a space at the end", "SPY_1Hour.pt ", r"name ends in '\.pt '; expected \.pt"),
    ("a second stream of the file", "SPY_1Hour.pt::$DATA", r"name ends in '\.pt::\$DATA'; expected \.pt"),
    ("the same name in other letters", "AAPL_1Hour.PT", r"name ends in '\.PT'; expected \.pt"),
    ("the same symbol in small letters", "aapl_1Hour.pt", "symbol 'aapl' is not usable.*A-Z"),
    ("a very long name", "S" * 900 + "_1Hour.pt", "symbol 'SSS.* is not usable"),
    ("a name in no encoding", b"SP\xff\xfe_1Hour.pt", "symbol .* is not usable"),
    ("text that runs from right to left", "SPY\u202etp.1_1Hour.pt", r"symbol 'SPY\\u202etp.1' is not usable"),
    ("a zero-width space", "AA\u200bPL_1Hour.pt", r"symbol 'AA\\u200bPL' is not usable"),
    ("Cyrillic letters that look the same", "\u0410\u0410PL_1Hour.pt", r"symbol '\\u0410\\u0410PL'"),
    ("wide letters that fold to the same", "\uff21\uff21\uff30\uff2c_1Hour.pt", r"symbol '\\uff21"),
    ("Arabic digits in the timeframe", "SPY_\u0661Hour.pt", r"timeframe '\\u0661Hour' is unknown"),
    ("a byte that ends a line", "SPY\nERROR all is well_1Hour.pt", r"symbol 'SPY\\nERROR"),
)

# (what it is, the leading folder)
_BAD_FOLDERS = (
    ("codes that steer a terminal", "\x1b[2J\x1b]0;owned\x07"),
    ("markup of a page", "<script>alert(1)<"),
    ("text that runs from right to left", "a\u202eb"),
    ("a stream's colon", "trained:evil"),
    ("300 letters", "d" * 300),
)


def _extra(name: str | bytes) -> bytes:
    return archive(Part(name, good_model()))


def _beside(file: str | bytes) -> bytes:
    name = FOLDER.encode() + file if isinstance(file, bytes) else FOLDER + file
    return archive(Part(name, good_model()))


def _linked(kind: int) -> bytes:
    target = Part(f"{FOLDER}SPY_1Hour.pt", b"/etc/passwd", listed={"attributes": (kind | 0o777) << 16})
    return zip_bytes([*good_parts(), target])


def _linked_summary() -> bytes:
    summary, model = good_parts()
    linked = Part(summary.name, b"/etc/passwd", listed={"attributes": (stat.S_IFLNK | 0o777) << 16})
    return zip_bytes([linked, model])


def _in_folder(folder: str) -> bytes:
    parts = [
        Part(f"{folder}/{SUMMARY}", good_summary()),
        Part(f"{folder}/{FOLDER}AAPL_1Hour.pt", good_model()),
    ]
    return zip_bytes(parts)


def _other_name_in_a_field() -> bytes:
    """A second name of an ignored entry, in Info-ZIP's field: some programs show this one."""
    name, other = b"notes.txt", f"{FOLDER}../../{SONG}.txt".encode()
    found = struct.pack("<BI", 1, zlib.crc32(name)) + other
    extra = struct.pack("<HH", 0x7075, len(found)) + found
    return archive(Part(name, b"notes", listed={"extra": extra}))


CASES: tuple[Case, ...] = (
    *(
        Case(f"an entry of {what}", "path traversal", writes(lambda name=name: _extra(name)), REFUSED, says)
        for what, name, says in _TRAVERSALS
    ),
    *(
        Case(
            f"a model that is {what} by its attributes",
            "links and devices",
            writes(lambda kind=kind: _linked(kind)),
            QUARANTINED,
            "it is a link, a device or a folder by its attributes; expected a file",
        )
        for what, kind in _KINDS.items()
    ),
    Case(
        "a summary that is a symbolic link",
        "links and devices",
        writes(_linked_summary),
        REFUSED,
        f"summary {SUMMARY} cannot be read: it is a link, a device",
    ),
    Case(
        "a link beside the models, which nobody unpacks",
        "links and devices",
        writes(lambda: archive(Part("logs", b"/", listed={"attributes": (stat.S_IFLNK | 0o777) << 16}))),
        ACCEPTED,
        "",
    ),
    *(
        Case(f"a model named by {what}", "names", writes(lambda file=file: _beside(file)), QUARANTINED, says)
        for what, file, says in _BAD_FILES
    ),
    Case(
        "models in a folder of other letters",
        "names",
        writes(lambda: archive(Part("Models/RL_Symbols/SPY_1Hour.pt", good_model()))),
        QUARANTINED,
        "it is in Models/RL_Symbols; expected models/rl_symbols",
    ),
    Case(
        "models in a folder with a dot at its end",
        "names",
        writes(lambda: archive(Part("models./rl_symbols /AAPL_1Hour.pt", good_model()))),
        QUARANTINED,
        r"it is in models\./rl_symbols ; expected models/rl_symbols",
    ),
    *(
        Case(
            f"a leading folder of {what}",
            "names",
            writes(lambda folder=folder: _in_folder(folder)),
            REFUSED,
            "no training summary.*wrong place.*one leading folder of a plain name",
        )
        for what, folder in _BAD_FOLDERS
    ),
    Case(
        "a name that is longer than any path",
        "names",
        writes(lambda: archive(Part("n" * 60_000, b"x"))),
        REFUSED,
        r"has a name of 60000 bytes \(nnn.*at most 1024 are read",
    ),
    Case(
        "a name that is said to be UTF-8 and is not",
        "names",
        writes(lambda: archive(Part(b"notes\xff.txt", b"x", flags=UTF8))),
        REFUSED,
        r"the name notes\\xff\.txt in .* is said to be UTF-8 and is not",
    ),
    Case(
        "half a character of UTF-16 as UTF-8",
        "names",
        writes(lambda: archive(Part(b"models/rl_symbols/\xed\xa0\x80.pt", b"x", flags=UTF8))),
        REFUSED,
        r"\\xed.* is said to be UTF-8 and is not",
    ),
    Case(
        "another name in a field that some programs prefer",
        "names",
        writes(_other_name_in_a_field),
        ACCEPTED,
        "",
    ),
    Case(
        "a summary with a stamp that is no time",
        "names",
        writes(
            lambda: zip_bytes(
                [Part("training_summary_20259999_999999.json", good_summary()), good_parts()[1]]
            )
        ),
        REFUSED,
        "20259999_999999 is not a date and time; expected YYYYMMDD_HHMMSS",
    ),
    Case(
        "a summary with a command in its name",
        "names",
        writes(
            lambda: zip_bytes(
                [Part(f"training_summary_{STAMP}$(touch {SONG}).json", good_summary()), good_parts()[1]]
            )
        ),
        ACCEPTED,
        "",
    ),
)
