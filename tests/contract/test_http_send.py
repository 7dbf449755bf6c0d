"""`http.send` and `net.lookup_ip_addr` in the embedded engine: the answers of a real OPA, and a loop that stays free.

Both engines ask the same server, which notes what it was asked.
"""

# ruff: noqa: E501, UP031 (a table: a snippet a line)

import asyncio
import gzip
import json
import re
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from mixer import config
from mixer.errors import DecisionError, PolicyError
from mixer.policy.engine import Evaluation, PolicyEngine
from mixer.policy.opa import OpaEngine
from mixer.policy.program import Program
from mixer.policy.regorus import EmbeddedEngine
from mixer.policy.sources import Module, Sources
from tests.components import processes
from tests.components.processes import Opa
from tests.contract.test_rego import FAILED, UNDEFINED, exact

Answer = Callable[[str], Any]


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: "Peer"

    def do_GET(self) -> None:
        body = self.rfile.read(int(self.headers.get("content-length") or 0))
        path, _, query = self.path.partition("?")
        self.server.asked.append(f"{self.command} {self.path}")
        if path == "/slow":
            self.server.asked_slowly.set()
            self.server.released.wait(20)
        headers: dict[str, str] = {"Content-Type": "application/json"}
        status, reply = 200, b"[]"
        if path == "/echo":
            told = {name.lower(): value for name, value in self.headers.items()}
            for name in ("user-agent", "connection"):
                told.pop(name, None)
            reply = json.dumps(
                {"method": self.command, "body": body.decode(), "headers": told, "query": query}
            ).encode()
        elif path == "/body":
            reply, headers["Content-Type"] = body, self.headers.get("x-type", "")
        elif path == "/status":
            status = int(query)
        elif path == "/redirect":
            status, headers["Location"] = 302, "/echo?redirected"
        elif path == "/gzip":
            reply, headers["Content-Encoding"] = gzip.compress(b'{"a": 1}'), "gzip"
        elif path == "/large":
            reply = json.dumps("x" * 2_000_000).encode()
        elif path == "/number":
            reply = b'{"n": 123456789012345678901234567890}'
        elif path == "/cached":
            headers |= {"Cache-Control": query, "ETag": '"1"', "Date": formatdate(usegmt=True)}
            status, reply = (304, b"") if self.headers.get("if-none-match") else (200, b'"kept"')
        self.send_response(status)
        self.send_header("X-Two", "1")
        self.send_header("X-Two", "2")
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(reply)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(reply)

    do_POST = do_PUT = do_DELETE = do_HEAD = do_PATCH = do_GET  # noqa: N815 (names of the library)

    def log_message(self, *_: object) -> None:
        pass


class Peer(ThreadingHTTPServer):
    """A server that policies ask."""

    daemon_threads = True

    def __init__(self, context: ssl.SSLContext | None = None) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.asked: list[str] = []
        self.asked_slowly, self.released = threading.Event(), threading.Event()
        if context is not None:
            self.socket = context.wrap_socket(self.socket, server_side=True)
        self.url = f"http{'s' if context else ''}://127.0.0.1:{self.server_port}"

    def handle_error(self, *_: object) -> None:
        pass  # a caller that hangs up, as some of these do


def serving(peer: Peer) -> Iterator[Peer]:
    threading.Thread(target=peer.serve_forever, args=(0.02,), daemon=True).start()
    yield peer
    peer.released.set()
    peer.shutdown()
    peer.server_close()


@pytest.fixture
def peer() -> Iterator[Peer]:
    yield from serving(Peer())


