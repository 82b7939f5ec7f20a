"""A real HTTP server on loopback that answers for bars as Alpaca's Market Data API does, and fails when told to.

Pages as Alpaca makes them: sorted by symbol, then time; ``limit`` over all symbols together; ``next_page_token`` says
where to go on. Every answer with bars is held against the API's own description where that file is present.
"""

from __future__ import annotations

import base64
import gzip
import json
import threading
import time
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self
from urllib.parse import parse_qs, unquote, urlsplit

import numpy as np

from postval_assets.core.bars import Bars

DESCRIPTION = Path(__file__).resolve().parents[3] / "shared" / "data" / "alpaca" / "market-data-api.json"
KEY_ID, SECRET = "PKTESTKEYIDTESTKEYID", "tEsTsEcReTtEsTsEcReTtEsTsEcReTtEsTsEcReT"
Bar = dict[str, Any]


class Fault(StrEnum):
    """What the server does to a request instead of answering it; one request each."""

    RATE_LIMIT = "429 with X-RateLimit-Reset"
    ERROR_500 = "500"
    HANG = "never answers"
    HANG_IN_PAGE = "sends half a page, then nothing"
    BROKEN_JSON = "200 whose JSON is cut, with a matching length"
    NO_PAGE = "200 whose JSON is no page of bars"
    NULL_BARS = "200 with bars: null and no token"
    CUT = "closes the connection in the middle of a page"
    RESET = "closes the connection before the first byte"
    RECENT_SIP = "403: recent SIP data"
    FORBIDDEN = "403: forbidden"
    UNAUTHORIZED = "401"
    ECHO_KEYS = "403 whose message repeats the request's headers"


@dataclass(frozen=True)
class Request:
    """A request as it came in."""

    path: str
    symbols: tuple[str, ...]
    params: Mapping[str, str]
    page_token: str | None
    key_id: str | None
    secret: str | None
    length: int  # characters of the request's target
    fault: Fault | None  # what was done to it


