"""Workers under a supervisor: `mixer serve` as operators, probes and Envoy see it, while workers come and go."""

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Callable
from pathlib import Path

import grpc
import pytest
from grpc_health.v1.health_pb2 import HealthCheckRequest
from grpc_health.v1.health_pb2_grpc import HealthStub

from tests.components.processes import Mixer, wait_until
from tests.components.server import scratch
from tests.test_reload import Calls, Files, calls, reload, under_load, value

StartMixer = Callable[..., Mixer]
WORKERS = {"check": 2, "report": 1, "hang_timeout": "1s"}


@pytest.fixture
def files(tmp_path: Path) -> Files:
    written = Files(tmp_path, workers=WORKERS, logging={"format": "json"}, drain_timeout="5s")
    del written.sections["rate_limits"]
    written.write_settings()
    return written


def workers(mixer: Mixer) -> list[int]:
    """The ids of the processes that the supervisor has."""
    children = Path(f"/proc/{mixer.pid}/task/{mixer.pid}/children").read_text()
    return [int(pid) for pid in children.split()]


def restarts(mixer: Mixer, reason: str) -> float:
    found = re.findall(
        rf'mixer_worker_restarts_total{{reason="{reason}",role="\w+"}} (\S+)', mixer.call("/metrics")[1]
    )
    return sum(map(float, found))


def all_serve(mixer: Mixer) -> bool:
    serving = [value(mixer, f'mixer_workers_serving{{role="{role}"}}') for role in ("check", "report")]
    return serving == [2, 1]


def test_ready_line_comes_when_all_are_ready_and_pages_are_of_all(
    files: Files, start_mixer: StartMixer
) -> None:
    mixer = start_mixer(files.settings)
    assert list(mixer.addresses) == ["check", "report", "admin"]
    assert len(workers(mixer)) == 3
    assert mixer.call("/readyz") == (200, "ready\n")
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(calls(mixer)) for _ in range(8)]  # of one port, whoever has them
        assert {client.revision() for client in clients} == {"0"}
    assert value(mixer, 'mixer_calls_total{method="Check",code="OK"}') == 8
    assert value(mixer, 'mixer_workers_serving{role="check"}') == 2
    assert mixer.stop() == 0
    logs = mixer.log.read_text()
    assert '"role": "check"' in logs
    assert '"worker": 1' in logs


@pytest.mark.parametrize("server", ["asyncio", "grpcio"])
def test_rolling_restart_of_all_workers_under_load_loses_no_call(
    server: str, files: Files, start_mixer: StartMixer
) -> None:
    files.sections["listeners"]["check"]["server"] = server
    files.write_settings()
    mixer = start_mixer(files.settings)
    before = set(workers(mixer))
    with under_load(mixer, Calls.revision) as heard:
        os.kill(mixer.pid, signal.SIGUSR2)
        wait_until(lambda: "rolling_restart_done" in mixer.log.read_text(), within=60, what="the end of it")
    assert heard["0"] > 100
    assert not before & set(workers(mixer))
    assert restarts(mixer, "rolling") == 3
    assert value(mixer, 'mixer_calls_total{method="Check",code="OK"}') == heard["0"]  # none is forgotten
    assert mixer.stop() == 0
    assert "Traceback" not in mixer.log.read_text()


def test_who_comes_while_a_worker_is_exchanged_is_served_by_its_successor(
    files: Files, start_mixer: StartMixer, tmp_path: Path
) -> None:
    """A buffer on disk has one owner, so that for a while there is no worker."""
    buffer = {"type": "disk", "path": str(tmp_path / "buffer.db")}
    kafka = {"type": "kafka", "bootstrap_servers": ["127.0.0.1:1"], "topic": "t", "buffer": buffer}
    files.sections["telemetry"] = {"sinks": [kafka]}
    files.write_settings()
    mixer = start_mixer(files.settings)

    def come(_: Calls) -> str:
        with grpc.insecure_channel(mixer.report, [("grpc.use_local_subchannel_pool", 1)]) as channel:
            return str(HealthStub(channel).Check(HealthCheckRequest(), timeout=30).status)

    with under_load(mixer, come) as heard:
        os.kill(mixer.pid, signal.SIGUSR2)
        wait_until(lambda: "rolling_restart_done" in mixer.log.read_text(), within=60, what="the end of it")
    assert heard.total() > 10


