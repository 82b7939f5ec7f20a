"""HTTP that waits and tries again, for Alpaca's clients: below them, so that a page that failed is repeated alone.

Here: timeouts, repetition with growing pauses, the rate limit (its header, and a bucket of our own that keeps below
it), and what an answer that is none says in words. Not here: what is asked and what the pages hold (alpaca_bars.py).
"""

from __future__ import annotations

import io
import json
import logging
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from functools import cache
from urllib.parse import urlsplit

import requests
from requests.adapters import HTTPAdapter
from urllib3.exceptions import HTTPError

from postval_assets.core.failures import Rejected, Unavailable
from postval_assets.io.alpaca_keys import AlpacaKeys

_log = logging.getLogger(__name__)

TRIES = 6  # of one page; with the pauses below, half a minute
RATE_LIMITED_TRIES = 10  # answers 429 to one page
_PAUSES_S = (1.0, 2.0, 4.0, 8.0, 16.0)
_LONGEST_PAUSE_S = 120.0  # the reset header is at most a minute away; more is an error or another's clock
_WINDOW_S = 61.0  # a minute, and room for requests that overtake each other on the way
_PAGE_TIMEOUTS = 10  # a page may take that many timeouts as long as something comes
_CHUNK = 64 * 1024
_LARGEST_BODY = 64 * 1024 * 1024  # a full page of 10,000 bars has about 1.5 MB
_SAID = 200


@dataclass(frozen=True)
class Clock:
    """Time as it passes, and as it is called; seconds."""

    monotonic: Callable[[], float] = time.monotonic
    wall: Callable[[], float] = time.time
    sleep: Callable[[float], None] = time.sleep


class RefusedRequest(Rejected):
    """The server understood the request and will not answer it; ``said`` is the reason it gave."""

    def __init__(self, message: str, said: str) -> None:
        super().__init__(message)
        self.said = said


class TokenBucket:
    """``per_minute`` tokens, one for each request; a token comes back a minute after it was taken.

    So no minute, wherever it begins, has more requests. A bucket that fills evenly would let twice as many pass in its
    first minute.
    """

    def __init__(self, per_minute: int, clock: Clock) -> None:
        self._clock = clock
        self._taken: deque[float] = deque(maxlen=per_minute)
        self._closed_until = float("-inf")
        self._lock = threading.Lock()

    def take(self) -> None:
        """Wait for a token and take it."""
        with self._lock:
            now = self._clock.monotonic()
            full = len(self._taken) == self._taken.maxlen
            at = max(now, self._closed_until, self._taken[0] + _WINDOW_S if full else now)
            self._taken.append(at)
        if at > now:
            _log.info("Alpaca: the rate limit makes the next request wait %.0f s", at - now)
            self._clock.sleep(at - now)

    def close_for(self, seconds: float) -> None:
        """No token before that long: the server says that none is left."""
        with self._lock:
            self._closed_until = max(self._closed_until, self._clock.monotonic() + seconds)


@cache
def shared_bucket(per_minute: int) -> TokenBucket:
    """The bucket of this process: sources come and go, and the limit is the account's."""
    return TokenBucket(per_minute, Clock())


@dataclass(frozen=True)
class _Failure:
    """One try that brought nothing, and why."""

    why: str
    pause_s: float | None = None  # what the server asks for
    rate_limited: bool = False


