"""`mixer top` beside a real `mixer serve`, as the person at the terminal sees it."""

import contextlib
import os
import pty
import re
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from envoy.service.auth.v3.external_auth_pb2 import CheckRequest
from envoy.service.ratelimit.v3.rls_pb2 import RateLimitRequest

from mixer import cli
from tests.components.processes import Mixer, free_port

POLICY = 'package envoy.authz\n\nallow := input.attributes.request.http.method == "GET"\n'
LIMITS = """\
domain: shop
descriptors: [{key: user, rate_limit: {unit: day, requests_per_unit: 3, name: per-user}}]
"""
CHECK = "/envoy.service.auth.v3.Authorization/Check"
QUOTA = "/envoy.service.ratelimit.v3.RateLimitService/ShouldRateLimit"

StartMixer = Callable[..., Mixer]


def settings(folder: Path, **sections: Any) -> dict[str, Any]:
    (folder / "authz.rego").write_text(POLICY)
    (folder / "limits.yaml").write_text(LIMITS)
    listeners = {name: {"address": "127.0.0.1:0"} for name in ("check", "report")}
    return {
        "listeners": listeners | {"admin": {"address": f"127.0.0.1:{free_port()}"}},
        "policy": {"paths": [folder / "authz.rego"]},
        "rate_limits": {"paths": [folder / "limits.yaml"]},
        **sections,
    }


@contextlib.contextmanager
def traffic(mixer: Mixer) -> Iterator[None]:
    """Of four checks one is denied; one user is over the limit. It lasts until the end of the block."""
    ends = threading.Event()
    sent = threading.Event()

    def send() -> None:
        quota_request = RateLimitRequest(domain="shop")
        quota_request.descriptors.add().entries.add(key="user", value="alice")
        with grpc.insecure_channel(mixer.check) as channel:
            check = channel.unary_unary(CHECK, CheckRequest.SerializeToString)
            quota = channel.unary_unary(QUOTA, RateLimitRequest.SerializeToString)
            while not ends.is_set():
                for method in ("GET", "GET", "GET", "POST"):
                    request = CheckRequest()
                    request.attributes.request.http.method = method
                    check(request, timeout=10)
                quota(quota_request, timeout=10)
                sent.set()

    thread = threading.Thread(target=send)
    thread.start()
    assert sent.wait(20)
    try:
        yield
    finally:
        ends.set()
        thread.join()


def once(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "mixer", "top", "--once", *map(str, arguments)]
    environment = {name: value for name, value in os.environ.items() if name != "COLUMNS"}
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, env=environment)


def row(frame: str, start: str) -> list[str]:
    """The figures in the line that begins like this."""
    (line,) = (line for line in frame.splitlines() if line.startswith(start))
    return line.removeprefix(start).split()


def number(text: str) -> float:
    return float(text.replace(",", "").rstrip("%"))


def test_a_frame_shows_calls_denials_limits_cache_and_sinks(start_mixer: StartMixer, tmp_path: Path) -> None:
    kafka = {"type": "kafka", "bootstrap_servers": [f"127.0.0.1:{free_port()}"]}
    mixer = start_mixer(settings(tmp_path, telemetry={"sinks": [kafka]}))
    with traffic(mixer):
        done = once("--address", mixer.admin, "--interval", "1s")
    assert (done.returncode, done.stderr) == (0, "")
    frame = done.stdout
    assert max(map(len, frame.splitlines())) <= 80
    assert f"mixer top  {mixer.admin}" in frame
    assert "\nready\ndegraded: kafka: " in frame
    rate, failed, p50, unit, *_ = row(frame, "Check ")
    assert number(rate) > 10
    assert (failed, float(p50) > 0, unit) == ("0", True, "ms")
    allowed, denied, errors, share, _ = row(frame, "envoy/authz/allow ")
    assert number(allowed) > 2 * number(denied) > 0
    assert (errors, 15 < number(share) < 35) == ("0", True)
    assert number(row(frame, "cache: ")[0]) > 90
    within, _, over, _, refused = row(frame, "per-user ")
    assert (within, number(over) > 1, refused) == ("0", True, "100.0%")
    assert row(frame, "kafka ") == ["0", "0", "0", "0.0%", "-"]
    assert re.search(r"^process: \d+% of a core, [1-9]\d+ MiB$", frame, re.MULTILINE)


