"""Three minutes of what `python -m benchmarks.soak` does for an hour."""

import pytest
from rich.console import Console

from benchmarks.soak import soak


@pytest.mark.timeout(600)
def test_load_with_reloads_and_faults_comes_out_even() -> None:
    results = soak(minutes=3, rate=40, console=Console(width=140))
    assert [each for each in results if not each.even] == []
