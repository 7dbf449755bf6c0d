"""Counters while Redis moves: failover by sentinels and in a cluster, slots that go to another node."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import structlog
from prometheus_client import CollectorRegistry

from mixer import config
from mixer.errors import CounterError, StartError
from mixer.metrics import Metrics
from mixer.ratelimit import cluster as cluster_module
from mixer.ratelimit import sentinel as sentinel_module
from mixer.ratelimit.cluster import ClusterCounters
from mixer.ratelimit.redis import RedisCounters
from mixer.ratelimit.slots import parse_redirect, parse_slots, slot_of
from tests.components import processes
from tests.components.processes import Cluster, Guarded, Redis
from tests.ratelimit.counting import START, counts, one, outcome
from tests.ratelimit.loop import run

PREFIX = "f:"
URL = "redis://mymaster"  # whose address the sentinels know


def counters(
    url: str, registry: CollectorRegistry | None = None, **redis: Any
) -> RedisCounters | ClusterCounters:
    chosen = config.RateLimits.model_validate(
        {"redis": {"url": url, "key_prefix": PREFIX, "timeout": "300ms", **redis}, "local_cache": "off"}
    )
    kind = ClusterCounters if redis.get("mode") == "cluster" else RedisCounters
    return kind(chosen, Metrics(registry or CollectorRegistry()))


@asynccontextmanager
async def started(url: str, **options: Any) -> AsyncIterator[Any]:
    client = counters(url, **options)
    await client.start()
    try:
        yield client
    finally:
        await client.close()


async def again(client: Any, name: str = "a", within: float = 15) -> list[int]:
    """The first answer that is no error; each error comes in time, and is one of a Redis that is away."""
    end = time.monotonic() + within
    while True:
        start = time.monotonic()
        try:
            return await counts(client, [one(name)])
        except CounterError as error:
            now = time.monotonic()
            if error.reason not in ("unavailable", "timeout") or now - start > 2 or now > end:
                raise
            await asyncio.sleep(0.02)


async def until(condition: Callable[[], bool], within: float = 15) -> None:
    end = time.monotonic() + within
    while not condition():
        assert time.monotonic() < end
        await asyncio.sleep(0.02)


# Sentinels


@pytest.fixture
def guarded() -> Iterator[Guarded]:
    with processes.guarded() as running:
        yield running


@pytest.fixture
def watched() -> Iterator[Guarded]:
    """By one sentinel, which needs nobody's consent."""
    with processes.guarded(sentinels=1) as running:
        yield running


def by_sentinels(running: Guarded, **more: Any) -> dict[str, Any]:
    return {"mode": "sentinel", "sentinel": {"master": "mymaster", "urls": running.urls}, **more}


def test_a_primary_that_dies_is_followed_to_the_next_one(guarded: Guarded) -> None:
    async def scenario() -> None:
        async with started(URL, **by_sentinels(guarded)) as client:
            assert await counts(client, [one("a", 5)]) == [5]
            first = guarded.primary
            other = next(redis for redis in guarded.redises if redis is not first)
            await until(lambda: other.call(f"GET {PREFIX}60|{START}|a") == b"$1\r\n5\r\n")
            first.kill()
            assert await again(client) == [6]  # what was replicated is there
            assert guarded.primary is other
            assert client.ready() is None

    run(scenario())


def test_a_primary_that_hangs_is_left_for_the_next_one(watched: Guarded) -> None:
    async def scenario() -> None:
        async with started(URL, **by_sentinels(watched)) as client:
            await counts(client, [one("a")])
            first = watched.primary
            first.pause()
            try:
                await again(client)
                assert watched.primary is not first
            finally:
                first.resume()

    run(scenario())


def test_a_primary_that_became_a_replica_is_left(watched: Guarded) -> None:
    async def scenario() -> None:
        async with started(URL, **by_sentinels(watched)) as client:
            await counts(client, [one("a")])
            first = watched.primary
            await until(lambda: watched.sentinels[0].call("SENTINEL FAILOVER mymaster").startswith(b"+OK"))
            await until(lambda: watched.primary is not first)
            # As the sentinel has it do in the end. The connection stays, and every write is refused: READONLY.
            first.call(f"REPLICAOF 127.0.0.1 {watched.primary.port}")
            await again(client)
            assert watched.primary.call(f"GET {PREFIX}60|{START}|a") != b"$-1\r\n"

    run(scenario())


def test_sentinels_that_are_away_or_lie_behind_do_not_matter(guarded: Guarded) -> None:
    guarded.sentinels[0].kill()
    guarded.sentinels[1].pause()
    try:

        async def scenario() -> list[int]:
            async with started(URL, **by_sentinels(guarded)) as client:
                return await counts(client, [one("a")])

        assert run(scenario()) == [1]
    finally:
        guarded.sentinels[1].resume()


