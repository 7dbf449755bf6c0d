"""The file of a spool by itself: whatever is written and deleted, the rest is there, and nothing else."""

import contextlib
import sqlite3
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mixer.telemetry import chunks
from mixer.telemetry.item import Item
from mixer.telemetry.spool_file import CorruptError, Found, SpoolFile

ALL = 1 << 30
Step = tuple[list[tuple[bytes | None, bytes, int]], set[int], bool]
"""Records to be inserted (key, value, timestamp), numbers to be deleted, and whether another process goes on."""

STEPS = st.lists(
    st.tuples(
        st.lists(
            st.tuples(
                st.none() | st.binary(max_size=5),
                st.binary(max_size=chunks.MAX_CHUNK // 1000),
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
    most, chunks.MAX_CHUNK = chunks.MAX_CHUNK, 300
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
                    batch.append((key, value, b"event-%d" % number, timestamp, size, number, None))
                gone = {
                    each for each in numbers if each <= number - len(batch)
                }  # also those that are gone already
                file.write(gone, batch)
                left = [item for item in left if item[5] not in gone] + batch
                assert (file.read(0, ALL) if left else []) == left
                for after in (number // 3, number // 2):
                    rest = [item for item in left if item[5] > after]
                    assert (file.read(after, 1) if rest else []) == rest[:1]
                found = file.look()
                assert (found.records, found.bytes) == (len(left), sum(item[4] for item in left))
                assert found.next_seq > max((item[5] for item in left), default=0)
        finally:
            chunks.MAX_CHUNK = most
            file.close()


def item(number: int, value: bytes) -> Item:
    return None, value, b"event", 1, len(value), number, None


def test_record_larger_than_a_row_should_be_has_one_for_itself(tmp_path: Path) -> None:
    batch = [item(1, b"a"), item(2, b"b" * 2 * chunks.MAX_CHUNK), item(3, b"c")]
    assert [row[:2] for row in chunks.rows(batch)] == [(1, 1), (2, 1), (3, 1)]
    file = SpoolFile(tmp_path / "spool.db", ALL)
    file.write((), batch)
    assert file.read(0, ALL) == batch
    file.close()


def test_deleting_what_is_not_there_does_not_touch_the_rest(tmp_path: Path) -> None:
    """As is done with what was in the sender's hands when a file was set aside."""
    file = SpoolFile(tmp_path / "spool.db", ALL)
    file.write((), [item(10, b"a"), item(11, b"b")])
    file.write([3, 4, 9, 10], [item(14, b"c")])
    file.write([12, 13, 10, 10], ())
    file.write([14, 14], [item(15, b"d")])
    assert file.read(0, ALL) == [item(11, b"b"), item(15, b"d")]
    file.close()


@pytest.mark.parametrize(
    "damage",
    [
        "lengths = substr(lengths, 9)",
        "data = substr(data, 2)",
        "lengths = zeroblob(length(lengths))",
        "count = 0",
    ],
)
def test_row_that_is_not_what_was_written_is_told(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "spool.db"
    file = SpoolFile(path, ALL)
    file.write((), [item(1, b"a"), item(2, b"b")])
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
