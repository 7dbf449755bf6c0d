"""What the grpcio front alone offers: reflection."""

from typing import Any

from envoy.service.auth.v3.external_auth_pb2 import CheckRequest
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from mixer.server.front import Unary
from tests.loop import on_loop
from tests.server.served import served


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