def test_what_fails_is_named_with_its_reason(start_mixer: StartMixer, tmp_path: Path) -> None:
    redis = {"counters": "redis", "redis": {"url": f"redis://127.0.0.1:{free_port()}"}, "on_error": "allow"}
    chosen = settings(tmp_path)
    chosen["rate_limits"] |= redis
    mixer = start_mixer(chosen)
    with traffic(mixer):
        frame = once("--address", mixer.admin, "--interval", "500ms").stdout
    assert "degraded: redis at 127.0.0.1" in frame
    assert "counters: 1 Redis not asked, its breaker is open" in frame
    assert re.search(r"^failed counter calls/s: redis unavailable [\d.,]+$", frame, re.MULTILINE)
    assert re.search(r"^answered by on_error/s: allow [\d.,]+$", frame, re.MULTILINE)


def test_a_name_that_a_terminal_would_obey_is_shown_as_it_is(start_mixer: StartMixer, tmp_path: Path) -> None:
    chosen = settings(tmp_path)
    (tmp_path / "limits.yaml").write_text(LIMITS.replace("per-user", r'"[/x]\e[2J:bomb:"'))
    mixer = start_mixer(chosen)
    with traffic(mixer):
        done = once("--address", mixer.admin, "--interval", "500ms")
    assert (done.returncode, done.stderr) == (0, "")
    assert row(done.stdout, "[/x]·[2J:bomb: ")[-1] == "100.0%"


def test_the_settings_name_the_listener(start_mixer: StartMixer, tmp_path: Path) -> None:
    mixer = start_mixer(settings(tmp_path))
    file = tmp_path / "mixer.yaml"
    file.write_text(f'listeners: {{admin: {{address: "{mixer.admin}"}}}}\n')
    assert mixer.admin in once("--config", file, "--interval", "100ms").stdout


def test_nobody_there_is_told_in_a_line() -> None:
    address = f"127.0.0.1:{free_port()}"
    done = once("--address", address)
    message = f"mixer: no Mixer answers on {address}: Connection refused\n"
    assert (done.returncode, done.stdout, done.stderr) == (1, "", message)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--interval", "5"], 'expected a duration such as "500ms", "10s", "5m" or "1h", got "5"'),
        (["--interval", "0s"], "mixer top: --interval: expected 100ms or more, got 0s"),
        (["--address", "9901"], 'expected "host:port"'),
        (["--address", "unix:/x"], 'expected "host:port"'),
        ([], "standard output is no terminal; --once prints one frame"),
    ],
)
def test_mistaken_arguments_are_explained(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    try:
        code: Any = cli.main(["top", *arguments])
    except SystemExit as ended:
        code = ended.code
    assert code == 2
    assert message in capsys.readouterr().err


def test_without_rich_it_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "rich", None)
    assert cli.main(["top"]) == 1
    assert capsys.readouterr().err == "mixer: mixer top needs rich: pip install 'mixer[top]'\n"


class Terminal:
    """`mixer top` in a terminal of 80 columns and 40 lines."""

    def __init__(self, *arguments: str) -> None:
        self._master, slave = pty.openpty()
        # What is ignored here stays so in a child, and in the background a shell has SIGINT ignored.
        before = signal.signal(signal.SIGINT, signal.default_int_handler)
        try:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "mixer", "top", *arguments],
                stdin=slave,
                stdout=slave,
                stderr=slave,
                env={**os.environ, "TERM": "xterm", "COLUMNS": "80", "LINES": "40"},
            )
        finally:
            signal.signal(signal.SIGINT, before)
        os.close(slave)

    def wait_for(self, text: str, within: float = 30) -> None:
        """Read until this text comes."""
        shown, end = "", time.monotonic() + within
        while text not in shown:
            ready, _, _ = select.select([self._master], [], [], max(0.0, end - time.monotonic()))
            assert ready, f"no {text!r} within {within:g} s in:\n{shown}"
            shown += os.read(self._master, 65536).decode("utf-8", "replace")

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self._master)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_mixer_that_goes_away_is_awaited(
    start_mixer: StartMixer, tmp_path: Path, number: signal.Signals
) -> None:
    mixer = start_mixer(settings(tmp_path))
    with contextlib.closing(Terminal("--address", mixer.admin, "--interval", "100ms")) as terminal:
        terminal.wait_for("ready")
        mixer.kill()
        terminal.wait_for(f"no Mixer answers on {mixer.admin}: Connection refused")
        terminal.wait_for("away since")
        mixer.start()
        terminal.wait_for("ShouldRateLimit")
        terminal.process.send_signal(number)
        terminal.wait_for("\x1b[?1049l")  # the screen is as it was
        assert terminal.process.wait(10) == 0