def test_the_primary_that_only_sentinels_have_replaced_is_left_too(
    watched: Guarded, monkeypatch: pytest.MonkeyPatch, start_redis: Callable[..., Redis]
) -> None:
    monkeypatch.setattr(sentinel_module, "WATCH", 0.1)
    other = start_redis()

    async def scenario() -> None:
        async with started(URL, **by_sentinels(watched)) as client:
            await counts(client, [one("a")])
            watched.sentinels[0].call("SENTINEL REMOVE mymaster")
            watched.sentinels[0].call(f"SENTINEL MONITOR mymaster 127.0.0.1 {other.port} 1")
            await until(lambda: b"name=mixer" in other.call("CLIENT LIST"))
            assert await again(client) == [1]

    run(scenario())


def test_passwords_of_primary_and_sentinels_are_their_own() -> None:
    with processes.guarded(password="s3cret", sentinel_password="s3ntinel", sentinels=1) as running:
        url = running.urls[0].replace("redis://", "redis://:s3ntinel@")

        async def scenario(sentinel_url: str) -> list[int] | str:
            redis = {"mode": "sentinel", "sentinel": {"master": "mymaster", "urls": [sentinel_url]}}
            async with started("redis://:s3cret@mymaster", **redis) as client:
                return client.ready() or await counts(client, [one("a")])

        assert run(scenario(url)) == [1]
        with structlog.testing.capture_logs() as logged:
            said = run(scenario(url.replace("s3ntinel", "wr0ng")))
        assert "AUTH" in str(said)
        assert "wr0ng" not in f"{said} {logged}"
        assert "s3cret" not in f"{said} {logged}"


def test_a_master_that_no_sentinel_knows_is_said() -> None:
    async def scenario(urls: list[str]) -> str | None:
        redis = {"mode": "sentinel", "sentinel": {"master": "other", "urls": urls}}
        async with started(URL, **redis) as client:
            return client.ready()

    with processes.guarded(sentinels=1) as running:
        said = run(scenario(running.urls))
        address = running.sentinels[0].address
    assert said == (
        f"redis at other of sentinels {address}: no sentinel names the primary: "
        f'{address}: knows no master "other"'
    )


# Cluster


def names_on(cluster: Cluster, node: Redis, count: int = 1) -> list[str]:
    """Names whose counters of a minute lie on the node."""
    found = []
    number = 0
    while len(found) < count:
        name = f"n{number}"
        if cluster.owner(slot_of(key_of(name))) is node:
            found.append(name)
        number += 1
    return found


def key_of(name: str) -> str:
    return f"{PREFIX}60|{START}|{name}"


@pytest.fixture
def small() -> Iterator[Cluster]:
    """Three primaries, and a replica of the first."""
    with processes.cluster(replicas=1) as running:
        yield running


def test_a_node_that_dies_is_followed_to_its_replica_and_the_others_go_on(
    small: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster_module, "LOOK", 1000.0)
    victim = small.nodes[0]
    lost, kept = names_on(small, victim)[0], names_on(small, small.nodes[1])[0]

    async def scenario() -> None:
        url = f"redis://{small.nodes[1].address}"
        async with started(url, mode="cluster") as client:
            assert await counts(client, [one(lost, 5), one(kept)]) == [5, 1]
            await until(lambda: small.nodes[3].call("DBSIZE") == victim.call("DBSIZE"))
            victim.kill()
            with pytest.raises(CounterError):
                await counts(client, [one(lost)])
            assert await counts(client, [one(kept)]) == [2]
            assert client.ready() is None
            assert client.problems()
            assert await again(client, lost) == [6]
            await until(lambda: not client.problems())
            # It comes back as a replica of its replica.
            victim.start()
            await until(lambda: b"role:slave" in victim.call("INFO replication"))
            assert await counts(client, [one(lost), one(kept)]) == [7, 3]

    run(scenario())


def test_a_call_of_which_one_node_is_away_still_has_the_outcomes_of_the_others(small: Cluster) -> None:
    victim = small.nodes[2]  # without a replica
    lost, kept = names_on(small, victim)[0], names_on(small, small.nodes[1])[0]

    async def scenario() -> None:
        async with started(small.url, mode="cluster") as client:
            await counts(client, [one(lost), one(kept)])
            victim.kill()
            with pytest.raises(CounterError) as caught:
                await counts(client, [one(lost), one(kept, limit=1)])
            first, second = caught.value.outcomes  # type: ignore[attr-defined]
            assert first is None
            assert second.over
            assert second.used == 2

    run(scenario())


