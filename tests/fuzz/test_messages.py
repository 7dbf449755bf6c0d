"""Messages with every field that their types have, where random bytes seldom get to."""

from collections.abc import Iterator

import pytest
from envoy.service.accesslog.v3.als_pb2 import StreamAccessLogsMessage
from envoy.service.auth.v3.external_auth_pb2 import CheckRequest
from envoy.service.ratelimit.v3.rls_pb2 import RateLimitRequest
from google.protobuf.message import Message
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.fuzz.messages import messages
from tests.fuzz.targets import TARGETS, Target, judged, quiet

TYPES: dict[str, type[Message]] = {
    "check": CheckRequest,
    "quota": RateLimitRequest,
    "report": StreamAccessLogsMessage,
}


@pytest.fixture(scope="module", params=TYPES)
def taker(request: pytest.FixtureRequest) -> Iterator[tuple[Target, type[Message]]]:
    with quiet():
        yield TARGETS[request.param](), TYPES[request.param]


@settings(max_examples=100, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_message_is_taken_or_refused(taker: tuple[Target, type[Message]], data: st.DataObject) -> None:
    target, kind = taker
    judged(target, data.draw(messages(kind.DESCRIPTOR)).SerializeToString())
