"""Calls that arrive together."""

import asyncio
from collections.abc import Awaitable, Sequence
from typing import Any

import grpc
import pytest
from google.protobuf.wrappers_pb2 import StringValue
from prometheus_client import CollectorRegistry

from mixer.errors import RequestError
from mixer.metrics import Metrics
from mixer.server.answering import StatusError
from mixer.server.front import Unary
from mixer.server.handlers import Handlers
from tests.server.served import SERVICE, text


async def later(value: str) -> bytes:
    return text(value)


def answer(request: StringValue, _: float | None) -> bytes | Awaitable[bytes]:
    if request.value == "wrong":
        raise RequestError("wrong")
    return later(request.value) if request.value == "later" else text(request.value)


def answers(requests: Sequence[tuple[Any, float | None]]) -> list[bytes | Awaitable[bytes] | Exception]:
    found: list[bytes | Awaitable[bytes] | Exception] = []
    for request, left in requests:
        try:
            found.append(answer(request, left))
        except RequestError as error:
            found.append(error)
    return found


@pytest.mark.parametrize(
    "method",
    [
        Unary(SERVICE, "Unary", StringValue, answer),
        Unary(SERVICE, "Unary", StringValue, answer, answers),
    ],
    ids=["one by one", "together"],
)
def test_each_call_has_its_own_outcome_in_its_place(method: Unary) -> None:
    registry = CollectorRegistry()
    begin = Handlers([method], Metrics(registry)).unary(method).begin
    messages = [text("a"), b"\xff\xff\xff", text("wrong"), text("later"), text("b")]

    async def run() -> list[object]:
        ended: list[object] = []
        for begun in begin([(message, None) for message in messages]):
            if isinstance(begun, StatusError):
                ended.append(begun.code)
            else:
                ended.append(begun if isinstance(begun, bytes) else await begun)
        return ended

    invalid = grpc.StatusCode.INVALID_ARGUMENT
    assert asyncio.run(run()) == [text("a"), invalid, invalid, text("later"), text("b")]

    def value(name: str, **labels: str) -> float | None:
        return registry.get_sample_value(name, {"method": "Unary", **labels})

    assert value("mixer_calls_total", code="OK") == 3
    assert value("mixer_calls_total", code="INVALID_ARGUMENT") == 2
    assert value("mixer_call_duration_seconds_count") == 5
