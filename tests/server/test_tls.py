"""TLS before both fronts: who is let in, which version, and certificates that change while it serves."""

import asyncio
import contextlib
import os
import socket
import ssl
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from grpc import StatusCode
from structlog.testing import capture_logs

from mixer import config
from mixer.errors import StartError
from mixer.server.tls import stranger
from tests.loop import on_loop
from tests.server.certificates import Authority, Pair, credentials, write
from tests.server.served import Served, echo, eventually, served, text, unary

AUTHORITY, STRANGER = Authority(), Authority()
SERVER = AUTHORITY.issue("mixer")
ENVOY = "spiffe://example.org/ns/edge/sa/envoy"


@pytest.fixture(params=["asyncio", "grpcio"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def tls(tmp_path: Path) -> dict[str, Any]:
    return write(tmp_path, SERVER)


@pytest.fixture
def mutual_tls(tls: dict[str, Any], tmp_path: Path) -> dict[str, Any]:
    (tmp_path / "ca.pem").write_bytes(AUTHORITY.cert)
    return tls | {"client_ca": str(tmp_path / "ca.pem")}


async def answered(running: Served, trusted: Authority | None, own: Pair | None = None) -> bool:
    """Whether a client gets an answer; where it gets none, it could not connect."""
    channel = running.channel(credentials(trusted, own) if trusted else None)
    call = running.call(text("hello"), 10, channel)
    code = await call.code()
    assert code in (StatusCode.OK, StatusCode.UNAVAILABLE)
    return bool(code is StatusCode.OK and await call == text("hello"))


def handshakes(running: Served, outcome: str) -> float:
    return running.value("mixer_tls_handshakes_total", listener="check", outcome=outcome)


@on_loop
async def test_tls_serves_those_who_trust_its_authority(kind: str, tls: dict[str, Any]) -> None:
    async with served(kind, "tcp", unary(echo), tls=tls) as running:
        assert await answered(running, AUTHORITY)
        assert not await answered(running, STRANGER)
        assert not await answered(running, None)


@on_loop
async def test_metrics_tell_when_the_first_certificate_of_the_chain_ends(tmp_path: Path) -> None:
    pair = AUTHORITY.issue("mixer", hours=5)
    tls = write(tmp_path, Pair(pair.key, pair.cert + AUTHORITY.cert))
    end = x509.load_pem_x509_certificate(AUTHORITY.cert).not_valid_after_utc.timestamp()
    async with served("grpcio", "tcp", unary(echo), tls=tls) as running:
        assert running.value("mixer_certificate_not_after_timestamp_seconds", file=tls["cert"]) == end


@on_loop
async def test_mutual_tls_serves_those_who_show_a_valid_certificate_of_its_authority(
    kind: str, mutual_tls: dict[str, Any]
) -> None:
    async with served(kind, "tcp", unary(echo), tls=mutual_tls) as running:
        assert await answered(running, AUTHORITY, AUTHORITY.issue("envoy"))
        assert handshakes(running, "ok") == 1
        assert not await answered(running, AUTHORITY)
        await eventually(lambda: handshakes(running, "certificate") >= 1)
        for own in (STRANGER.issue("envoy"), AUTHORITY.issue("envoy", hours=0)):
            before = handshakes(running, "certificate")
            assert not await answered(running, AUTHORITY, own)
            await eventually(lambda before=before: handshakes(running, "certificate") > before)  # type: ignore[misc]
        assert handshakes(running, "ok") == 1


@on_loop
async def test_clients_are_let_in_and_kept_out_by_their_spiffe_id(
    kind: str, mutual_tls: dict[str, Any]
) -> None:
    spiffe = {"allow": ["spiffe://example.org/ns/edge/*"], "refuse": ["spiffe://example.org/ns/edge/sa/old"]}
    async with served(kind, "tcp", unary(echo), tls=mutual_tls | {"spiffe": spiffe}) as running:
        assert await answered(running, AUTHORITY, AUTHORITY.issue("envoy", ENVOY))
        for uri in ("spiffe://example.org/ns/edge/sa/old", "spiffe://example.org/ns/other/sa/envoy", None):
            before = handshakes(running, "identity")
            assert not await answered(running, AUTHORITY, AUTHORITY.issue("envoy", uri))
            await eventually(lambda before=before: handshakes(running, "identity") > before)  # type: ignore[misc]
        assert handshakes(running, "ok") == 1


ENDS = ssl.cert_time_to_seconds("Jan  1 00:00:00 2030 GMT")
SPIFFE_IDS: list[tuple[list[str], list[str], list[str], str | None]] = [
    # allow, refuse, the certificate's URIs, why it is kept out
    ([], [], [], None),
    ([], ["spiffe://a/b"], [], None),
    ([], ["spiffe://a/b"], ["spiffe://a/c"], None),
    ([], ["spiffe://a/*"], ["spiffe://a/b/c"], "spiffe://a/b/c is refused"),
    (["spiffe://a/*"], ["spiffe://a/b"], ["spiffe://a/b"], "spiffe://a/b is refused"),
    (["spiffe://a/b"], [], ["spiffe://a/b"], None),
    (["spiffe://a/b"], [], ["spiffe://a/b/c"], "spiffe://a/b/c is not allowed"),
    (["spiffe://a/b"], [], ["spiffe://a/B"], "spiffe://a/B is not allowed"),
    (["spiffe://a/b/*"], [], ["spiffe://a/bc"], "spiffe://a/bc is not allowed"),
    (["spiffe://a/b/*"], [], ["spiffe://a/b/../c"], "spiffe://a/b/../c is not allowed"),
    (["spiffe://a/b/*"], [], ["spiffe://a/b/"], "spiffe://a/b/ is not allowed"),
    (["spiffe://a/*"], [], ["spiffe://a.evil/b"], "spiffe://a.evil/b is not allowed"),
    (["spiffe://a/*"], [], ["https://a/b"], "https://a/b is not allowed"),
    (["spiffe://a/*"], [], ["spiffe://a/b", "spiffe://a/c"], "its certificate has 2 URIs"),
    (["spiffe://a/*"], [], [], "its certificate has no SPIFFE ID"),
]


@pytest.mark.parametrize(("allow", "refuse", "uris", "why"), SPIFFE_IDS)
def test_spiffe_ids_are_compared_whole_or_below_a_path(
    allow: list[str], refuse: list[str], uris: list[str], why: str | None
) -> None:
    names = (("DNS", "spiffe://a/b"), *(("URI", uri) for uri in uris))
    peer = {"subjectAltName": names, "notAfter": "Jan  1 00:00:00 2030 GMT"}
    settings = config.Spiffe(allow=tuple(allow), refuse=tuple(refuse))
    assert stranger(peer, settings, ENDS - 1) == why
    assert stranger(peer, settings, ENDS + 1) == "its certificate has ended"


@on_loop
async def test_resumed_session_is_looked_at_again(
    mutual_tls: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    own = write(Path(mutual_tls["cert"]).parent / "client", AUTHORITY.issue("envoy"))
    async with served("asyncio", "tcp", unary(echo), tls=mutual_tls) as running:
        context = ssl.create_default_context(cadata=AUTHORITY.cert.decode())
        context.maximum_version = ssl.TLSVersion.TLSv1_2
        context.load_cert_chain(own["cert"], own["key"])
        host, _, port = running.front.address.rpartition(":")

        def connect(session: ssl.SSLSession | None = None) -> ssl.SSLSocket:
            plain = socket.create_connection((host, int(port)))
            return context.wrap_socket(plain, server_hostname=host, session=session)

        with await asyncio.to_thread(connect) as first:
            session = first.session
            assert session is not None
            assert session.id
            assert not session.has_ticket
        await eventually(lambda: handshakes(running, "ok") == 1)
        later = time.time() + 7200
        monkeypatch.setattr("mixer.server.secured.time.time", lambda: later)
        with contextlib.suppress(OSError):  # of the client, which may notice in its handshake
            (await asyncio.to_thread(connect, session)).close()
        await eventually(lambda: handshakes(running, "identity") == 1)


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion")  # old ones, which is the point
@pytest.mark.parametrize(("least", "offered"), [("1.2", "TLSv1_1"), ("1.3", "TLSv1_2")])
@on_loop
async def test_version_below_the_least_is_refused(tls: dict[str, Any], least: str, offered: str) -> None:
    async with served("asyncio", "tcp", unary(echo), tls=tls | {"min_version": least}) as running:
        context = ssl.create_default_context(cadata=AUTHORITY.cert.decode())
        context.set_ciphers("ALL:@SECLEVEL=0")  # or OpenSSL would not even offer the old one
        context.minimum_version = ssl.TLSVersion.TLSv1
        context.maximum_version = ssl.TLSVersion[offered]
        with pytest.raises((ssl.SSLError, ConnectionError)):
            await connect(running, context)
        await eventually(lambda: handshakes(running, "protocol") == 1)
        context.maximum_version = ssl.TLSVersion.MAXIMUM_SUPPORTED
        assert (await connect(running, context))[0] == "TLSv1.3"


async def connect(running: Served, context: ssl.SSLContext) -> tuple[str, bytes]:
    """The version spoken, and the server's certificate (DER)."""
    host, _, port = running.front.address.rpartition(":")
    _, writer = await asyncio.open_connection(host, int(port), ssl=context)
    spoken = writer.get_extra_info("ssl_object")
    found = spoken.version(), spoken.getpeercert(binary_form=True)
    writer.close()
    return found


@on_loop
async def test_garbage_and_silence_hold_up_nobody(kind: str, mutual_tls: dict[str, Any]) -> None:
    async with served(kind, "tcp", unary(echo), tls=mutual_tls) as running:
        host, _, port = running.front.address.rpartition(":")
        with contextlib.ExitStack() as stack:
            for _ in range(50):  # half-open: they never say a word
                stack.enter_context(socket.create_connection((host, int(port))))
            for data in (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"\x16\x03\x01\xff\xff" + os.urandom(500)):
                with socket.create_connection((host, int(port))) as garbage:
                    garbage.sendall(data)
                    assert await answered(running, AUTHORITY, AUTHORITY.issue("envoy"))
        await eventually(lambda: handshakes(running, "protocol") + handshakes(running, "closed") == 52)


# Certificates that change


@dataclass
class Renewing:
    """A front whose certificate changes, and a client of it."""

    running: Served
    tls: dict[str, Any]

    def reloads(self, outcome: str) -> float:
        return self.running.value("mixer_certificate_reloads_total", file=self.tls["cert"], outcome=outcome)

    async def shown(self) -> bytes:
        context = ssl.create_default_context(cadata=AUTHORITY.cert.decode())
        return (await connect(self.running, context))[1]


@contextlib.asynccontextmanager
async def renewing(tls: dict[str, Any]) -> AsyncIterator[Renewing]:
    async with served("asyncio", "tcp", unary(echo), tls=tls) as running:
        yield Renewing(running, tls)


def der(pair: Pair) -> bytes:
    return x509.load_pem_x509_certificate(pair.cert).public_bytes(serialization.Encoding.DER)


@on_loop
async def test_new_certificate_is_shown_to_new_connections_and_open_ones_go_on(tls: dict[str, Any]) -> None:
    async with renewing(tls) as front:
        channel = front.running.channel(credentials(AUTHORITY))
        await front.running.call(text("before"), 10, channel)
        assert await front.shown() == der(SERVER)
        renewed = AUTHORITY.issue("mixer", hours=9)
        write(Path(tls["cert"]).parent, renewed)
        await eventually(lambda: front.reloads("loaded") == 1)
        assert await front.shown() == der(renewed)
        assert await front.running.call(text("after"), 10, channel) == text("after")
        end = x509.load_pem_x509_certificate(renewed.cert).not_valid_after_utc.timestamp()
        assert front.running.value("mixer_certificate_not_after_timestamp_seconds", file=tls["cert"]) == end


@on_loop
async def test_certificates_behind_a_link_that_is_exchanged_are_reloaded(tmp_path: Path) -> None:
    for name, pair in (("one", SERVER), ("two", renewed := AUTHORITY.issue("mixer"))):
        (tmp_path / name).mkdir()
        write(tmp_path / name, pair)
    data = tmp_path / "data"
    data.symlink_to("one")  # as Kubernetes mounts a secret
    async with renewing({"cert": str(data / "cert.pem"), "key": str(data / "key.pem")}) as front:
        (tmp_path / "next").symlink_to("two")
        (tmp_path / "next").rename(data)
        await eventually(lambda: front.reloads("loaded") == 1)
        assert await front.shown() == der(renewed)


@pytest.mark.parametrize("broken", ["cert.pem", "key.pem", "ended", "gone"])
@on_loop
async def test_broken_certificate_leaves_the_one_in_use_and_is_logged_and_counted(
    tls: dict[str, Any], broken: str
) -> None:
    folder = Path(tls["cert"]).parent
    async with renewing(tls) as front:
        with capture_logs() as events:
            if broken == "ended":
                write(folder, AUTHORITY.issue("mixer", hours=0))
            elif broken == "gone":
                (folder / "cert.pem").unlink()
            else:
                (folder / broken).write_bytes(b"not what it should be")
            await eventually(lambda: front.reloads("failed") == 1)
        (event,) = events
        assert event["event"] == "certificate_not_reloaded"
        assert str(folder) in event["reason"]
        assert await front.shown() == der(SERVER)
        renewed = AUTHORITY.issue("mixer")
        write(folder, renewed)
        await eventually(lambda: front.reloads("loaded") == 1)
        assert await front.shown() == der(renewed)


@on_loop
async def test_new_authority_keeps_out_those_of_the_old_one(kind: str, mutual_tls: dict[str, Any]) -> None:
    async with served(kind, "tcp", unary(echo), tls=mutual_tls) as running:
        old, new = AUTHORITY.issue("envoy"), STRANGER.issue("envoy")
        assert await answered(running, AUTHORITY, old)
        assert not await answered(running, AUTHORITY, new)
        Path(mutual_tls["client_ca"]).write_bytes(STRANGER.cert)
        labels = {"file": mutual_tls["cert"], "outcome": "loaded"}
        await eventually(lambda: running.value("mixer_certificate_reloads_total", **labels) == 1)
        assert not await answered(running, AUTHORITY, old)
        assert await answered(running, AUTHORITY, new)


# What cannot be started


@pytest.mark.parametrize("missing", ["cert", "key", "client_ca"])
@on_loop
async def test_certificate_file_that_is_missing_is_named(mutual_tls: dict[str, Any], missing: str) -> None:
    Path(mutual_tls[missing]).unlink()
    with pytest.raises(StartError) as raised:
        async with served("grpcio", "tcp", unary(echo), tls=mutual_tls):
            pass
    assert str(raised.value) == f"cannot read {mutual_tls[missing]}: No such file or directory"


@pytest.mark.parametrize("wrong", ["cert", "key", "client_ca"])
@on_loop
async def test_certificate_file_that_is_none_is_refused(mutual_tls: dict[str, Any], wrong: str) -> None:
    Path(mutual_tls[wrong]).write_text("not a certificate")
    with pytest.raises(StartError) as raised:
        async with served("grpcio", "tcp", unary(echo), tls=mutual_tls):
            pass
    assert mutual_tls[wrong] in str(raised.value)


@on_loop
async def test_key_of_another_certificate_is_refused(mutual_tls: dict[str, Any]) -> None:
    Path(mutual_tls["key"]).write_bytes(STRANGER.issue("mixer").key)
    with pytest.raises(StartError) as raised:
        async with served("grpcio", "tcp", unary(echo), tls=mutual_tls):
            pass
    assert mutual_tls["key"] in str(raised.value)


@on_loop
async def test_key_with_a_password_is_refused_and_nobody_is_asked_for_it(tls: dict[str, Any]) -> None:
    key = serialization.load_pem_private_key(SERVER.key, None)
    Path(tls["key"]).write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"open sesame"),
        )
    )
    with pytest.raises(StartError, match="without a password"):
        async with served("grpcio", "tcp", unary(echo), tls=tls):
            pass