class PatientAdapter(HTTPAdapter):
    """Sends each request until it is answered: with complete JSON, or with a refusal that will not change.

    What it returns is always a complete JSON object with status 200. Everything else is an exception: Unavailable,
    Rejected for the keys, RefusedRequest for other refusals.
    """

    def __init__(
        self, keys: AlpacaKeys, bucket: TokenBucket, timeout_s: float, clock: Clock, *, once: bool = False
    ) -> None:
        super().__init__()
        self._tries, self._limited_tries = (1, 1) if once else (TRIES, RATE_LIMITED_TRIES)
        self._page_timeouts = 1 if once else _PAGE_TIMEOUTS
        self._keys = keys
        self._bucket = bucket
        self._timeout_s = timeout_s
        self._clock = clock

    def send(
        self,
        request: requests.PreparedRequest,
        stream: bool = False,  # noqa: ARG002, FBT001, FBT002 - requests' signature
        timeout: object = None,  # noqa: ARG002
        verify: bool | str = True,  # noqa: FBT001, FBT002
        cert: object = None,
        proxies: Mapping[str, str] | None = None,
    ) -> requests.Response:
        """See the class; ``stream`` and ``timeout`` are this adapter's own."""
        host = urlsplit(request.url or "").netloc
        n_failed = n_limited = 0
        while True:
            self._bucket.take()
            done = self._try(request, verify=verify, cert=cert, proxies=proxies)
            if isinstance(done, requests.Response):
                return done
            n_limited += done.rate_limited
            n_failed += not done.rate_limited
            if n_failed == self._tries or n_limited == self._limited_tries:
                n_tries = n_failed + n_limited
                tried = f" in {n_tries} tries, the last time" if n_tries > 1 else ""
                raise Unavailable(f"Alpaca ({host}) did not answer a request{tried}: {done.why}")
            # Also where the header asks for less: one that never changes would use up all tries at once.
            growing = _PAUSES_S[min(n_failed + n_limited, len(_PAUSES_S)) - 1]
            pause = max(done.pause_s or 0.0, growing)
            _log.warning("Alpaca (%s): %s; the same page again in %.0f s", host, done.why, pause)
            self._clock.sleep(pause)

    def _try(self, request: requests.PreparedRequest, **how: object) -> requests.Response | _Failure:
        try:
            response = super().send(request, stream=True, timeout=(self._timeout_s, self._timeout_s), **how)  # type: ignore[arg-type]
            try:
                body = self._body(response)
            finally:
                response.close()
        except (requests.Timeout, TimeoutError):
            return _Failure(f"nothing came for {self._timeout_s:g} s")
        except (requests.ConnectionError, requests.exceptions.ChunkedEncodingError, HTTPError) as error:
            return _Failure(_broken(error, self._timeout_s))
        except requests.RequestException as error:
            # Its own words may repeat a proxy's password.
            raise Rejected(
                f"Alpaca ({urlsplit(request.url or '').netloc}) cannot be asked ({type(error).__name__}): are this "
                "machine's proxy settings right?"
            ) from None
        except OSError as error:  # such as a file of certificates that is not there
            return _Failure(_broken(error, self._timeout_s))
        if len(body) > _LARGEST_BODY:
            return _Failure(f"an answer of more than {_LARGEST_BODY // 2**20} MiB")
        return self._judged(response, body)

    def _body(self, response: requests.Response) -> bytes:
        """The whole body, or more than the largest; a server that sends a byte now and then is silent, too."""
        until = self._clock.monotonic() + self._page_timeouts * self._timeout_s
        parts = []
        size = 0
        while size <= _LARGEST_BODY and (part := response.raw.read1(_CHUNK, decode_content=True)):
            parts.append(part)
            size += len(part)
            if self._clock.monotonic() > until:
                raise TimeoutError
        return b"".join(parts)

    def _judged(self, response: requests.Response, body: bytes) -> requests.Response | _Failure:
        status, headers = response.status_code, response.headers
        if status == requests.codes.ok:
            if headers.get("X-RateLimit-Remaining") == "0":
                self._bucket.close_for(self._until_reset(headers) or 0.0)
            return _complete(response, body)
        if status == requests.codes.too_many_requests:
            return _Failure("HTTP 429, too many requests", self._until_reset(headers), rate_limited=True)
        if status >= 500 or status == requests.codes.request_timeout:
            return _Failure(f"HTTP {status}")
        said = _message(body.decode("utf-8", errors="replace"), self._keys)
        raise _refusal(status, said, urlsplit(response.url).netloc)

    def _until_reset(self, headers: Mapping[str, str]) -> float | None:
        """Seconds until the limit is lifted, by the server's own clock where it tells it; None where it is not said."""
        try:
            if "X-RateLimit-Reset" in headers:
                now = self._clock.wall()
                if "Date" in headers:
                    now = parsedate_to_datetime(headers["Date"]).timestamp()
                wait = float(headers["X-RateLimit-Reset"]) - now
            else:
                wait = float(headers["Retry-After"])
        except (KeyError, ValueError, OverflowError):
            return None
        if math.isnan(wait):
            return None
        # The header counts whole seconds, and a second early is once more 429.
        return min(max(wait + 1.0, 1.0), _LONGEST_PAUSE_S)