@pytest.fixture(scope="module")
def identity() -> tuple[str, str]:
    """A certificate for 127.0.0.1 and mixer.test that signs itself, and its key, as PEM."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "mixer.test")])
    now = datetime.now(UTC)
    names = [x509.IPAddress(ip_address("127.0.0.1")), x509.DNSName("mixer.test")]
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    secret = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return certificate.public_bytes(serialization.Encoding.PEM).decode(), secret.decode()


@pytest.fixture
def secure(identity: tuple[str, str], tmp_path: Path) -> Iterator[Peer]:
    """A server that asks its callers for a certificate."""
    (tmp_path / "cert.pem").write_text(identity[0])
    (tmp_path / "key.pem").write_text(identity[1])
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "cert.pem", tmp_path / "key.pem")
    context.load_verify_locations(tmp_path / "cert.pem")
    context.verify_mode = ssl.CERT_OPTIONAL
    yield from serving(Peer(context))


@pytest.fixture(scope="module")
def opa() -> Iterator[Opa]:
    with processes.opa() as server:
        yield server


def embedded(rules: str, **settings: Any) -> EmbeddedEngine:
    loaded = Sources((Module("p.rego", f"package p\n\n{rules}\n"),), {}, "")
    policy = config.Policy(
        decision="p/x", http=config.Http(**settings), max_evaluation="10s"
    )  # peers' time is in it
    return EmbeddedEngine(policy, loaded=loaded)


async def decided(engine: PolicyEngine, timeout: float | None = None) -> Any:
    try:
        answer = engine.evaluate(b"{}", timeout)
        evaluation = answer if isinstance(answer, Evaluation) else await answer
    except DecisionError as error:
        return {"undefined": UNDEFINED, "evaluation": FAILED}.get(error.reason, error.reason)
    return json.loads(evaluation.decision)


def decide(engine: PolicyEngine, times: int = 1) -> list[Any]:
    async def run() -> list[Any]:
        await engine.start()
        try:
            return [await decided(engine) for _ in range(times)]
        finally:
            await engine.close()

    return asyncio.run(run())


@pytest.fixture(params=["embedded", "opa"])
def answers(request: pytest.FixtureRequest) -> Callable[[str, int], list[Any]]:
    """What an engine answers to a policy, each time that it is asked."""
    if request.param == "embedded":
        return lambda rules, times: decide(embedded(rules), times)
    server: Opa = request.getfixturevalue("opa")

    def by_opa(rules: str, times: int) -> list[Any]:
        status, problem = server.call("PUT", "/v1/policies/p", f"package p\n\n{rules}\n")
        assert status == 200, problem
        opa = config.Opa(url=server.url, timeout="10s")
        return decide(OpaEngine(config.Policy(engine="opa", opa=opa, decision="p/x")), times)

    return by_opa


def sent(**request: Any) -> str:
    return f"http.send({json.dumps({'method': 'GET', **request})})"


SNIPPETS: list[tuple[str, Any]] = [
    ("x := r.body if { r := %s }" % sent(url="{url}/echo?a=1&b=%20"), {"method": "GET", "body": "", "query": "a=1&b=%20", "headers": {"host": "{host}", "accept-encoding": "gzip"}}),
    ("x := r.body if { r := %s }" % sent(url="{url}/echo", method="post", body={"b": [1, "<é"], "a": None}), {"method": "POST", "body": '{"a":null,"b":[1,"\\u003cé"]}', "query": "", "headers": {"host": "{host}", "accept-encoding": "gzip", "content-length": "29"}}),
    ("x := r.body if { r := %s }" % sent(url="{url}/echo", method="POST"), {"method": "POST", "body": "", "query": "", "headers": {"host": "{host}", "accept-encoding": "gzip", "content-length": "0"}}),
    ("x := r.body.body if { r := %s }" % sent(url="{url}/echo", method="put", raw_body="raw", body=1), "raw"),
    ("x := r.body.headers if { r := %s }" % sent(url="{url}/echo", headers={"x-a": "1", "Host": "other.test", "accept-encoding": "identity"}), {"host": "other.test", "x-a": "1", "accept-encoding": "identity"}),
    ("x := [r.status, r.status_code, r.body, r.raw_body, r.headers[\"x-two\"], object.keys(r)] if { r := %s }" % sent(url="{url}/status?404"), ["404 Not Found", 404, [], "[]", ["1", "2"], ["body", "headers", "raw_body", "status", "status_code"]]),
    ("x := [r.status_code, r.headers.location] if { r := %s }" % sent(url="{url}/redirect"), [302, ["/echo?redirected"]]),
    ("x := r.body.query if { r := %s }" % sent(url="{url}/redirect", enable_redirect=True), "redirected"),
    ("x := [r.body, r.raw_body, object.get(r.headers, \"content-encoding\", 0), object.get(r.headers, \"content-length\", 0)] if { r := %s }" % sent(url="{url}/gzip"), [{"a": 1}, '{"a": 1}', 0, 0]),
    ("x := [r.body, r.raw_body] if { r := %s }" % sent(url="{url}/status?200", method="HEAD"), [None, ""]),
    ("x := [r.body | some t in [\"application/json\", \"application/vnd.x+json; charset=utf-8\", \"text/plain\", \"application/yaml\", \"application/x-yaml\", \"\"]; r := http.send({\"method\": \"POST\", \"url\": \"{url}/body\", \"raw_body\": \"{a: 1}\", \"headers\": {\"x-type\": t}})]", [None, None, None, {"a": 1}, {"a": 1}, None]),
    ("x := [r.body | some f in [\"force_json_decode\", \"force_yaml_decode\"]; r := http.send({\"method\": \"POST\", \"url\": \"{url}/body\", \"raw_body\": \"{\\\"a\\\": 1}\", f: true})]", [{"a": 1}, {"a": 1}]),
    ("x := [r.body | some b in [\"\", \"{\", \"1 2\", \"NaN\"]; r := http.send({\"method\": \"POST\", \"url\": \"{url}/body\", \"raw_body\": b, \"force_json_decode\": true})]", [None, None, 1, None]),
    ("x := 1 if { %s }" % sent(url="http://127.0.0.1:1/"), UNDEFINED),
    ("x := 1 if { not %s }" % sent(url="http://127.0.0.1:1/"), 1),
    ("x := r if { r := %s }" % sent(url="http://127.0.0.1:1/", raise_error=False), {"status_code": 0, "error": {"code": "eval_http_send_network_error", "message": 'Get "http://127.0.0.1:1/": dial tcp 127.0.0.1:1: connect: connection refused'}}),
    ("x := r.error.code if { r := %s }" % sent(url="{url}/echo", raise_error=False, other=1), "eval_http_send_internal_error"),
    ("x := r.error.code if { r := http.send({\"method\": \"GET\", \"raise_error\": false}) }", "eval_http_send_internal_error"),
    ("x := r.error if { r := %s }" % sent(url="ftp://127.0.0.1/", raise_error=False), {"code": "eval_http_send_network_error", "message": 'Get "ftp://127.0.0.1/": unsupported protocol scheme "ftp"'}),
    ("x := r.error.code if { r := %s }" % sent(url="{url}/echo", raise_error=False, headers={"a": 1}), "eval_http_send_internal_error"),
    ("x := r.error.code if { r := %s }" % sent(url="{url}/echo", raise_error=False, timeout="1 s"), "eval_http_send_internal_error"),
    ("x := r.error.code if { r := %s }" % sent(url="{url}/echo", raise_error=False, force_cache=True), "eval_http_send_internal_error"),
    ("x := r.error.code if { r := %s }" % sent(url="{url}/slow", raise_error=False, timeout="50ms"), "eval_http_send_network_error"),
    ("x := r.error.code if { r := %s }" % sent(url="{url}/slow", raise_error=False, timeout=50_000_000), "eval_http_send_network_error"),
    ("x := 1 if { %s }" % sent(url="{url}/echo", raise_error=1), UNDEFINED),
    ("x := http.send(input.none)", UNDEFINED),
    ("x := [t - time.now_ns(), u == uuid.rfc4122(\"a\"), n == rand.intn(\"a\", 1000000)] if { t := time.now_ns(); u := uuid.rfc4122(\"a\"); n := rand.intn(\"a\", 1000000); %s }" % sent(url="{url}/echo"), [0, True, True]),
    ("x := net.lookup_ip_addr(\"127.0.0.1\")", ["127.0.0.1"]),
    ("x := net.lookup_ip_addr(\"no-such-host.invalid\")", UNDEFINED),
    ("x := net.lookup_ip_addr(input)", UNDEFINED),
]  # fmt: skip


def filled(value: Any, peer: Peer) -> Any:
    text = json.dumps(value).replace("{url}", peer.url).replace("{host}", peer.url.removeprefix("http://"))
    return json.loads(text)


@pytest.mark.parametrize(("snippet", "expected"), SNIPPETS)
def test_snippet_has_opas_answer(
    answers: Callable[[str, int], list[Any]], peer: Peer, snippet: str, expected: Any
) -> None:
    assert exact(answers(filled(snippet, peer), 1)[0]) == exact(filled(expected, peer))


@pytest.mark.parametrize(
    ("request_", "asked"),
    [
        ({"url": "/cached?max-age=60"}, 3),
        ({"url": "/cached?max-age=60", "cache": True}, 1),
        ({"url": "/cached?max-age=0", "cache": True}, 3),  # found to hold still, twice
        ({"url": "/cached?no-store", "cache": True}, 3),
        ({"url": "/cached?no-store", "force_cache": True, "force_cache_duration_seconds": 60}, 1),
        ({"url": "/status?500", "force_cache": True, "force_cache_duration_seconds": 60}, 3),
        ({"url": "/status?404", "force_cache": True, "force_cache_duration_seconds": 60}, 1),
        ({"url": "/cached?max-age=60", "cache": True, "caching_mode": "deserialized"}, 1),
        ({"url": "/cached?max-age=60", "cache": True, "caching_mode": "other"}, 3),
        ({"url": "/echo", "cache": True}, 3),
    ],
)
def test_reply_is_kept_for_later_checks_as_opa_keeps_it(
    answers: Callable[[str, int], list[Any]], peer: Peer, request_: dict[str, Any], asked: int
) -> None:
    request_ = {**request_, "url": peer.url + request_["url"]}
    first, *later = answers(f"x := r.body if {{ r := {sent(**request_)} }}", 3)
    assert later == [first, first]
    assert len(peer.asked) == asked


def test_two_equal_requests_of_one_evaluation_are_sent_once(
    answers: Callable[[str, int], list[Any]], peer: Peer
) -> None:
    call = sent(url=f"{peer.url}/echo")
    assert answers(f"x := [r.status_code, s.status_code] if {{ r := {call}; s := {call} }}", 1) == [
        [200, 200]
    ]
    assert len(peer.asked) == 1


def test_headers_that_the_cache_ignores_share_a_reply(
    answers: Callable[[str, int], list[Any]], peer: Peer
) -> None:
    request = {"url": f"{peer.url}/cached?max-age=60", "cache": True, "cache_ignored_headers": ["x-id"]}
    rules = "\n".join(
        f"r{index} := {sent(**request, headers={'x-id': str(index), 'x-b': '1'})}" for index in range(2)
    )
    assert answers(f"{rules}\nx := [r0.body, r1.body]", 1) == [["kept", "kept"]]
    assert len(peer.asked) == 1


@pytest.mark.parametrize(
    ("parameters", "code"),
    [
        ({}, 0),
        ({"tls_insecure_skip_verify": True}, 200),
        ({"tls_ca_cert": "{cert}"}, 200),
        ({"tls_ca_cert_file": "{folder}/cert.pem"}, 200),
        ({"tls_ca_cert": "{cert}", "tls_server_name": "mixer.test"}, 200),
        ({"tls_ca_cert": "{cert}", "tls_server_name": "other.test"}, 0),
        ({"tls_ca_cert": "{cert}", "tls_client_cert": "{cert}", "tls_client_key": "{key}"}, 200),
        ({"tls_ca_cert": "{cert}", "tls_client_cert_file": "{folder}/cert.pem", "tls_client_key_file": "{folder}/key.pem"}, 200),
        ({"tls_ca_cert": "no certificate"}, 0),
        ({"tls_ca_cert": "{cert}", "tls_client_cert": "no", "tls_client_key": "key"}, 0),
    ],
)  # fmt: skip
def test_tls_parameters_mean_what_they_mean_to_opa(
    answers: Callable[[str, int], list[Any]],
    secure: Peer,
    identity: tuple[str, str],
    tmp_path: Path,
    parameters: dict[str, Any],
    code: int,
) -> None:
    values = {"{cert}": identity[0], "{key}": identity[1], "{folder}": str(tmp_path)}
    request: dict[str, Any] = {"url": f"{secure.url}/echo", "raise_error": False}
    for name, value in parameters.items():
        request[name] = (
            value
            if isinstance(value, bool)
            else "".join(values.get(part, part) for part in re.split(r"(\{\w+\})", value))
        )
    assert answers(f"x := r.status_code if {{ r := {sent(**request)} }}", 1) == [code]


def test_loop_is_free_while_a_reply_is_awaited(peer: Peer) -> None:
    engine = embedded(f"x := r.status_code if {{ r := {sent(url=f'{peer.url}/slow')} }}")

    async def run() -> Any:
        await engine.start()
        waiting = asyncio.ensure_future(decided(engine))
        while not peer.asked_slowly.is_set():
            await asyncio.sleep(0)
        assert not waiting.done()
        peer.released.set()
        answer = await waiting
        await engine.close()
        return answer

    assert asyncio.run(run()) == 200


def test_check_waits_no_longer_than_its_deadline(peer: Peer) -> None:
    engine = embedded(f"x := r.status_code if {{ r := {sent(url=f'{peer.url}/slow')} }}")

    async def run() -> Any:
        await engine.start()
        answer = await decided(engine, timeout=0.05)
        await engine.close()
        return answer

    start = time.monotonic()
    assert asyncio.run(run()) == "timeout"
    assert time.monotonic() - start < 5


def test_checks_that_wait_are_bounded(peer: Peer) -> None:
    engine = embedded(f"x := r.status_code if {{ r := {sent(url=f'{peer.url}/slow')} }}", max_waiting=1)

    async def run() -> list[Any]:
        await engine.start()
        waiting = asyncio.ensure_future(decided(engine))
        while not peer.asked_slowly.is_set():
            await asyncio.sleep(0)
        refused = await decided(engine)
        peer.released.set()
        answers = [refused, await waiting]
        await engine.close()
        return answers

    assert asyncio.run(run()) == ["overload", 200]


def test_reply_that_is_too_large_fails_the_evaluation(peer: Peer) -> None:
    call = sent(url=f"{peer.url}/large", raise_error=False)
    assert decide(embedded(f"x if not {call}", max_response_size=1_000_000)) == [FAILED]
    assert decide(embedded(f"x if {call}", max_response_size=3_000_000)) == [True]


def test_replies_that_are_kept_are_bounded(peer: Peer) -> None:
    calls = [
        sent(url=f"{peer.url}/large?{index}", force_cache=True, force_cache_duration_seconds=60)
        for index in range(2)
    ]
    rules = f"x := [r0.status_code, r1.status_code] if {{ r0 := {calls[0]}; r1 := {calls[1]} }}"
    assert decide(embedded(rules, max_cache_size=3_000_000), 2) == 2 * [[200, 200]]
    assert len(peer.asked) == 4


def test_call_that_is_not_reached_sends_nothing(peer: Peer) -> None:
    engine = embedded(f'default x := 1\nx := 2 if {{ input.a == "b"; {sent(url=f"{peer.url}/echo")} }}')
    asyncio.run(engine.start())
    assert isinstance(engine.evaluate(b"{}", None), Evaluation)
    assert peer.asked == []


def test_policy_that_sends_is_refused_where_evaluations_cannot_wait() -> None:
    loaded = Sources(
        (Module("p.rego", 'package p\n\nx := http.send({"method": "GET", "url": "http://a"})\n'),), {}, ""
    )
    with pytest.raises(PolicyError, match=r"http\.send"):
        Program(loaded, "p/x")
