"""The real components as fixtures. Nothing starts before a test asks for it.

A component that is not on the machine fails the tests that need it, with what to do.
"""

import contextlib
import os
import uuid
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import hypothesis
import pytest

from tests.components import processes
from tests.components.binaries import ComponentError
from tests.components.processes import Cluster, Envoy, Kafka, Mixer, Opa, Redis, ServerT

# With it, regorus walks the stack at each error that it makes: evaluations that fail take many times as long.
os.environ.pop("RUST_BACKTRACE", None)
# How long an example takes is the machine's business. CI has the same examples each time; others are looked for with
# `pytest --hypothesis-profile=search`.
hypothesis.settings.register_profile("tests", deadline=None, derandomize=True)
hypothesis.settings.register_profile("search", deadline=None)
hypothesis.settings.load_profile("tests")

# Tests of what happens under load and within a time: they need the machine for themselves.
ALONE = {
    *("contract/test_counters_exact.py", "contract/test_fronts.py"),
    *(
        f"faults/test_{what}.py" for what in ("backends", "bundle_server", "clock", "disk", "dns")
    ),  # how long it takes
    *("e2e/test_drain.py", "e2e/test_overload.py", "e2e/test_soak.py", "shadow/test_bundles.py"),
    *("server/test_hostile_connections.py", "server/test_overload.py"),
    *("test_reload.py", "test_supervisor.py"),
}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """`-m "not alone" --numprocesses=2 --dist=loadfile` and `-m alone` are the suite, see `make test`."""
    for item in items:
        if item.path.relative_to(Path(__file__).parent).as_posix() in ALONE:
            item.add_marker("alone")


@contextlib.contextmanager
def _clearly() -> Iterator[None]:
    """A missing component, or one that did not come up, fails with its message alone."""
    try:
        yield
    except (ComponentError, processes.StartError) as error:
        raise pytest.fail.Exception(str(error), pytrace=False) from None


def _started(start: Callable[[], AbstractContextManager[ServerT]]) -> Iterator[ServerT]:
    with contextlib.ExitStack() as stack:
        with _clearly():
            server = stack.enter_context(start())
        yield server


@pytest.fixture(scope="session")
def redis_server() -> Iterator[Redis]:
    """One Redis for the whole run; do not stop it (start your own with `processes.redis`)."""
    yield from _started(processes.redis)


@pytest.fixture(scope="session")
def redis_url(redis_server: Redis) -> str:
    """The URL of the run's Redis, which is empty at the start of each test."""
    return redis_server.url


@pytest.fixture(scope="session")
def redis_cluster() -> Iterator[Cluster]:
    """Three nodes for the whole run; do not stop them, and take keys of your own: they are never emptied."""
    with contextlib.ExitStack() as stack:
        with _clearly():
            cluster = stack.enter_context(processes.cluster())
        yield cluster


@pytest.fixture(scope="session")
def opa_server() -> Iterator[Opa]:
    """One OPA for the whole run; do not stop it (start your own with `processes.opa`)."""
    yield from _started(processes.opa)


@pytest.fixture(scope="session")
def opa_url(opa_server: Opa) -> str:
    """The URL of the run's OPA, which has no policies and no data at the start of each test."""
    return opa_server.url


@pytest.fixture(scope="session")
def own_kafka() -> Iterator[Kafka]:
    """One Kafka for the whole run. A test may stop or pause it, and leaves it running; so what lives longer than a test
    does not stand on it. Without topics made by the way, and `secured`."""
    yield from _started(lambda: processes.kafka({"auto.create.topics.enable": "false"}, secured=True))


@pytest.fixture(scope="session")
def kafka_bootstrap(own_kafka: Kafka) -> str:
    """The address of the run's Kafka. Its topics stay: take a name of your own, or `kafka_topic`."""
    return own_kafka.bootstrap


@pytest.fixture
def kafka_topic(own_kafka: Kafka) -> str:
    """The name of a new topic with one partition."""
    name = f"test-{uuid.uuid4()}"
    own_kafka.create_topic(name)
    return name


@pytest.fixture(autouse=True)
def _clean_shared_servers(request: pytest.FixtureRequest) -> None:
    """Empty the run's Redis and OPA before each test that uses them."""
    if "redis_server" in request.fixturenames:
        request.getfixturevalue("redis_server").call("FLUSHALL")
    if "opa_server" in request.fixturenames:
        request.getfixturevalue("opa_server").clear()


def _starter(start: Callable[..., AbstractContextManager[ServerT]]) -> Iterator[Callable[..., ServerT]]:
    with contextlib.ExitStack() as stack:

        def begin(*args: object, **options: object) -> ServerT:
            with _clearly():
                return stack.enter_context(start(*args, **options))

        yield begin


@pytest.fixture
def start_envoy() -> Iterator[Callable[..., Envoy]]:
    """`processes.envoy` as a call: what it starts is stopped at the test's end."""
    yield from _starter(processes.envoy)


@pytest.fixture
def start_mixer() -> Iterator[Callable[..., Mixer]]:
    """`processes.mixer` as a call: what it starts is stopped at the test's end."""
    yield from _starter(processes.mixer)


@pytest.fixture
def start_opa() -> Iterator[Callable[..., Opa]]:
    """`processes.opa` as a call: what it starts is stopped at the test's end."""
    yield from _starter(processes.opa)


@pytest.fixture
def start_redis() -> Iterator[Callable[..., Redis]]:
    """`processes.redis` as a call: what it starts is stopped at the test's end."""
    yield from _starter(processes.redis)