async def counting_while(client: Any, names: list[str], work: Callable[[Callable[[], None]], None]) -> None:
    """Each count comes once and in its order, whatever the work does to the cluster meanwhile. It is given what waits
    for a call that begins and ends from now on."""
    done = asyncio.Event()
    totals = dict.fromkeys(names, 0)

    async def ask(name: str) -> None:
        while not done.is_set():
            totals[name] += 1
            assert await counts(client, [one(name)]) == [totals[name]]

    async def ask_all() -> None:
        while not done.is_set():
            for name in names:
                totals[name] += 1
            assert await counts(client, [one(name) for name in names]) == [totals[name] for name in names]

    def counted() -> None:
        before = sum(totals.values())
        # One may be under way, the next is begun from now on, and the one after it when that has ended.
        processes.wait_until(lambda: sum(totals.values()) >= before + 2 * len(names), 20, "a call")

    asking = asyncio.ensure_future(ask_all() if len(names) > 1 else ask(names[0]))
    try:
        await asyncio.to_thread(work, counted)
    finally:
        done.set()
        await asyncio.wait_for(asking, 10)


def test_a_slot_that_moves_to_another_node_loses_no_count(small: Cluster) -> None:
    source, target = small.nodes[0], small.nodes[1]
    tag = names_on(small, source)[0]
    slot = slot_of(key_of(tag))
    # Several counters of one slot: the hash tag is what the slot is of.
    tagged = f"{{{key_of(tag)}}}"
    names = [tag, f"{tagged}b", f"{tagged}c"]

    async def scenario() -> None:
        async with started(small.url, mode="cluster") as client:

            def move(counted: Callable[[], None]) -> None:
                counted()
                small.begin_move(slot, source, target)
                counted()  # counters that are new go to the target, by ASK
                small.move_key(key_of(names[0]), source, target)
                counted()  # some here, some there: TRYAGAIN
                for name in names[1:]:
                    small.move_key(key_of(name), source, target)
                counted()  # all there, and the slot still here
                small.end_move(slot, source, target)
                counted()  # MOVED

            assert len({slot_of(key_of(name)) for name in names}) == 1
            await counting_while(client, names, move)
            assert client._slots[slot].endpoint.port == target.port
            assert client.problems() == []

    run(scenario())


def test_slots_of_holders_are_taken_and_released_while_their_slot_moves(small: Cluster) -> None:
    slot = slot_of(f"{PREFIX}{{c}}")
    source = small.owner(slot)
    target = next(node for node in small.nodes[:3] if node is not source)
    terms = {"limit": 2, "algorithm": "concurrency"}

    async def scenario() -> None:
        async with started(small.url, mode="cluster", timeout="5s") as client:
            assert not (await outcome(client, one("x", holder="r1", **terms))).over
            small.begin_move(slot, source, target)
            assert (await outcome(client, one("x", 0, holder="r1", **terms))).used == 1
            taking = asyncio.ensure_future(outcome(client, one("y", holder="r3", **terms)))
            await asyncio.sleep(0.1)
            assert (
                not taking.done()
            )  # a new counter and its holder are two keys, which a slot on its way refuses
            for key in (f"{PREFIX}{{c}}60|x", f"{PREFIX}{{c}}h|r1"):
                small.move_key(key, source, target)
            small.end_move(slot, source, target)
            assert not (await taking).over
            assert not (await outcome(client, one("x", holder="r2", **terms))).over
            assert (await outcome(client, one("x", holder="r4", **terms))).over
            assert await client.release(["r1", "r3"], START * 1_000_000) == 2
            assert not (await outcome(client, one("x", holder="r4", **terms))).over

    run(scenario())


def test_scripts_that_a_node_flushed_are_sent_again(redis_cluster: Cluster) -> None:
    async def scenario() -> None:
        async with started(redis_cluster.url, mode="cluster", key_prefix="flush:") as client:
            names = [f"{number}" for number in range(30)]
            assert await counts(client, [one(name) for name in names]) == [1] * 30
            for node in redis_cluster.nodes:
                node.call("SCRIPT FLUSH")
            assert await counts(client, [one(name) for name in names]) == [2] * 30

    run(scenario())


def test_a_cluster_is_found_by_any_of_its_nodes(redis_cluster: Cluster) -> None:
    async def scenario() -> list[int]:
        nodes = [node.address for node in redis_cluster.nodes]
        url = f"redis://127.0.0.1:{processes.free_port()}"
        async with started(url, mode="cluster", nodes=nodes, key_prefix="seed:") as client:
            return await counts(client, [one("a"), one("b"), one("c")])

    assert run(scenario()) == [1, 1, 1]


