"""Errors as gRPC status."""

from collections.abc import Iterator

import pytest
from grpc import StatusCode

from mixer import errors
from mixer.errors import MixerError
from mixer.server.status import code_of

CODES = {
    errors.RequestError: StatusCode.INVALID_ARGUMENT,
    errors.DeadlineError: StatusCode.DEADLINE_EXCEEDED,
    errors.CallError: StatusCode.UNAVAILABLE,
    errors.DecisionError: StatusCode.UNAVAILABLE,
    errors.CounterError: StatusCode.UNAVAILABLE,
}


def all_errors(kind: type[MixerError] = MixerError) -> Iterator[type[MixerError]]:
    yield kind
    for narrower in kind.__subclasses__():
        if narrower.__module__ == errors.__name__:
            yield from all_errors(narrower)


@pytest.mark.parametrize("kind", list(all_errors()))
def test_status_of_each_error(kind: type[MixerError]) -> None:
    assert code_of(kind.__new__(kind)) is CODES.get(kind, StatusCode.INTERNAL)  # never OK, never UNKNOWN