@pytest.mark.parametrize(
    ("number", "reason"), [(signal.SIGKILL, "signal"), (signal.SIGSTOP, "hang"), (signal.SIGTERM, "exit")]
)
def test_worker_that_dies_hangs_or_ends_is_started_again_and_counted(
    number: signal.Signals, reason: str, files: Files, start_mixer: StartMixer
) -> None:
    mixer = start_mixer(files.settings)
    victim = workers(mixer)[0]
    os.kill(victim, number)
    wait_until(lambda: restarts(mixer, reason) == 1, within=20, what="the end")
    wait_until(lambda: all_serve(mixer), within=30, what="another worker")
    assert victim not in workers(mixer)
    with calls(mixer) as client:
        assert client.revision() == "0"
    assert mixer.call("/readyz") == (200, "ready\n")


def test_one_of_two_check_workers_away_is_degraded_and_both_not_ready(
    files: Files, start_mixer: StartMixer
) -> None:
    files.write_settings(workers={**WORKERS, "hang_timeout": "60s"})
    mixer = start_mixer(files.settings)
    pids = workers(mixer)
    names = {pid: name for pid in pids if (name := held_port(mixer, pid)) is not None}
    check = [pid for pid in pids if pid in names]
    for pid in check[:1]:
        os.kill(pid, signal.SIGSTOP)
    status, text = mixer.call("/readyz")
    assert (status, text.count("does not answer")) == (200, 1)
    os.kill(check[1], signal.SIGSTOP)
    status, text = mixer.call("/readyz")
    assert (status, text.count("not ready: check worker")) == (503, 2)
    for pid in check:
        os.kill(pid, signal.SIGCONT)


def held_port(mixer: Mixer, pid: int) -> str | None:
    """The check port, if the process listens on it."""
    port = f"{int(mixer.check.rpartition(':')[2]):04X}"
    inodes = {
        line.split()[9]
        for line in Path("/proc/net/tcp").read_text().splitlines()[1:]
        if line.split()[1].endswith(f":{port}") and line.split()[3] == "0A"
    }
    for fd in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(OSError):
            if (found := re.fullmatch(r"socket:\[(\d+)\]", os.readlink(fd))) and found[1] in inodes:
                return port
    return None


def test_reloads_under_load_are_taken_by_all_workers_or_none(files: Files, start_mixer: StartMixer) -> None:
    mixer = start_mixer(files.settings)
    with under_load(mixer, Calls.revision) as heard:
        for number in range(1, 21):
            files.write_policy(str(number))
            reload(mixer)
            with calls(mixer) as one, calls(mixer) as other:  # once it is done, no worker is behind
                assert {one.revision(), other.revision()} == {str(number)}
    assert heard.keys() <= set(map(str, range(21)))
    (files.folder / "policies" / "authz.rego").write_text("package envoy.authz\n\nallow := )\n")
    reload(mixer, "failed")
    os.kill(
        workers(mixer)[0], signal.SIGKILL
    )  # who is started again has what the others have, not what lies there
    wait_until(lambda: restarts(mixer, "signal") == 1 and all_serve(mixer), within=30)
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(calls(mixer)) for _ in range(8)]
        assert {client.revision() for client in clients} == {"20"}