def test_a_cluster_that_comes_later_is_found(small: Cluster) -> None:
    for node in small.nodes:
        node.kill()

    async def scenario() -> None:
        async with started(small.url, mode="cluster") as client:
            assert client.ready() is not None
            with pytest.raises(CounterError) as caught:
                await counts(client, [one("a")])
            assert caught.value.reason == "unavailable"
            for node in small.nodes:
                await asyncio.to_thread(node.start)
            assert await again(client) == [1]
            await until(lambda: client.ready() is None and not client.problems())

    run(scenario())


def test_slots_that_nobody_has_fail_their_counters_alone(small: Cluster) -> None:
    node = small.nodes[2]
    lost, kept = names_on(small, node)[0], names_on(small, small.nodes[1])[0]
    slot = slot_of(key_of(lost))

    def is_nobodys() -> bool:
        """Whoever has just heard of it from its owner, which gives it up first, takes it for the owner's again."""
        for each in (node, *small.nodes):
            each.call(f"CLUSTER DELSLOTS {slot}")
        return all(b"cluster_slots_assigned:16383" in each.call("CLUSTER INFO") for each in small.nodes)

    processes.wait_until(is_nobodys, 20, "a slot that is nobody's")

    async def scenario() -> None:
        async with started(small.url, mode="cluster") as client:
            assert await counts(client, [one(kept)]) == [1]
            with pytest.raises(CounterError) as caught:
                await counts(client, [one(lost)])
            assert caught.value.reason == "unavailable"
            assert f"slot {slot} is nobody's" in str(caught.value)
            assert any("1 slots are nobody's" in problem for problem in client.problems())
            small.run(node, f"CLUSTER ADDSLOTS {slot}")
            assert await again(client, lost) == [1]

    run(scenario())


def test_one_node_of_a_cluster_is_no_single_redis(redis_cluster: Cluster) -> None:
    async def scenario(number: int) -> str | None:
        async with started(redis_cluster.url, key_prefix=f"x{number}") as client:
            return client.ready()

    said = [run(scenario(number)) for number in range(10)]
    assert any(each and "set rate_limits.redis.mode: cluster" in each for each in said)


def test_a_single_redis_is_no_cluster(redis_url: str) -> None:
    async def scenario() -> str | None:
        async with started(redis_url.removesuffix("/0"), mode="cluster") as client:
            return client.ready()

    said = run(scenario())
    assert said is not None
    assert "ERR This instance has cluster support disabled" in said


@pytest.mark.parametrize("url", ["redis://localhost/3", "unix:///run/redis.sock"])
def test_a_cluster_has_one_database_and_no_unix_socket(url: str) -> None:
    with pytest.raises(StartError, match="a cluster is reached over TCP, and has database 0 alone"):
        counters(url, mode="cluster")


@pytest.mark.parametrize(
    "reply",
    [
        None,
        b"x",
        [1],
        [[0, 1]],
        [[0, 16384, [b"h", 1]]],
        [[-1, 3, [b"h", 1]]],
        [[0, 1, [b"h", b"x"]]],
        [[0, 1, [5, 1]]],
    ],
)
def test_an_answer_that_names_no_slots_is_refused(reply: object) -> None:
    with pytest.raises(ValueError):  # noqa: PT011
        list(parse_slots(reply, "asked"))


def test_a_server_without_a_name_is_the_one_that_was_asked() -> None:
    reply = [
        [0, 5, [b"", 7001, b"id"]],
        [6, 9, [None, 7002, b"id", []], [b"r", 7003, b"id"]],
        [10, 10, [b"?", 7004]],
    ]
    assert list(parse_slots(reply, "asked")) == [
        (range(6), ("asked", 7001)),
        (range(6, 10), ("asked", 7002)),
        (range(10, 11), ("asked", 7004)),
    ]
    assert parse_redirect("MOVED 5 ::1:7001", "asked") == ("::1", 7001)
    assert parse_redirect("ASK 5 :7001", "asked") == ("asked", 7001)


def test_changes_of_the_cluster_are_looked_for(small: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster_module, "LOOK", 0.1)
    source, target = small.nodes[0], small.nodes[1]
    slot = slot_of(key_of(names_on(small, source)[0]))

    async def scenario() -> None:
        async with started(small.url, mode="cluster") as client:
            small.begin_move(slot, source, target)
            small.end_move(slot, source, target)
            await until(lambda: client._slots[slot].endpoint.port == target.port)

    run(scenario())
