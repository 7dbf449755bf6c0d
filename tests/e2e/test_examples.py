"""The files that operators start from."""

import subprocess
from pathlib import Path

import pytest

from mixer.demo import assets
from tests.components import binaries


def test_envoy_takes_the_example_configuration() -> None:
    command: list[str | Path] = [binaries.envoy(), "--mode", "validate", "-c", assets.envoy_configuration()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert "deprecated" not in done.stderr.lower()


@pytest.mark.parametrize(
    "arguments", [["test"], ["check", "--strict"], ["fmt", "--list", "--fail"]], ids=lambda a: a[0]
)
def test_opa_is_content_with_the_example_policies(arguments: list[str]) -> None:
    command: list[str | Path] = [binaries.opa(), *arguments, assets.policies()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_tests_of_the_example_policies_cover_every_line() -> None:
    command: list[str | Path] = [
        binaries.opa(),
        "test",
        "--coverage",
        "--threshold",
        "100",
        assets.policies(),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr
