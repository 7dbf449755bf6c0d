"""The table says something of every fault of every dependency, and docs/faults.md says the same."""

import itertools
from pathlib import Path

import pytest

from tests.faults.table import DEPENDENCIES, FAULTS, ROWS, SENSELESS, markdown

PAGE = Path(__file__).parents[2].joinpath("docs", "faults.md").read_text("utf-8")


@pytest.mark.parametrize(("dependency", "fault"), [*itertools.product(DEPENDENCIES, FAULTS)])
def test_each_fault_of_each_has_a_row_or_a_reason(dependency: str, fault: str) -> None:
    stated = {(row.dependency, row.fault) for row in ROWS}
    reasons = {(none.dependency, none.fault) for none in SENSELESS}
    assert ((dependency, fault) in stated) != ((dependency, fault) in reasons)


def test_no_two_rows_have_one_name() -> None:
    assert len({row.name for row in ROWS}) == len(ROWS)


@pytest.mark.parametrize("dependency", DEPENDENCIES)
def test_the_page_has_the_table(dependency: str) -> None:
    _, found, rest = PAGE.partition(f"\n## {dependency}\n")
    assert found
    section = rest.partition("\n## ")[0].splitlines()
    lines = [line for line in section if line.startswith(("| ", "|-", "- "))]
    assert lines == [line for line in markdown(dependency) if line]