@dataclass
class AlpacaServer:
    """Serves on loopback inside a ``with``.

    Attributes:
        bars: Alpaca's bars (keys t, o, h, l, c, v, n, vw; sorted by t) by Alpaca's symbol, or a function from a symbol
            to them, None for one that Alpaca does not know. They are served in whatever timeframe is asked for, but
            for 1Month: one of them a month.
        faults: by number of the request (from 0), or in the order in which requests come; None there means none.
        reset_after_s: what a 429's header says, seconds from its Date.
        left: requests of this minute, told in each answer's headers where given.
        now: what Alpaca's clock says; where given, stock bars of the last 15 minutes are refused with 403.
        keys: accepted (key id, secret); any where None.
        page_size: bars in a page at most, below the limit that is asked for.
        validate: whether answers are held against the API's description.
        packed: answers are compressed and sent in chunks, without a length.
    """

    bars: Mapping[str, Sequence[Bar]] | Callable[[str], Sequence[Bar] | None]
    faults: Mapping[int, Fault] | Sequence[Fault | None] = ()
    reset_after_s: int = 7
    left: int | None = None
    now: datetime | None = None
    keys: tuple[str, str] | None = None
    page_size: int = 10_000
    validate: bool = True
    packed: bool = False
    requests: list[Request] = field(default_factory=list, init=False)
    url: str = field(default="", init=False)

    def __enter__(self) -> Self:
        self.released = threading.Event()
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            packed = server.packed

            def do_GET(self) -> None:
                server._answer(self)

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - http.server's name
                return

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._http.daemon_threads = True
        self._lock = threading.Lock()
        self.url = f"http://127.0.0.1:{self._http.server_address[1]}"
        self._thread = threading.Thread(
            target=self._http.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True
        )
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.released.set()
        self._http.shutdown()
        self._thread.join()
        self._http.server_close()

    @property
    def pages(self) -> list[Request]:
        """The requests that were answered."""
        return [r for r in self.requests if r.fault in (None, Fault.NULL_BARS)]

    def series(self, symbol: str) -> Sequence[Bar] | None:
        """Alpaca's bars of a symbol, None for an unknown one."""
        return self.bars(symbol) if callable(self.bars) else self.bars.get(symbol)

    def _answer(self, handler: BaseHTTPRequestHandler) -> None:
        url = urlsplit(handler.path)
        params = {name: values[-1] for name, values in parse_qs(url.query).items()}
        with self._lock:
            number = len(self.requests)
            if isinstance(self.faults, Mapping):
                fault = self.faults.get(number)
            else:
                fault = self.faults[number] if number < len(self.faults) else None
            request = Request(
                path=unquote(url.path),
                symbols=tuple(params.get("symbols", "").split(",")),
                params=params,
                page_token=params.get("page_token"),
                key_id=handler.headers.get("APCA-API-KEY-ID"),
                secret=handler.headers.get("APCA-API-SECRET-KEY"),
                length=len(handler.path),
                fault=fault,
            )
            self.requests.append(request)
        if fault is not None:
            self._misbehave(handler, request, fault)
            return
        status, body = self._page(request)
        left = None if self.left is None else max(self.left - number - 1, 0)
        _send(handler, status, json.dumps(body).encode(), {} if left is None else self._limits(left))

    def _page(self, request: Request) -> tuple[int, dict[str, Any]]:
        """Status and body of a request as Alpaca answers it."""
        if self.keys is not None and (request.key_id, request.secret) != self.keys:
            return 403, {"message": "forbidden."}
        crypto = request.path == "/v1beta3/crypto/us/bars"
        if not crypto and request.path != "/v2/stocks/bars":
            return 404, {"message": "Not Found"}
        for symbol in request.symbols:
            if ("/" in symbol) is not crypto or not symbol.replace("/", "").replace(".", "").isalnum():
                return 400, {"message": f"code=400, message=invalid symbol: {symbol}"}
        start, end = (_instant(request.params[name]) for name in ("start", "end"))
        if not crypto and self.now is not None and end > self.now - timedelta(minutes=15):
            return 403, {"message": "subscription does not permit querying recent SIP data"}
        limit = min(int(request.params.get("limit", "1000")), self.page_size)
        body = self._bars_from(request, f"{start:%Y-%m-%dT%H:%M:%SZ}", f"{end:%Y-%m-%dT%H:%M:%SZ}", limit)
        if self.validate:
            schema = "crypto_bars_resp" if crypto else "stock_bars_resp"
            assert (wrong := deviations(body, schema)) == [], wrong
        return 200, body

    def _bars_from(self, request: Request, start: str, end: str, limit: int) -> dict[str, Any]:
        symbols = sorted(set(request.symbols))
        first, after = 0, ""
        if request.page_token is not None:
            at, _, after = base64.b64decode(request.page_token).decode().partition("|")
            first = symbols.index(at)
        page: dict[str, list[Bar]] = {}
        token, room = None, limit
        monthly = request.params["timeframe"] == "1Month"
        for symbol in symbols[first:]:
            series = self.series(symbol) or ()
            if monthly:
                series = list({_time_of(bar)[:7]: bar for bar in series}.values())
            low = bisect_left(series, start, key=_time_of)
            if after and symbol == symbols[first]:
                low = max(low, bisect_right(series, after, key=_time_of))
            high = bisect_right(series, end, key=_time_of)
            if high <= low:
                continue
            if room == 0:
                token = f"{symbol}|"
                break
            taken = series[low : min(high, low + room)]
            page[symbol] = list(taken)
            room -= len(taken)
            if low + len(taken) < high:
                token = f"{symbol}|{_time_of(taken[-1])}"
                break
        encoded = base64.b64encode(token.encode()).decode() if token is not None else None
        return {"bars": page, "next_page_token": encoded}

    def _misbehave(self, handler: BaseHTTPRequestHandler, request: Request, fault: Fault) -> None:
        if fault in _REFUSALS:
            status, message = _REFUSALS[fault]
            _send(handler, status, json.dumps({"message": message}).encode())
        elif fault is Fault.RATE_LIMIT:
            _send(handler, 429, b'{"message": "too many requests."}', self._limits(0))
        elif fault is Fault.ECHO_KEYS:
            said = json.dumps({"message": f"no: {request.key_id} {request.secret}"}).encode()
            _send(handler, 403, said)
        elif fault in _BODIES:
            _send(handler, 200, _BODIES[fault])
        else:
            self._break_off(handler, request, fault)

    def _limits(self, left: int) -> dict[str, str]:
        at = int(time.time()) + self.reset_after_s
        return {"X-RateLimit-Limit": "200", "X-RateLimit-Remaining": str(left), "X-RateLimit-Reset": str(at)}

    def _break_off(self, handler: BaseHTTPRequestHandler, request: Request, fault: Fault) -> None:
        """A page that comes in part or not at all."""
        body = json.dumps(self._page(request)[1]).encode()
        half = len(body) // 2
        if fault is Fault.BROKEN_JSON:
            _send(handler, 200, body[:half])
            return
        handler.close_connection = True
        if fault in (Fault.CUT, Fault.HANG_IN_PAGE):
            _send(handler, 200, body, send=half)
            handler.close_connection = True
        if fault in (Fault.HANG, Fault.HANG_IN_PAGE):
            self.released.wait()


