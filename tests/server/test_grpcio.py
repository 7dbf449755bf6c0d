"""What the grpcio front alone offers: TLS, mutual TLS, reflection."""

from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from envoy.service.auth.v3.external_auth_pb2 import CheckRequest
from grpc import StatusCode
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from mixer.errors import StartError
from mixer.server.front import Unary
from tests.loop import on_loop
from tests.server.certificates import Authority, Pair, credentials, write
from tests.server.served import Served, echo, served, text, unary

AUTHORITY, STRANGER = Authority(), Authority()
SERVER = AUTHORITY.issue("mixer")


@pytest.fixture
def tls(tmp_path: Path) -> dict[str, str]:
    return write(tmp_path, SERVER)


@pytest.fixture
def mutual_tls(tls: dict[str, str], tmp_path: Path) -> dict[str, str]:
    (tmp_path / "ca.pem").write_bytes(AUTHORITY.cert)
    return tls | {"client_ca": str(tmp_path / "ca.pem")}


async def answered(running: Served, trusted: Authority | None, own: Pair | None = None) -> bool:
    """Whether a client gets an answer; where it gets none, it could not connect."""
    channel = running.channel(credentials(trusted, own) if trusted else None)
    call = running.call(text("hello"), 10, channel)
    code = await call.code()
    assert code in (StatusCode.OK, StatusCode.UNAVAILABLE)
    return bool(code is StatusCode.OK and await call == text("hello"))


@on_loop
async def test_tls_serves_those_who_trust_its_authority(tls: dict[str, str]) -> None:
    async with served("grpcio", "tcp", unary(echo), tls=tls) as running:
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
async def test_mutual_tls_serves_those_who_show_a_certificate_of_its_authority(
    mutual_tls: dict[str, str],
) -> None:
    async with served("grpcio", "tcp", unary(echo), tls=mutual_tls) as running:
        assert await answered(running, AUTHORITY, AUTHORITY.issue("envoy"))
        assert not await answered(running, AUTHORITY)
        assert not await answered(running, AUTHORITY, STRANGER.issue("envoy"))


@pytest.mark.parametrize("missing", ["cert", "key", "client_ca"])
@on_loop
async def test_certificate_file_that_is_missing_is_named(mutual_tls: dict[str, str], missing: str) -> None:
    Path(mutual_tls[missing]).unlink()
    with pytest.raises(StartError) as raised:
        async with served("grpcio", "tcp", unary(echo), tls=mutual_tls):
            pass
    assert str(raised.value) == f"cannot read {mutual_tls[missing]}: No such file or directory"


@pytest.mark.parametrize("wrong", ["cert", "key", "client_ca"])
@on_loop
async def test_certificate_file_that_is_none_is_refused(mutual_tls: dict[str, str], wrong: str) -> None:
    Path(mutual_tls[wrong]).write_text("not a certificate")
    with pytest.raises(StartError) as raised:
        async with served("grpcio", "tcp", unary(echo), tls=mutual_tls):
            pass
    assert mutual_tls[wrong] in str(raised.value)


@on_loop
async def test_key_of_another_certificate_is_refused(mutual_tls: dict[str, str]) -> None:
    Path(mutual_tls["key"]).write_bytes(STRANGER.issue("mixer").key)
    with pytest.raises(StartError) as raised:
        async with served("grpcio", "tcp", unary(echo), tls=mutual_tls):
            pass
    assert mutual_tls["key"] in str(raised.value)


@on_loop
async def test_key_with_a_password_is_refused_and_nobody_is_asked_for_it(tls: dict[str, str]) -> None:
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


@on_loop
async def test_reflection_names_the_services_and_describes_them() -> None:
    def check(_request: Any, _timeout: float | None) -> bytes:
        return b""

    name = "envoy.service.auth.v3.Authorization"
    async with served("grpcio", "tcp", Unary(name, "Check", CheckRequest, check)) as running:
        stub = reflection_pb2_grpc.ServerReflectionStub(running.channel())
        asked = [
            reflection_pb2.ServerReflectionRequest(list_services=""),
            reflection_pb2.ServerReflectionRequest(file_containing_symbol=name),
        ]
        listed, described = [answer async for answer in stub.ServerReflectionInfo(iter(asked))]
        services = {service.name for service in listed.list_services_response.service}
        assert services == {name, "grpc.health.v1.Health", "grpc.reflection.v1alpha.ServerReflection"}
        assert described.file_descriptor_response.file_descriptor_proto