def test_mistake_ends_all_before_they_are_ready(files: Files) -> None:
    (files.folder / "policies" / "authz.rego").write_text("package envoy.authz\n\nallow := )\n")
    command = [sys.executable, "-m", "mixer", "serve", "--config", str(files.settings)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.count("authz.rego: line 3") == 1


def test_address_of_another_is_refused(files: Files) -> None:
    with contextlib.closing(socket.create_server(("127.0.0.1", 0), reuse_port=True)) as taken:
        files.sections["listeners"]["check"]["address"] = f"127.0.0.1:{taken.getsockname()[1]}"
        files.write_settings()
        command = [sys.executable, "-m", "mixer", "serve", "--config", str(files.settings)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert "cannot listen on" in done.stderr


def test_workers_end_with_their_supervisor(files: Files, start_mixer: StartMixer) -> None:
    mixer = start_mixer(files.settings)
    pids = workers(mixer)
    mixer.kill()
    wait_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in pids), within=20, what="their end")


def test_reports_go_second_where_the_settings_say_so(files: Files, start_mixer: StartMixer) -> None:
    files.write_settings(workers={**WORKERS, "report_scheduling": "idle"})
    mixer = start_mixer(files.settings)
    policies = sorted(os.sched_getscheduler(pid) for pid in workers(mixer))
    assert policies == [os.SCHED_OTHER, os.SCHED_OTHER, os.SCHED_IDLE]
    assert os.sched_getscheduler(mixer.pid) == os.SCHED_OTHER


def test_one_process_for_both_roles_says_that_reports_cannot_go_second(
    files: Files, start_mixer: StartMixer
) -> None:
    files.write_settings(workers={"report_scheduling": "idle"})
    mixer = start_mixer(files.settings)
    assert os.sched_getscheduler(mixer.pid) == os.SCHED_OTHER
    assert "report_scheduling_unused" in mixer.log.read_text()


def test_workers_with_addresses_of_their_own_on_unix_sockets_too(
    files: Files, start_mixer: StartMixer
) -> None:
    with scratch("sockets") as folder:
        own = [f"unix:{folder}/a.sock", f"unix:{folder}/b.sock"]
        files.sections["listeners"]["check"] = {"addresses": own}
        files.write_settings()
        mixer = start_mixer(files.settings, "--role", "check")
        assert mixer.addresses["check"] == ",".join(own)

        def ask(address: str) -> str:
            with grpc.insecure_channel(address) as channel:
                return Calls(channel).revision()

        assert [ask(address) for address in own] == ["0", "0"]
        os.kill(mixer.pid, signal.SIGUSR2)
        wait_until(lambda: "rolling_restart_done" in mixer.log.read_text(), within=60)
        assert [ask(address) for address in own] == ["0", "0"]
        assert mixer.stop() == 0
        assert list(folder.iterdir()) == []


def test_counters_in_memory_are_looked_at_through_the_supervisor(
    tmp_path: Path, start_mixer: StartMixer
) -> None:
    files = Files(tmp_path, workers={"supervised": True})
    mixer = start_mixer(files.settings)
    with calls(mixer) as client:
        client.quota()
    peek = ["limits", "peek", "--config", str(tmp_path / "asked.yaml"), "d", "user=alice"]
    files.sections["listeners"]["admin"]["address"] = mixer.admin
    (tmp_path / "asked.yaml").write_text(json.dumps(files.sections))
    command = [sys.executable, "-m", "mixer", *peek]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert "used       1" in done.stdout, done.stderr


def test_workers_of_report_share_the_address_of_otlp_over_http(files: Files, start_mixer: StartMixer) -> None:
    files.sections["workers"] = {**WORKERS, "report": 2}
    files.sections["listeners"]["otlp_http"] = {"address": "127.0.0.1:0"}
    files.write_settings()
    mixer = start_mixer(files.settings)
    assert "," not in mixer.addresses["otlp_http"]
    for _ in range(8):  # of one port, whoever has them
        request = urllib.request.Request(
            f"http://{mixer.addresses['otlp_http']}/v1/logs",
            data=b"",
            headers={"content-type": "application/x-protobuf"},
        )
        with urllib.request.urlopen(request) as answer:
            assert answer.status == 200
    assert value(mixer, 'mixer_calls_total{method="ExportHttp",code="OK"}') == 8
    assert mixer.stop() == 0