_REFUSALS: Mapping[Fault, tuple[int, str]] = {
    Fault.ERROR_500: (500, "internal server error"),
    Fault.RECENT_SIP: (403, "subscription does not permit querying recent SIP data"),
    Fault.FORBIDDEN: (403, "forbidden."),
    Fault.UNAUTHORIZED: (401, "unauthorized."),
}
_BODIES: Mapping[Fault, bytes] = {
    Fault.NULL_BARS: b'{"bars": null, "next_page_token": null}',
    Fault.NO_PAGE: b'{"bars": ["AAPL"], "next_page_token": null}',
}


def _send(
    handler: BaseHTTPRequestHandler,
    status: int,
    body: bytes,
    headers: Mapping[str, str] | None = None,
    *,
    send: int | None = None,
) -> None:
    """Answer, or only the first ``send`` bytes of a body that is announced whole."""
    how = {"Content-Length": str(len(body))}
    content = body[:send]
    if getattr(handler, "packed", False):
        how = {"Transfer-Encoding": "chunked", "Content-Encoding": "gzip"}
        zipped = gzip.compress(body)
        content = zipped if send is None else zipped[: len(zipped) // 2]
        content = b"%x\r\n%s\r\n" % (len(content), content) + (b"0\r\n\r\n" if send is None else b"")
    try:
        handler.send_response(status)
        for name, value in {**how, **(headers or {}), "Content-Type": "application/json"}.items():
            handler.send_header(name, value)
        handler.end_headers()
        handler.wfile.write(content)
    except OSError:  # the client has gone, which some of the tests mean it to
        handler.close_connection = True


def _time_of(bar: Bar) -> str:
    time_of: str = bar["t"]
    return time_of


def _instant(text: str) -> datetime:
    moment = datetime.fromisoformat(text)
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)


def alpaca_bars_of(bars: Bars) -> list[Bar]:
    """Bars as Alpaca writes them."""
    times = np.datetime_as_string(bars.ts, unit="s").tolist()
    return [
        {"t": f"{t}Z", "o": o, "h": h, "l": low, "c": c, "v": v, "n": 1, "vw": c}
        for t, o, h, low, c, v in zip(
            times,
            bars.open.tolist(),
            bars.high.tolist(),
            bars.low.tolist(),
            bars.close.tolist(),
            [int(v) if float(v).is_integer() else v for v in np.nan_to_num(bars.volume).tolist()],
            strict=True,
        )
    ]


@cache
def _schemas() -> Mapping[str, Any] | None:
    """The answers' schemas from the API's description, None where the file is not there."""
    if not DESCRIPTION.is_file():
        return None
    schemas: Mapping[str, Any] = json.loads(DESCRIPTION.read_text(encoding="utf-8"))["components"]["schemas"]
    return schemas


def deviations(body: object, schema: str) -> list[str]:
    """Where an answer is not what the API's description says; none where the description is not there."""
    schemas = _schemas()
    return [] if schemas is None else list(_deviations(body, schemas[schema], schemas, schema))[:5]


_TYPES: Mapping[str, type | tuple[type, ...]] = {
    "object": dict,
    "array": list,
    "string": str,
    "number": (int, float),
    "integer": int,
}


def _deviations(value: object, schema: Mapping[str, Any], schemas: Mapping[str, Any], at: str) -> list[str]:
    """What of OpenAPI 3.0 the bars' schemas use: $ref, type, nullable, required, properties, items, time formats."""
    if "$ref" in schema:
        schema = schemas[schema["$ref"].rpartition("/")[2]]
    if value is None:
        return [] if schema.get("nullable") else [f"{at} is null"]
    kind = schema.get("type")
    if kind is not None and (not isinstance(value, _TYPES[kind]) or isinstance(value, bool)):
        return [f"{at} is {value!r}, no {kind}"]
    if isinstance(value, dict):
        return _deviations_inside(value, schema, schemas, at)
    if isinstance(value, list):
        return [
            d
            for i, inner in enumerate(value)
            for d in _deviations(inner, schema["items"], schemas, f"{at}[{i}]")
        ]
    if isinstance(value, str) and schema.get("format") == "date-time":
        try:
            _instant(value)
        except ValueError:
            return [f"{at} is {value!r}, no time"]
    return []


def _deviations_inside(
    value: Mapping[str, object], schema: Mapping[str, Any], schemas: Mapping[str, Any], at: str
) -> list[str]:
    found = [f"{at} has no {name}" for name in schema.get("required", ()) if name not in value]
    known, more = schema.get("properties", {}), schema.get("additionalProperties")
    for name, inner in value.items():
        if name not in known and more is None:
            found.append(f"{at} has {name}")
        else:
            found += _deviations(inner, known.get(name, more), schemas, f"{at}.{name}")
    return found
