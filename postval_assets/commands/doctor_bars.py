"""``postval doctor`` on bars: where they come from, how old they are, and what is wrong with them.

Here: one function a question, as in doctor.py. Not here: the checks themselves (pipeline/bar_checks.py).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import timedelta
from urllib.parse import urlsplit

from postval_assets.commands.finding import Finding, Severity
from postval_assets.core.failures import Rejected, Unavailable
from postval_assets.io.bar_source import RemoteBarSource, is_remote
from postval_assets.pipeline.market import require_one_kind_of_bars
from postval_assets.pipeline.platform import Platform

_OLD_BARS = timedelta(days=7)
_SHOWN = 5
_THIS_MACHINE = ("127.0.0.1", "localhost", "::1")


def source_of_bars(platform: Platform) -> Iterator[Finding]:
    """Where bars come from, and whether it has any or answers."""
    spec = platform.settings.bars_source
    source = platform.bar_source()
    symbols = source.symbols()
    if is_remote(source):
        yield _alpaca(platform)
        yield _reached(source)
    elif symbols:
        shown = ", ".join(symbols[:8]) + (", ..." if len(symbols) > 8 else "")
        yield Finding(Severity.OK, "bars source", f"{spec}: {len(symbols)} symbols ({shown})")
    else:
        mend = "put SYMBOL_1Hour.parquet (or .csv) files there, or set POSTVAL_BARS_SOURCE"
        yield Finding(Severity.ERROR, "bars source", f"{spec} holds no symbols", mend)


def kind_of_bars(platform: Platform) -> Iterator[Finding]:
    """Raises Rejected where stored bars and those of the source are of two kinds, simulated and real."""
    require_one_kind_of_bars(platform)
    yield from ()


def _alpaca(platform: Platform) -> Finding:
    """Where bars are asked for, and that there are keys."""
    s = platform.settings
    host = s.alpaca_url or "Alpaca's own host"
    plain = (s.alpaca_url or "").startswith("http:") and urlsplit(
        s.alpaca_url or ""
    ).hostname not in _THIS_MACHINE
    return Finding(
        Severity.NOTE if plain else Severity.OK,
        "bars source",
        f"alpaca: {host}, keys are there, feed {s.alpaca_feed or 'the best of the account'}, "
        f"at most {s.alpaca_requests_per_minute} requests a minute",
        "the keys go there unencrypted: use https in POSTVAL_ALPACA_URL" if plain else None,
    )


def _reached(source: RemoteBarSource) -> Finding:
    """Whether the source answers, and takes the keys: only a request tells, so one is made."""
    try:
        source.reach()
    except Rejected as error:
        return Finding(Severity.ERROR, source.name, str(error), "until then no bars come from there")
    except Unavailable as error:
        mend = "is this machine's network up, and POSTVAL_ALPACA_URL right? Stored bars are used meanwhile"
        return Finding(Severity.ERROR, source.name, f"not reachable: {error}", mend)
    return Finding(Severity.OK, source.name, "reachable: it answers, and takes the keys")


def stored_bars(platform: Platform) -> Iterator[Finding]:
    """What the warehouse has: ages, verdicts of the checks, and loads that were refused."""
    yield from _ages(platform)
    yield from _verdicts(platform)
    yield from _refused(platform)


def _ages(platform: Platform) -> Iterator[Finding]:
    """A decision on old bars looks like any other: say how old the newest bar of each symbol is."""
    newest = platform.warehouse.rows(
        "SELECT symbol, max(ts) AS ts FROM bars GROUP BY symbol ORDER BY ts, symbol"
    )
    if not newest:
        return
    old = [r for r in newest if platform.now() - r["ts"] > _OLD_BARS]
    shown = _some([f"{r['symbol']} {r['ts']:%Y-%m-%d}" for r in old])
    yield Finding(
        Severity.NOTE if old else Severity.OK,
        "bars",
        f"{len(newest)} symbols, newest bars from {newest[0]['ts']:%Y-%m-%d} to {newest[-1]['ts']:%Y-%m-%d}"
        + (f"; over {_OLD_BARS.days} days old: {shown}" if old else ""),
        "bring the source up to date, then postval backfill --as-of now" if old else None,
    )


def _verdicts(platform: Platform) -> Iterator[Finding]:
    """What the checks of bars said after the last load."""
    rows = platform.warehouse.rows(
        """
        SELECT symbol,
               list(timeframe || ' ' || check_name ORDER BY timeframe, check_name) FILTER (WHERE severity = 'ERROR')
                 AS errors,
               bool_or(severity = 'ERROR' AND check_name <> 'stale') AS stops,
               bool_or(severity = 'WARN') AS warns
        FROM bar_quality WHERE severity <> 'OK' GROUP BY symbol ORDER BY symbol
        """
    )
    if not rows:
        return
    stopped = [f"{r['symbol']} ({', '.join(r['errors'])})" for r in rows if r["stops"]]
    # Bars that only end early stop nothing: what is computed on them is of their time.
    early = [f"{r['symbol']} (stale)" for r in rows if r["errors"] and not r["stops"]]
    n_warned = sum(bool(r["warns"]) for r in rows)
    parts = [
        *([f"ERROR, so not evaluated: {_some(stopped)}"] if stopped else []),
        *([f"ERROR: {_some(early)}"] if early else []),
        f"WARN: {n_warned} symbol(s)",
    ]
    yield Finding(
        Severity.NOTE if stopped or early else Severity.OK,
        "bar quality",
        "; ".join(parts),
        "SELECT * FROM bar_quality says where: mend these bars, then postval backfill"
        if stopped or early
        else None,
    )


def _refused(platform: Platform) -> Iterator[Finding]:
    rows = platform.warehouse.rows(
        """
        SELECT symbol, timeframe, source, reason FROM bar_loads WHERE status = 'REJECTED' ORDER BY symbol, timeframe
        """
    )
    for r in rows[:_SHOWN]:
        yield Finding(
            Severity.NOTE,
            "bars refused",
            f"{r['symbol']} {r['timeframe']} from {r['source']}: {r['reason']}",
            f"mend it, then postval bars --symbols {r['symbol']}",
        )
    if len(rows) > _SHOWN:
        more = f"and {len(rows) - _SHOWN} more series"
        yield Finding(
            Severity.NOTE, "bars refused", more, "SELECT * FROM bar_loads WHERE status = 'REJECTED'"
        )


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:_SHOWN]) + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")