def patient_session(
    keys: AlpacaKeys, bucket: TokenBucket, *, timeout_s: float, clock: Clock, once: bool = False
) -> requests.Session:
    """A session whose every request goes through a PatientAdapter; with ``once``, nothing is tried again."""
    session = requests.Session()
    for scheme in ("https://", "http://"):
        session.mount(scheme, PatientAdapter(keys, bucket, timeout_s, clock, once=once))
    return session


def _complete(response: requests.Response, body: bytes) -> requests.Response | _Failure:
    """The answer with its body read; a failure where that is no JSON object."""
    try:
        content = json.loads(body)
    except (ValueError, RecursionError):
        return _Failure(f"an answer of {len(body)} bytes that is not JSON")
    if not isinstance(content, dict):
        return _Failure(f"JSON that is no object but {type(content).__name__}")
    whole = requests.Response()
    whole.status_code, whole.headers = response.status_code, response.headers
    whole.url, whole.request, whole.encoding = response.url, response.request, "utf-8"
    whole.raw = io.BytesIO(body)
    return whole


def _refusal(status: int, said: str, host: str) -> Rejected | Unavailable:
    if status == requests.codes.forbidden and "recent" in said:
        return Unavailable(
            f"Alpaca ({host}) does not show this account bars so recent ({said}): try again later, see whether this "
            "machine's clock is right, or set alpaca_feed to iex"
        )
    if status in (requests.codes.unauthorized, requests.codes.forbidden):
        return Rejected(
            f"Alpaca ({host}) refuses the keys (HTTP {status}: {said}): check APCA_API_KEY_ID and APCA_API_SECRET_KEY, "
            "or the file that ALPACA_KEYS_FILE names; data that the account may not see (alpaca_feed) is refused alike"
        )
    where = "" if status in (400, 422) else "; is POSTVAL_ALPACA_URL right?"
    return RefusedRequest(f"Alpaca ({host}) refuses a request (HTTP {status}: {said}){where}", said)


def _message(text: str, keys: AlpacaKeys) -> str:
    """What a server says in an answer that is a refusal, in one line, without the keys."""
    try:
        content = json.loads(text)
        said = str(content["message"])
    except (ValueError, TypeError, KeyError, RecursionError):
        said = text
    # After reading it, because JSON may write a character of a key in other ways.
    plain = keys.hide(" ".join(said.split()))
    return (ascii(plain)[1:-1] if not plain.isascii() else plain)[:_SAID] or "nothing more"


def _broken(error: Exception, timeout_s: float) -> str:
    """A connection's end in words; the libraries' own hold addresses of objects."""
    text = str(error)
    if "timed out" in text.lower():
        return f"nothing came for {timeout_s:g} s"
    if "NameResolution" in text or "getaddrinfo" in text:
        return "its name is not known to this machine's network"
    if "refused" in text.lower():
        return "the connection was refused"
    if "SSL" in text or "certificate" in text.lower():
        return "the connection could not be secured (certificate)"
    return f"the connection broke ({type(error).__name__})"
