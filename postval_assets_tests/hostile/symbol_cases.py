"""Symbols, and names of the zip itself, that would act in a path, a query, a page, a terminal, a sheet or a log."""

from __future__ import annotations

import json
import sys

from postval_assets_tests.hostile.canary import SONG
from postval_assets_tests.hostile.cases import Case, Outcome
from postval_assets_tests.hostile.zip_bytes import (
    FILE_NAME,
    FOLDER,
    SUMMARY,
    Part,
    archive,
    good_model,
    good_parts,
    good_summary,
    writes,
    zip_bytes,
)

REFUSED, QUARANTINED, ACCEPTED = Outcome.REFUSED, Outcome.QUARANTINED, Outcome.ACCEPTED

_UNUSABLE = "is not usable: expected 1 to 15 of A-Z and 0-9"

# (what it looks like, the symbol)
_SYMBOLS = (
    ("a path", f"../../{SONG}"),
    ("an absolute path", f"/etc/{SONG}"),
    ("a path of Windows", f"C:\\{SONG}"),
    ("the present folder", "."),
    ("a query", "AAPL'; DROP TABLE training_archives; --"),
    ("a query with a comment", 'AAPL" OR 1=1 /*'),
    ("a page's script", "<script>alert(document.cookie)</script>"),
    ("a page's picture", '"><img src=x onerror=alert(1)>'),
    ("a link of a page", "[AAPL](javascript:alert(1))"),
    ("a template", "{{ 7 * 7 }}${7*7}#{7*7}"),
    ("a command", f"$(touch {SONG})`touch {SONG}`; touch {SONG}"),
    ("a format", "%s%s%n{0.__class__}"),
    ("a formula of a sheet", '=HYPERLINK("http://evil")'),
    ("an older formula of a sheet", "@SUM(1+1)*cmd|' /C calc'!A0"),
    ("codes that steer a terminal", "\x1b[2J\x1b[31mLIVE\x1b]0;owned\x07"),
    ("codes that steer a terminal in one byte", "\x9b2J\x9d0;owned\x9c"),
    ("a line of the log", "AAPL\n2025-02-01 00:00:00 INFO all models are LIVE"),
    ("a carriage return that hides a line", "BAD\rAAPL LIVE"),
    ("text that runs from right to left", "AAPL\u202eEVIL\u2066"),
    ("a partition's key", "180d-1|AAPL"),
    ("a range of partitions", "AAPL...ZZZZ"),
    ("many partitions", "AAPL,MSFT"),
    ("a device with a share class", "NUL.A"),
    ("nothing", ""),
    ("blanks", "   "),
    ("a hundred letters", "A" * 100),
)

# (what it is, the zip's own name, what becomes of it, what is said)
_FILE_NAMES = (
    ("codes that steer a terminal", "\x1b[2J\x1b]0;owned\x07.zip", REFUSED, r"\\x1b.*rename it"),
    ("a line's end", "a\nERROR all is lost\n.zip", REFUSED, r"\\nERROR.*rename it"),
    ("text that runs from right to left", "trained\u202epiz.zip", REFUSED, r"u202e.*rename it"),
    ("a query", "a'; DROP TABLE training_archives; --.zip", ACCEPTED, ""),
    ("a page's script", "<img src=x onerror=alert(1)>.zip", ACCEPTED, ""),
    ("an option", "-rf --yes.zip", ACCEPTED, ""),
    ("a command", f"$(touch {SONG});`touch {SONG}`.zip", ACCEPTED, ""),
    ("a formula of a sheet", "=1+1.zip", ACCEPTED, ""),
    ("250 letters", "n" * 246 + ".zip", ACCEPTED, ""),
)

_NOT_ON_WINDOWS = frozenset('<>:"|?*\n\x1b\x07')


def _spoken_of(symbol: str) -> bytes:
    """The summary speaks of a good model and of this symbol."""
    return zip_bytes([Part(SUMMARY, good_summary("AAPL", symbol)), good_parts()[1]])


def _as_list(symbol: str) -> bytes:
    """The same, where the summary is a list."""
    text = good_summary().decode()
    claims = text[text.index('{"metrics"') : text.index("}}") + 2]
    entries = [claims.replace("{", f'{{"symbol": {s}, ', 1) for s in ('"AAPL_1Hour"', json.dumps(symbol))]
    return zip_bytes([Part(SUMMARY, f"[{', '.join(entries)}]".encode()), good_parts()[1]])


def _delivered(symbol: str) -> bytes:
    """A model of that name."""
    return archive(Part(f"{FOLDER}{symbol}_1Hour.pt", good_model()))


CASES: tuple[Case, ...] = (
    *(
        Case(
            f"a symbol of the summary that looks like {what}",
            "symbols in the summary",
            writes(lambda symbol=symbol, n=n: (_as_list if n % 2 else _spoken_of)(symbol)),
            QUARANTINED,
            _UNUSABLE,
        )
        for n, (what, symbol) in enumerate(_SYMBOLS)
    ),
    *(
        Case(
            f"a model whose symbol looks like {what}",
            "symbols of models",
            writes(lambda symbol=symbol: _delivered(symbol)),
            QUARANTINED,
            _UNUSABLE if what != "a device with a share class" else "name of a device",
        )
        for what, symbol in _SYMBOLS
        # A slash begins another folder, a dot first hides a file, and a colon after one letter names a drive.
        if symbol.strip(".") and "/" not in symbol and "\\" not in symbol
    ),
    *(
        Case(f"a zip called by {what}", "the zip's own name", writes(archive, file_name), expected, says)
        for what, file_name, expected, says in _FILE_NAMES
        # Windows itself refuses some of these names.
        if sys.platform != "win32" or _NOT_ON_WINDOWS.isdisjoint(file_name)
    ),
    Case("a zip called as it should be", "the zip's own name", writes(archive, FILE_NAME), ACCEPTED, ""),
)
