"""Counters in Redis: what lies there, how calls share a round trip, how it is reached."""

import asyncio
import contextlib
import datetime
import socket
import socketserver
import ssl
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import pytest
import structlog
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from prometheus_client import CollectorRegistry

from mixer import config
from mixer.errors import CounterError, StartError
from mixer.metrics import Metrics
from mixer.pending import Pending
from mixer.ratelimit.cluster import ClusterCounters
from mixer.ratelimit.lane import ENOUGH, MAX_TRIPS
from mixer.ratelimit.redis import RedisCounters
from tests.components import processes
from tests.components.processes import Redis
from tests.ratelimit.clients import asked, connected, counters
from tests.ratelimit.counting import NOW, START, counts, one
from tests.ratelimit.loop import run

T = TypeVar("T")


def batches(registry: CollectorRegistry) -> tuple[float, float]:
    """Round trips, and the calls in them."""
    labels = {"store": "redis"}
    return tuple(  # type: ignore[return-value]
        registry.get_sample_value(f"mixer_counter_batch_size_{what}", labels) or 0
        for what in ("count", "sum")
    )


async def many(client: RedisCounters, calls: int) -> list[list[int]]:
    return await asyncio.gather(*(counts(client, [one("a"), one(f"b{number}")]) for number in range(calls)))


def test_calls_of_one_turn_share_one_round_trip(redis_url: str) -> None:
    registry = CollectorRegistry()
    found = asked(redis_url, lambda client: many(client, ENOUGH - 1), registry=registry)
    assert found == [[number, 1] for number in range(1, ENOUGH)]
    assert batches(registry) == (1, ENOUGH - 1)


def test_many_calls_of_one_turn_do_not_wait_for_all_of_them(redis_url: str) -> None:
    registry = CollectorRegistry()
    found = asked(redis_url, lambda client: many(client, 4 * ENOUGH), registry=registry)
    assert found == [[number, 1] for number in range(1, 4 * ENOUGH + 1)]
    assert batches(registry) == (MAX_TRIPS + 1, 4 * ENOUGH)


def test_calls_that_come_during_a_round_trip_share_the_next_one(redis_url: str) -> None:
    registry = CollectorRegistry()

    async def scenario(client: RedisCounters) -> None:
        first = asyncio.ensure_future(counts(client, [one("a")]))
        await asyncio.sleep(0)  # it is queued
        await asyncio.sleep(0)  # it is sent
        assert batches(registry) == (1, 1)
        rest = [asyncio.ensure_future(counts(client, [one("a")])) for _ in range(10)]
        await asyncio.gather(first, *rest)

    asked(redis_url, scenario, registry=registry)
    assert batches(registry) == (2, 11)


def test_a_round_trip_has_no_more_calls_than_the_settings_say(redis_url: str) -> None:
    registry = CollectorRegistry()
    asked(redis_url, lambda client: many(client, 50), registry=registry, max_batch=10)
    assert batches(registry) == (5, 50)


def test_a_round_trip_has_a_bounded_number_of_counters(
    redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mixer.ratelimit.batch.MAX_COUNTERS", 10)
    registry = CollectorRegistry()
    found = asked(redis_url, lambda client: many(client, 20), registry=registry)
    assert found == [[number, 1] for number in range(1, 21)]
    assert batches(registry)[0] == 3  # of 9, 9 and 2 calls: one counter is common to all


def test_a_call_that_is_cancelled_before_it_is_sent_is_not_counted(redis_url: str) -> None:
    async def scenario(client: RedisCounters) -> list[int]:
        call = client.hit([one("a")], NOW)
        assert isinstance(call, Pending)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        return await counts(client, [one("a")])

    assert asked(redis_url, scenario) == [1]


def test_a_call_that_is_out_of_time_before_it_is_sent_is_not_counted(
    start_redis: Callable[..., Redis],
) -> None:
    server = start_redis()

    async def scenario(client: RedisCounters) -> list[int]:
        await counts(client, [one("a")])
        server.pause()
        try:
            blocked = asyncio.ensure_future(counts(client, [one("b")]))
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            with pytest.raises(CounterError):
                await counts(client, [one("a")], timeout=0.01)
        finally:
            server.resume()
        assert await blocked == [1]
        return await counts(client, [one("a")])

    assert asked(server.url, scenario, timeout="20s") == [2]


def test_calls_that_nobody_waits_for_any_more_are_not_counted_and_leave_at_once(
    start_redis: Callable[..., Redis],
) -> None:
    """Two round trips are on their way; what is cancelled or out of time behind them leaves, and where nothing moves
    for as long as a call has, it is refused at once."""
    server = start_redis()

    async def scenario(client: RedisCounters) -> tuple[list[list[int]], list[object], str, list[int]]:
        await counts(client, [one("late")])
        server.pause()
        try:
            sent = [asyncio.ensure_future(counts(client, [one("sent")])) for _ in range(2 * ENOUGH)]
            await asyncio.sleep(0)
            cancelled = [asyncio.ensure_future(counts(client, [one("late")])) for _ in range(20)]
            asked = (counts(client, [one("late")], timeout=0.05) for _ in range(20))
            late = await asyncio.gather(*asked, return_exceptions=True)
            for call in cancelled[:10]:
                call.cancel()
            await asyncio.gather(*cancelled[:10], return_exceptions=True)
            start = asyncio.get_running_loop().time()
            with pytest.raises(CounterError) as refused:
                await counts(client, [one("late")], timeout=0.03)
            assert asyncio.get_running_loop().time() - start < 0.02
            for call in cancelled[10:]:
                call.cancel()
            await asyncio.gather(*cancelled[10:], return_exceptions=True)  # before Redis answers
        finally:
            server.resume()
        answered = await asyncio.gather(*sent)
        return answered, late, refused.value.reason, await counts(client, [one("late")])

    answered, late, reason, last = asked(server.url, scenario, timeout="20s")
    assert sorted(answered) == [[number] for number in range(1, 2 * ENOUGH + 1)]
    assert {error.reason for error in late if isinstance(error, CounterError)} == {"timeout"}
    assert reason == "overload"
    assert last == [2]


def test_counters_are_readable_and_expire_after_their_window(redis_server: Redis) -> None:
    name = "shop|user=alice|"

    async def scenario(client: RedisCounters) -> None:
        await counts(client, [one(name, 3), one(name, seconds=1), one("looked-at", 0)])

    asked(redis_server.url, scenario, key_prefix="mixer:")
    lines = redis_server.call("KEYS mixer:*").decode().split("\r\n")
    keys = sorted(line for line in lines if line.startswith("mixer:") and line != "mixer:probe")
    assert keys == [f"mixer:1|{START}|{name}", f"mixer:60|{START}|{name}"]
    assert redis_server.call(f"GET mixer:60|{START}|{name}") == b"$1\r\n3\r\n"
    for seconds in (1, 60):
        left = int(redis_server.call(f"PTTL mixer:{seconds}|{START}|{name}").strip(b":\r\n"))
        assert (seconds + 4) * 1000 < left <= (seconds + 30) * 1000


def test_expiry_is_set_by_the_first_hit_alone(redis_server: Redis) -> None:
    async def scenario(client: RedisCounters) -> None:
        await counts(client, [one("a")])
        redis_server.call(f"PEXPIRE x:60|{START}|a 5000")
        await counts(client, [one("a")])

    asked(redis_server.url, scenario, key_prefix="x:")
    assert int(redis_server.call(f"PTTL x:60|{START}|a").strip(b":\r\n")) <= 5000


def test_a_counter_that_is_something_else_fails_its_calls_alone(redis_server: Redis) -> None:
    redis_server.call(f"LPUSH x:60|{START}|bad 1")
    redis_server.call(f"SET x:60|{START}|text words")

    async def scenario(client: RedisCounters) -> list[list[int] | BaseException]:
        return await asyncio.gather(
            counts(client, [one("a")]),
            counts(client, [one("a"), one("bad")]),
            counts(client, [one("text", 0)]),
            counts(client, [one("bad", 0)]),
            counts(client, [one("a")]),
            return_exceptions=True,
        )

    results = asked(redis_server.url, scenario, key_prefix="x:")
    assert [r.reason if isinstance(r, CounterError) else r for r in results] == [
        [1],
        "script",
        "script",
        "script",
        [3],
    ]


def test_a_counter_that_would_overflow_stays_over_every_limit(redis_server: Redis) -> None:
    redis_server.call(f"SET x:60|{START}|a 9223372036854775807")
    (count,) = asked(redis_server.url, lambda client: counts(client, [one("a")]), key_prefix="x:")
    assert count > 2**52


def test_errors_are_counted_by_reason(redis_server: Redis) -> None:
    redis_server.call(f"LPUSH x:60|{START}|bad 1")
    registry = CollectorRegistry()

    async def scenario(client: RedisCounters) -> None:
        with pytest.raises(CounterError):
            await counts(client, [one("bad")])

    asked(redis_server.url, scenario, registry=registry, key_prefix="x:")
    labels = {"store": "redis", "reason": "script"}
    assert registry.get_sample_value("mixer_counter_errors_total", labels) == 1


def test_a_replica_is_no_store_for_counters(start_redis: Callable[..., Redis]) -> None:
    primary = start_redis()
    replica = start_redis("--replicaof", "127.0.0.1", str(primary.port))

    async def scenario(client: RedisCounters) -> str:
        with pytest.raises(CounterError) as caught:
            await counts(client, [one("a")])
        return caught.value.reason

    assert asked(replica.url, scenario) == "unavailable"


def test_database_of_the_url_is_used(redis_server: Redis) -> None:
    url = redis_server.url.removesuffix("/0") + "/5"
    asked(url, lambda client: counts(client, [one("a")]))
    assert redis_server.call("DBSIZE") == b":0\r\n"
    assert b"db5:keys=" in redis_server.call("INFO keyspace")


def test_unix_socket(start_redis: Callable[..., Redis]) -> None:
    server = start_redis(unix=True)
    assert asked(server.url, lambda client: counts(client, [one("a")])) == [1]


@pytest.mark.parametrize("login", [":s3cret%2F%23@", "default:s3cret%2F%23@", "mixer:another@"])
def test_password_and_user(start_redis: Callable[..., Redis], login: str) -> None:
    server = start_redis("--requirepass", "s3cret/#", "--user", "mixer", "on", ">another", "~*", "+@all")
    url = server.url.replace("redis://", f"redis://{login}")
    assert asked(url, lambda client: counts(client, [one("a")])) == [1]


def test_wrong_password_is_said_once_and_never_shown(start_redis: Callable[..., Redis]) -> None:
    server = start_redis("--requirepass", "right")

    async def scenario(client: RedisCounters) -> tuple[str, str | None]:
        with pytest.raises(CounterError) as caught:
            await counts(client, [one("a")])
        return str(caught.value), client.ready()

    with structlog.testing.capture_logs() as logged:
        message, ready = asked(server.url.replace("redis://", "redis://:wr0ng@"), scenario)
    assert [event["event"] for event in logged] == ["redis_away"]
    assert "AUTH" in message
    assert ready == f"redis at {server.address}: {message.split(': ', 1)[1]}"
    assert "wr0ng" not in message + str(logged)


EXPECTED_URL = (
    "expected redis://[user:password@]host[:port][/db], rediss://… or unix:///path, "
    "with special characters in user and password percent-encoded"
)
BAD_URLS = {
    "redis://localhost:port/0": EXPECTED_URL,
    "redis://:s3c/ret@localhost/0": EXPECTED_URL,
    "redis://localhost/0?socket_timeout=5": "unknown option socket_timeout",
    "rediss://localhost?what=1": "unknown option what; known here: ssl_ca_certs, ssl_ca_path, ssl_cert_reqs, "
    "ssl_certfile, ssl_check_hostname, ssl_ciphers, ssl_keyfile, ssl_password",
    "rediss://localhost?ssl_ca_certs=/no/such/file": "ssl_ca_certs cannot be used: "
    "[Errno 2] No such file or directory",
    "rediss://localhost?ssl_cert_reqs=perhaps": "ssl_cert_reqs cannot be used: "
    "Invalid SSL Certificate Requirements Flag: perhaps",
}


@pytest.mark.parametrize(("url", "message"), BAD_URLS.items())
def test_url_that_cannot_be_used_stops_the_start(url: str, message: str) -> None:
    with pytest.raises(StartError) as caught:
        counters(url)
    assert str(caught.value) == f"rate_limits.redis.url: {message}"


async def error_behind(answers: list[bytes]) -> CounterError:
    """The error of a call to a server that answers what it is told to, whatever it is asked."""

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for answer in answers:
            await reader.read(65536)
            writer.write(answer)
        await reader.read()
        writer.close()

    async with await asyncio.start_server(talk, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        async with connected(f"redis://127.0.0.1:{port}") as client:
            with pytest.raises(CounterError) as caught:
                await counts(client, [one("a"), one("b")])
            return caught.value


PROVED = [b"+OK\r\n", b"*1\r\n:1\r\n"]  # to the connection's name, and to the script call that proves it


@pytest.mark.parametrize(
    ("answers", "reason"),
    [
        ([b"HTTP/1.1 400 Bad Request\r\n\r\n"], "unavailable"),
        ([b"+OK\r\n+OK\r\n"], "unavailable"),
        ([b"+OK\r\n", b"no Redis"], "unavailable"),
        ([b"+OK\r\n", b"-LOADING Redis is loading the dataset in memory\r\n"], "unavailable"),
        ([b"+OK\r\n", b"*1\r\n$-1\r\n"], "unavailable"),
        ([*PROVED, b"no Redis"], "unavailable"),
        ([*PROVED, b"-LOADING Redis is loading the dataset in memory\r\n"], "unavailable"),
        ([*PROVED, b"*2\r\n:1\r\n$29\r\n@user_script: 1: -READONLY no\r\n"], "unavailable"),  # Redis 6
        ([*PROVED, b"-OOM command not allowed\r\n"], "script"),
        ([*PROVED, b"+OK\r\n"], "script"),
        ([*PROVED, b"*1\r\n:1\r\n"], "script"),
        ([*PROVED, b"*2\r\n:1\r\n$-1\r\n"], "script"),
    ],
)
def test_answers_that_are_not_the_script_s_are_errors(answers: list[bytes], reason: str) -> None:
    assert run(error_behind(answers)).reason == reason


# TLS: the test ends it in front of a plain Redis, since not every build of Redis speaks it.


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A self-signed certificate of localhost, and its key."""
    return self_signed(tmp_path_factory.mktemp("tls"))


@pytest.fixture(scope="module")
def other_certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return self_signed(tmp_path_factory.mktemp("tls"))


def self_signed(folder: Path) -> tuple[Path, Path]:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.UTC)
    signed = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    (folder / "cert.pem").write_bytes(signed.public_bytes(serialization.Encoding.PEM))
    (folder / "key.pem").write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
    return folder / "cert.pem", folder / "key.pem"


def pump(source: socket.socket, target: socket.socket) -> None:
    """Carry bytes until either side ends."""
    with contextlib.suppress(OSError):
        while data := source.recv(65536):
            target.sendall(data)
        target.shutdown(socket.SHUT_RDWR)


@contextlib.contextmanager
def tls_in_front_of(
    server: Redis, certificate: tuple[Path, Path], client_ca: Path | None = None
) -> Iterator[int]:
    """The port of a relay that speaks TLS to clients and nothing of it to Redis. With `client_ca`, clients must show a
    certificate of it."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(*certificate)
    if client_ca is not None:
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(client_ca)

    class Relay(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            with (
                contextlib.suppress(OSError),  # a client that does not like the certificate
                context.wrap_socket(self.request, server_side=True) as client,
                socket.create_connection(("127.0.0.1", server.port)) as redis,
            ):
                back = threading.Thread(target=pump, args=(redis, client))
                back.start()
                pump(client, redis)
                back.join()

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Relay) as front:
        thread = threading.Thread(target=front.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield front.server_address[1]
        finally:
            front.shutdown()
            thread.join()


def over_tls(
    server: Redis, certificate: tuple[Path, Path], query: str, client_ca: Path | None = None
) -> list[int] | str | None:
    """The answer to a hit, or why there is none."""

    async def scenario(client: RedisCounters) -> list[int] | str | None:
        reason = client.ready()
        return reason if reason is not None else await counts(client, [one("a")])

    with tls_in_front_of(server, certificate, client_ca) as port:
        return asked(f"rediss://localhost:{port}{query}", scenario)


def test_tls_with_the_authority_of_the_url(redis_server: Redis, certificate: tuple[Path, Path]) -> None:
    assert over_tls(redis_server, certificate, f"/0?ssl_ca_certs={certificate[0]}") == [1]


def test_tls_refuses_a_certificate_of_nobody_known(
    redis_server: Redis, certificate: tuple[Path, Path]
) -> None:
    answer = over_tls(redis_server, certificate, "/0")
    assert isinstance(answer, str)
    assert "certificate verify failed" in answer


def test_tls_refuses_a_certificate_of_another_authority(
    redis_server: Redis, certificate: tuple[Path, Path], other_certificate: tuple[Path, Path]
) -> None:
    answer = over_tls(redis_server, certificate, f"/0?ssl_ca_certs={other_certificate[0]}")
    assert isinstance(answer, str)
    assert "certificate verify failed" in answer


def test_tls_of_both_sides(
    redis_server: Redis, certificate: tuple[Path, Path], other_certificate: tuple[Path, Path]
) -> None:
    query = f"/0?ssl_ca_certs={certificate[0]}"
    own = f"&ssl_certfile={other_certificate[0]}&ssl_keyfile={other_certificate[1]}"
    assert over_tls(redis_server, certificate, query + own, client_ca=other_certificate[0]) == [1]
    assert isinstance(over_tls(redis_server, certificate, query, client_ca=other_certificate[0]), str)


def test_tls_to_each_node_of_a_cluster(certificate: tuple[Path, Path]) -> None:
    async def scenario(url: str) -> list[int]:
        settings = config.RateLimits.model_validate({"redis": {"mode": "cluster", "url": url}})
        client = ClusterCounters(settings, Metrics(CollectorRegistry()))
        await client.start()
        try:
            return await counts(client, [one("a"), one("b")])
        finally:
            await client.close()

    with (
        processes.cluster(primaries=1) as cluster,
        tls_in_front_of(cluster.nodes[0], certificate) as port,
    ):
        node = cluster.nodes[0]
        node._command += ("--cluster-announce-port", str(port))  # as a cluster that speaks TLS alone would
        node.restart()
        processes.wait_until(lambda: b"cluster_state:ok" in node.call("CLUSTER INFO"))
        processes.wait_until(lambda: f":{port}\r\n".encode() in node.call("CLUSTER SLOTS"))
        assert run(scenario(f"rediss://localhost:{port}?ssl_ca_certs={certificate[0]}")) == [1, 1]
