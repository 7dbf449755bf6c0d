"""The file of a spool by itself: whatever is written and deleted, the rest is there, and nothing else."""

import contextlib
import sqlite3
import tempfile
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mixer.telemetry import spool_rows
from mixer.telemetry.outgoing import Item
from mixer.telemetry.spool_file import CorruptError, Found, SpoolFile, ranges
from tests.telemetry.items import chunk_of, items_of

ALL = 1 << 30
# What is noted of rows that are no more.
FORGOTTEN = """
    SELECT first FROM gone
    WHERE NOT EXISTS (SELECT 1 FROM chunks WHERE gone.first BETWEEN chunks.first AND chunks.first + count - 1)
"""
Step = tuple[list[tuple[bytes | None, bytes, int]], set[int], bool]
"""Records to be inserted (key, value, timestamp), numbers to be deleted, and whether another process goes on."""

STEPS = st.lists(
    st.tuples(
        st.lists(
            st.tuples(
                st.none() | st.binary(max_size=5),
                st.binary(max_size=spool_rows.MAX_ROW // 1000),
                st.integers(-(1 << 63), (1 << 63) - 1),
            ),
            max_size=12,
        ),
        st.sets(st.integers(1, 60), max_size=40),
        st.booleans(),
    ),
    max_size=8,
)


@settings(deadline=None, max_examples=100)
@given(STEPS)
def test_what_is_left_is_what_was_written_and_not_deleted(steps: list[Step]) -> None:
    most, spool_rows.MAX_ROW = spool_rows.MAX_ROW, 300
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "spool.db"
        file = SpoolFile(path, ALL)
        left: list[Item] = []
        number = 0
        try:
            for records, numbers, another in steps:
                if another:
                    file.close()
                    file = SpoolFile(path, ALL)
                batch = []
                for key, value, timestamp in records:
                    number += 1
                    size = len(value) + 20
                    batch.append(Item(key, value, b"event-%d" % number, timestamp, size, number, None))
                gone = {
                    each for each in numbers if each <= number - len(batch)
                }  # also those that are gone already
                file.write(written(gone), [chunk_of(batch)] if batch else [])
                left = [item for item in left if item.number not in gone] + batch
                assert (items_of(file.read(0, ALL)) if left else []) == left
                for after in (number // 3, number // 2):
                    rest = [item for item in left if item.number > after]
                    assert (items_of(file.read(after, 1)) if rest else []) == rest[:1]
                found = file.look()
                assert (found.records, found.bytes) == (len(left), sum(item.size for item in left))
                assert found.next_seq > max((item.number for item in left), default=0)
        finally:
            spool_rows.MAX_ROW = most
            file.close()
        if steps:
            with contextlib.closing(sqlite3.connect(path)) as database:
                assert database.execute(FORGOTTEN).fetchall() == []


def written(numbers: set[int]) -> list[Sequence[int]]:
    """Numbers as they come to be deleted: some of them run by run, the others each by itself."""
    found: list[Sequence[int]] = [range(first, last + 1) for first, last in ranges([sorted(numbers)])]
    return [each for run in found for each in ([run] if len(run) > 2 else [list(run)])]


def item(number: int, value: bytes) -> Item:
    return Item(None, value, b"event", 1, len(value), number, None)


def test_record_larger_than_a_row_should_be_has_one_for_itself(tmp_path: Path) -> None:
    batch = [item(1, b"a"), item(2, b"b" * 2 * spool_rows.MAX_ROW), item(3, b"c")]
    assert [row[:2] for row in spool_rows.rows([chunk_of(batch)])] == [(1, 1), (2, 1), (3, 1)]
    file = SpoolFile(tmp_path / "spool.db", ALL)
    file.write((), [chunk_of(batch)])
    assert items_of(file.read(0, ALL)) == batch
    file.close()


def test_deleting_what_is_not_there_does_not_touch_the_rest(tmp_path: Path) -> None:
    """As is done with what was in the sender's hands when a file was set aside."""
    file = SpoolFile(tmp_path / "spool.db", ALL)
    file.write((), [chunk_of([item(10, b"a"), item(11, b"b")])])
    file.write([[3, 4], range(9, 11)], [chunk_of([item(14, b"c")])])
    file.write([[12, 13], [10, 10]], ())
    file.write([[14], [14]], [chunk_of([item(15, b"d")])])
    assert items_of(file.read(0, ALL)) == [item(11, b"b"), item(15, b"d")]
    file.close()


@pytest.mark.parametrize(
    "damage",
    [
        "lengths = substr(lengths, 9)",
        "data = substr(data, 2)",
        "lengths = zeroblob(length(lengths))",
        "lengths = CAST(substr(lengths, 1, length(lengths) - 1) || x'ff' AS BLOB)",
        "count = 0",
    ],
)
def test_row_that_is_not_what_was_written_is_told(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "spool.db"
    file = SpoolFile(path, ALL)
    file.write((), [chunk_of([item(1, b"a"), item(2, b"b")])])
    file.close()
    with contextlib.closing(sqlite3.connect(path)) as database:
        database.execute(f"UPDATE chunks SET {damage}")
        database.commit()
    with pytest.raises(CorruptError, match=r"damaged|missing"):
        SpoolFile(path, ALL).read(0, ALL)


def test_empty_file_has_nothing(tmp_path: Path) -> None:
    file = SpoolFile(tmp_path / "spool.db", ALL)
    assert file.look() == Found(0, 0, 1)
    file.close()
