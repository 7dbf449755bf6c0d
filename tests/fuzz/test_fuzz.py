"""Every input that once broke something, or shows what is read, goes through its target; and some new ones do."""

import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.fuzz import corpus
from tests.fuzz.targets import TARGETS, judged, quiet

SECONDS = 20  # that new inputs are looked for; `python -m tests.fuzz` takes any time
SLOWEST = 2.0  # seconds of processor time for one input


@pytest.mark.parametrize("name", TARGETS)
def test_known_inputs_are_taken_or_refused_in_time(name: str) -> None:
    with quiet():
        target = TARGETS[name]()
        for file, data in corpus(name).items():
            started = time.process_time()
            judged(target, data)
            assert time.process_time() - started < SLOWEST, file


if find_spec("atheris"):  # see pyproject.toml

    @pytest.mark.timeout(300)
    def test_new_inputs_find_nothing(tmp_path: Path) -> None:
        command = [
            sys.executable,
            "-m",
            "tests.fuzz",
            "all",
            f"--seconds={SECONDS}",
            "--seed=1",
            f"--findings={tmp_path}",
        ]
        ended = subprocess.run(command, capture_output=True, text=True, timeout=280, check=False)
        found = {file.name: file.read_bytes()[:200] for file in tmp_path.iterdir()}
        assert ended.returncode == 0, f"{found}\n{ended.stderr[-4000:]}"
