"""The demo's requests: what is sent, what must come back, and what came back."""

import http.client
import json
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from mixer.demo.stop import StopSignal
from mixer.demo.tokens import Issuer
from mixer.errors import StartError

USER_LIMIT = 5  # requests a minute, policies/limits/demo.yaml
REPORTS_LIMIT = 2  # likewise, all paths /reports… together
_TIMEOUT = 10.0  # seconds for one answer
_WINDOW_LEFT = 10  # seconds; the requests that count against one limit take well under one


@dataclass(frozen=True, slots=True)
class Expected:
    """What a request must come to. `status`: the HTTP status, or open and closed for a connection."""

    status: str
    decision: str  # allowed | denied
    reason: str
    left: int | None = None  # of the limit with the least; None: the request was not counted
    limit: str | None = None  # that limit's name
    over: bool = False


@dataclass(frozen=True, slots=True)
class HttpRequest:
    caller: str
    method: str
    path: str
    token: str | None
    expected: Expected

    @property
    def what(self) -> str:
        return f"{self.method} {self.path}"


@dataclass(frozen=True, slots=True)
class Connection:
    """A TCP connection from an address of this machine: all of 127.0.0.0/8 are."""

    caller: str
    source: str
    expected: Expected

    @property
    def what(self) -> str:
        return "TCP connection"


Request = HttpRequest | Connection


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came back. `key` finds the record: a request's id, or a connection's source."""

    request: Request
    status: str
    seconds: float
    key: str
    limit: int | None = None  # requests that the limit allows in its window
    left: int | None = None  # of them
    reset: int | None = None  # seconds until the window ends
    upstream_headers: dict[str, str] | None = None  # as the upstream saw them; None: it was not reached


def requests(issuer: Issuer) -> list[Request]:
    """The sample traffic. Root comes first of those that are counted, see `send_all`."""
    alice, root = issuer.token("alice"), issuer.token("root")
    forged = Issuer().token("root")  # signed with a key that the policy does not know
    expired = issuer.token("alice", lifetime=-60)

    def http(caller: str, what: str, token: str | None, expected: Expected) -> HttpRequest:
        method, path = what.split()
        return HttpRequest(caller, method, path, token, expected)

    per_user = [Expected("200", "allowed", "ok", left, "per-user") for left in reversed(range(USER_LIMIT))]
    reports = [Expected("200", "allowed", "ok", left, "reports") for left in reversed(range(REPORTS_LIMIT))]
    return [
        http("no token", "GET /api/orders", None, Expected("401", "denied", "token_missing")),
        http("forged token", "GET /api/orders", forged, Expected("401", "denied", "token_invalid")),
        http("expired token", "GET /api/orders", expired, Expected("401", "denied", "token_invalid")),
        http(
            "bob, no role", "GET /api/orders", issuer.token("bob"), Expected("403", "denied", "role_missing")
        ),
        http("root", "GET /admin/users", root, per_user[0]),
        *(http("root", "GET /reports/day", root, expected) for expected in reports),
        http("root", "GET /reports/week", root, Expected("429", "allowed", "ok", 0, "reports", over=True)),
        http("alice", "GET /admin/users", alice, Expected("403", "denied", "role_lacks_path")),
        http("alice", "POST /api/orders", alice, per_user[0]),
        *(http("alice", "GET /api/orders", alice, expected) for expected in per_user[1:]),
        http("alice", "GET /api/orders", alice, Expected("429", "allowed", "ok", 0, "per-user", over=True)),
        Connection("127.0.0.1", "127.0.0.1", Expected("open", "allowed", "ok")),
        Connection("127.0.0.2", "127.0.0.2", Expected("closed", "denied", "source_unknown")),
    ]


def send_all(
    items: Sequence[Request],
    http_address: str,
    tcp_address: str,
    stop: StopSignal,
    progress: Callable[[str], None],
) -> Iterator[Outcome]:
    """Send one after the other. Raises `StartError` where Envoy does not answer.

    Windows are aligned to the clock. If the first answer that was counted says that its window is about to
    end, wait for the next, so that alice's requests fall into one.
    """
    connection = http.client.HTTPConnection(http_address, timeout=_TIMEOUT)
    looked = False
    try:
        for item in items:
            stop.check()
            progress(f"sending {item.what} as {item.caller}")
            try:
                outcome = (
                    _send(connection, item) if isinstance(item, HttpRequest) else _connect(tcp_address, item)
                )
            except (OSError, http.client.HTTPException) as error:
                raise StartError(
                    f"{item.what} as {item.caller}: no answer from Envoy ({error or type(error).__name__})"
                ) from error
            if outcome.reset is not None and not looked:
                looked = True
                if outcome.reset < _WINDOW_LEFT:
                    progress(
                        f"waiting {outcome.reset} s for the next minute, so that the limit counts from nought"
                    )
                    stop.sleep(outcome.reset + 1)
            yield outcome
    finally:
        connection.close()


def _send(connection: http.client.HTTPConnection, item: HttpRequest) -> Outcome:
    headers = {} if item.token is None else {"authorization": f"Bearer {item.token}"}
    start = time.perf_counter()
    connection.request(item.method, item.path, headers=headers)
    response = connection.getresponse()
    body = response.read()
    seconds = time.perf_counter() - start
    return Outcome(
        request=item,
        status=str(response.status),
        seconds=seconds,
        key=response.headers.get("x-request-id", ""),
        limit=_number(response.headers.get("x-ratelimit-limit", "").partition(",")[0]),
        left=_number(response.headers.get("x-ratelimit-remaining", "")),
        reset=_number(response.headers.get("x-ratelimit-reset", "")),
        upstream_headers=_seen_by_upstream(body),
    )


def _seen_by_upstream(body: bytes) -> dict[str, str] | None:
    """The headers that the demo's upstream told of; None for an answer that is not its own."""
    try:
        document = json.loads(body)
    except ValueError:
        return None
    return document["headers"] if isinstance(document, dict) and "upstream" in document else None


def _connect(address: str, item: Connection) -> Outcome:
    host, _, port = address.rpartition(":")
    start = time.perf_counter()
    with socket.create_connection((host, int(port)), _TIMEOUT, source_address=(item.source, 0)) as connection:
        key = "{}:{}".format(*connection.getsockname())
        connection.sendall(b"ping")
        try:
            echo = connection.recv(16)
        except ConnectionError:
            echo = b""
    return Outcome(item, "open" if echo == b"ping" else "closed", time.perf_counter() - start, key)


def _number(text: str) -> int | None:
    return int(text) if text.isdecimal() else None
