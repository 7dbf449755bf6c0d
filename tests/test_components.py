"""What the tests' own components promise: where they come from, how they are fetched, started and stopped."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.components import binaries, fetch
from tests.components.binaries import AbsentError
from tests.components.processes import Redis, Server, StartError, free_port
from tests.components.server import connect, scratch

ROOT = Path(__file__).parents[1]


@pytest.fixture
def bare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine with nothing on PATH and an empty cache folder. Returns the folder that PATH names."""
    for variable in (
        "MIXER_OPA",
        "MIXER_REDIS_SERVER",
        "MIXER_KAFKA_LIBS",
        "MIXER_RATELIMIT",
        "MIXER_PROMETHEUS",
        "MIXER_FAKETIME",
        "JAVA_HOME",
    ):
        monkeypatch.delenv(variable, raising=False)
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return folder


def script(path: Path, text: str) -> Path:
    """An executable shell script."""
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


def components(*options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "tests.components", *options],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )


def test_every_missing_toolchain_is_named_in_one_message_before_anything_is_fetched(bare: Path) -> None:
    done = components()
    assert done.returncode == 2
    assert done.stdout == ""
    for what in (
        "Go 1.26 or newer",
        "builds OPA 1.22.2, envoyproxy/ratelimit and h2spec",
        "Java 17 or newer",
        "Maven",
        "Prometheus 2.42 or newer",
        "apt install default-jdk-headless faketime golang maven prometheus",
        "MIXER_OPA",
    ):
        assert what in done.stderr
    assert not binaries.cache_folder().exists()


@pytest.mark.parametrize(
    ("version", "toolchain", "enough"),
    [
        ("go1.26.0", "local", True),
        ("go1.30.1", "auto", True),
        ("go1.24.4", "auto", True),
        ("go1.24.4", "local", False),
        ("go1.19.8", "", False),
    ],
)
def test_an_older_go_is_enough_if_it_may_fetch_the_toolchain_that_opa_asks_for(
    bare: Path, version: str, toolchain: str, enough: bool
) -> None:
    script(bare / "go", f"echo {version}; echo {toolchain}")
    script(bare / "java", "echo 'openjdk version \"21.0.1\"' >&2")
    script(bare / "mvn", "")
    script(bare / "prometheus", "echo 'prometheus, version 2.42.0'")
    script(bare / "faketime", "")
    done = components("--check")
    assert (done.returncode, "Go 1.26" in done.stderr) == ((0, False) if enough else (2, True))


