"""DNS: names of OPA and Redis, in namespaces where the resolver is the test's. Nothing outside of them is touched."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.faults.table import Row, rows

pytestmark = pytest.mark.timeout(360)  # all rows are played at once

ROOT = Path(__file__).parents[2]
NAMESPACES = ["unshare", "--user", "--map-root-user", "--mount", "--net"]


@pytest.fixture(scope="module")
def outcomes() -> dict[str, str]:
    """What became of each row."""
    tried = subprocess.run([*NAMESPACES, "true"], capture_output=True, text=True, check=False)
    if tried.returncode:
        pytest.fail(
            f"this machine allows no user namespaces, which these tests need: {tried.stderr}", pytrace=False
        )
    command = [*NAMESPACES, sys.executable, "-m", "tests.faults.dns_scene"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=340)
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout))


@pytest.mark.parametrize("row", rows("DNS"), ids=lambda row: row.name)
def test_names_that_cannot_be_resolved(outcomes: dict[str, str], row: Row) -> None:
    assert outcomes[row.name] == "", outcomes[row.name]