def test_a_component_comes_from_its_variable_then_path_then_the_cache(
    bare: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(AbsentError, match=r"python -m tests\.components"):
        binaries.opa()
    binaries.opa_folder().mkdir(parents=True)
    cached = script(binaries.opa_folder() / "opa", "echo Version: 1.22.2")
    assert binaries.opa() == cached
    on_path = script(bare / "opa", "echo Version: 1.30.0")
    assert binaries.opa() == on_path
    named = script(tmp_path / "my-opa", "echo Version: 1.25.0")
    monkeypatch.setenv("MIXER_OPA", str(named))
    assert binaries.opa() == named


def test_an_opa_on_path_that_is_too_old_is_passed_over(bare: Path) -> None:
    script(bare / "opa", "echo Version: 1.9.0")
    with pytest.raises(AbsentError):
        binaries.opa()


def test_a_variable_that_names_nothing_is_an_error_and_not_a_fetch(
    bare: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MIXER_OPA", "/no/such/opa")
    done = components()
    assert done.returncode == 2
    assert done.stderr == "MIXER_OPA names /no/such/opa, which is no executable file\n"


def recipe(target: Path, text: str) -> fetch.Recipe:
    """A recipe whose command is a shell line; it runs with OUT set to the folder to fill."""
    return fetch.Recipe(
        "Thing",
        "1",
        target,
        command=lambda folder: ["/bin/sh", "-c", text],
        env=lambda folder: {"OUT": str(folder)},
        doing="sh",
        count={"fetched ": "files fetched"},
    )


def run(one: fetch.Fetch) -> fetch.Fetch:
    one.start()
    while not one.done:
        os.sched_yield()
    return one


def test_a_fetched_component_is_in_place_and_its_progress_counted(tmp_path: Path) -> None:
    one = run(fetch.Fetch(recipe(tmp_path / "thing-1", "echo x > $OUT/a; echo fetched a; echo fetched b")))
    assert one.error is None
    assert one.status == "sh: 2 files fetched"
    assert [path.name for path in tmp_path.rglob("*")] == ["thing-1", "a"]


def test_a_failed_fetch_says_what_the_command_said_and_leaves_nothing(tmp_path: Path) -> None:
    one = run(fetch.Fetch(recipe(tmp_path / "thing-1", "echo x > $OUT/a; echo the network is away; exit 3")))
    assert one.error is not None
    assert "exit code 3" in one.error
    assert "the network is away" in one.error
    assert list(tmp_path.iterdir()) == []


def test_a_cancelled_fetch_leaves_nothing(tmp_path: Path) -> None:
    one = fetch.Fetch(recipe(tmp_path / "thing-1", "echo x > $OUT/a; echo fetched a; exec sleep 60"))
    one.start()
    while "1 files" not in one.status:
        os.sched_yield()
    one.cancel()
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_fetch_left_is_removed_by_the_next_one(bare: Path) -> None:
    half = binaries.cache_folder() / ".partial-opa-1-xyz"
    half.mkdir(parents=True)
    (half / "opa").touch()
    with fetch.alone(lambda: pytest.fail("nothing else holds the folder")):
        assert not half.exists()


def test_a_server_that_ends_at_once_shows_its_log() -> None:
    with scratch("test") as folder:
        server = Server(
            "broken", ["sh", "-c", "echo no such option; exit 7"], folder=folder, answers=lambda: False
        )
        with pytest.raises(StartError, match=r"(?s)broken ended with exit code 7.*no such option"):
            server.start()


def test_a_server_that_never_answers_is_stopped_and_shows_its_log() -> None:
    with scratch("test") as folder:
        server = Server(
            "mute",
            ["sh", "-c", "echo still thinking; exec sleep 60"],
            folder=folder,
            answers=lambda: False,
            within=0.3,
        )
        with pytest.raises(StartError, match=r"(?s)mute did not answer within 0.3 s.*still thinking"):
            server.start()
        assert not server.running


def test_a_paused_redis_holds_its_connections_and_answers_once_resumed(
    start_redis: Callable[..., Redis],
) -> None:
    redis = start_redis()
    redis.pause()
    with connect(redis.address) as connection:
        connection.settimeout(0.2)
        connection.sendall(b"PING\r\n")
        with pytest.raises(TimeoutError):
            connection.recv(100)
        redis.resume()
        connection.settimeout(5)
        assert connection.recv(100) == b"+PONG\r\n"


def test_a_killed_redis_comes_back_on_the_same_port(start_redis: Callable[..., Redis]) -> None:
    redis = start_redis()
    port, pid = redis.port, redis.pid
    redis.kill()
    with pytest.raises(ConnectionRefusedError):
        redis.call("PING")
    redis.restart()
    assert redis.call("PING") == b"+PONG\r\n"
    assert (redis.port, redis.pid != pid) == (port, True)


def test_the_run_s_redis_is_empty_at_the_start_of_a_test(redis_server: Redis, redis_url: str) -> None:
    assert redis_server.call("DBSIZE") == b":0\r\n"


def test_a_free_port_is_none_that_a_client_s_connection_could_take() -> None:
    first, _ = map(int, Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split())
    ports = [free_port() for _ in range(50)]
    assert max(ports) < first
    assert len(set(ports)) == 50
