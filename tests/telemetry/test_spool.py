"""Records on disk, by themselves: what is handed on, what is left for the next process, and files that fail."""

import asyncio
import contextlib
import os
import shutil
import signal
import sqlite3
import time
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path

import pytest

from mixer.errors import SinkError
from mixer.telemetry import spool as module
from mixer.telemetry import spool_file
from mixer.telemetry.outgoing import Chunk, Item
from mixer.telemetry.spool import Spool
from mixer.telemetry.spool_file import Found, SpoolFile, ranges
from tests.components.disk import SmallDisk, full_disk, small_disk
from tests.telemetry.items import chunk_of, items_of

MAX_BYTES = 64 * 1024 * 1024


def items(first: int, count: int, size: int = 100) -> list[Item]:
    return [
        Item(
            b"key" if number % 2 else None,
            b"v" * size,
            f"event-{number}".encode(),
            1_700_000_000_000,
            size,
            number,
            None,
        )
        for number in range(first, first + count)
    ]


class Opened:
    """A spool, and what it has handed on."""

    def __init__(self, path: Path, max_bytes: int = MAX_BYTES) -> None:
        self.handed: list[Item] = []
        self.set_aside: list[tuple[int, int]] = []
        self.spool = Spool("kafka", path, max_bytes, self._handed, self._set_aside)
        self.found = Found(0, 0, 1)

    def _handed(self, chunks: Sequence[Chunk]) -> None:
        self.handed += items_of(chunks)

    def _set_aside(self, records: int, size: int) -> None:
        self.set_aside.append((records, size))

    def put(self, items: Sequence[Item]) -> None:
        self.spool.put(chunk_of(items))

    def remove(self, items: Sequence[Item]) -> None:
        self.spool.remove([(item.number,) for item in items], sum(item.size for item in items))

    async def until(self, condition: Callable[[], bool]) -> None:
        end = time.monotonic() + 20
        while not condition():
            assert time.monotonic() < end, "what was waited for did not happen"
            await asyncio.sleep(0.005)

    async def got(self, count: int) -> None:
        await self.until(lambda: len(self.handed) >= count)


@contextlib.asynccontextmanager
async def opened(path: Path, max_bytes: int = MAX_BYTES) -> AsyncIterator[Opened]:
    made = Opened(path, max_bytes)
    made.found = await made.spool.start()
    try:
        yield made
    finally:
        await made.spool.close(5)


def on_disk(path: Path) -> list[int]:
    """The numbers of the records in a file that nobody has open."""
    file = SpoolFile(path, MAX_BYTES)
    try:
        return [item.number for item in items_of(file.read(0, MAX_BYTES))]
    finally:
        file.close()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "spool.db"


def test_records_are_handed_on_as_they_were_put(path: Path) -> None:
    async def test() -> None:
        async with opened(path) as it:
            put = items(1, 100)
            it.put(put[:30])
            it.put(put[30:])
            await it.got(100)
            assert it.handed == put
            assert it.spool.waiting == it.spool.waiting_records == 0

    asyncio.run(test())


def test_what_was_not_removed_is_found_by_the_next(path: Path) -> None:
    async def test() -> None:
        put = items(1, 10)
        async with opened(path) as it:
            it.put(put)
            await it.got(10)
            it.remove([put[0], put[1], put[5]])
        left = [put[number] for number in (2, 3, 4, 6, 7, 8, 9)]
        assert on_disk(path) == [item.number for item in left]
        async with opened(path) as it:
            assert it.found == Found(7, 700, 11)
            await it.got(7)
            assert it.handed == left
            it.put(items(11, 1))
            await it.got(8)
            assert it.handed[-1].number == 11

    asyncio.run(test())


def test_durable_means_that_another_process_reads_it(path: Path) -> None:
    """The child is killed as soon as it has said so."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:

        async def put() -> None:
            it = Opened(path)
            await it.spool.start()
            it.put(items(1, 1000))
            await it.spool.durable()
            os.write(writing, b"durable")
            await asyncio.Event().wait()

        try:
            asyncio.run(put())
        finally:
            os._exit(1)
    try:
        assert os.read(reading, 7) == b"durable"
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        os.close(reading)
        os.close(writing)
    assert on_disk(path) == list(range(1, 1001))


def test_long_queue_is_in_memory_by_its_head_alone(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "WINDOW", 1000)

    async def test() -> None:
        async with opened(path) as it:
            put = items(1, 500)
            for start in range(0, 500, 10):
                it.put(put[start : start + 10])
                await it.spool.durable()
            assert 10 <= len(it.handed) <= 20
            removed = 0
            while removed < 500:
                await it.got(removed + 1)
                assert len(it.handed) - removed <= 20
                it.remove(it.handed[removed : removed + 7])
                removed = min(removed + 7, len(it.handed))
            assert it.handed == put

    asyncio.run(test())


def test_second_process_is_refused(path: Path) -> None:
    async def test() -> None:
        async with opened(path):
            with pytest.raises(SinkError, match=f"cannot use {path}: another process has it open"):
                await Opened(path).spool.start()

    asyncio.run(test())


def test_path_that_cannot_be_used_says_so(tmp_path: Path) -> None:
    with pytest.raises(SinkError, match=r"kafka: buffer.path: cannot use .*missing/spool.db: No such file"):
        asyncio.run(Opened(tmp_path / "missing" / "spool.db").spool.start())


def test_file_of_another_version_is_left_alone(path: Path) -> None:
    with contextlib.closing(sqlite3.connect(path)) as database:
        database.execute("PRAGMA user_version = 7")
    with pytest.raises(
        SinkError,
        match="its schema is version 7; expected 2: deliver what it has with the Mixer that wrote it",
    ):
        asyncio.run(Opened(path).spool.start())


def spoiled_head(path: Path) -> None:
    with path.open("r+b") as file:
        file.write(b"no database at all")


def spoiled_pages(path: Path) -> None:
    with path.open("r+b") as file:
        file.seek(4096)
        file.write(os.urandom(path.stat().st_size - 4096))


def cut_off(path: Path) -> None:
    os.truncate(path, 10_000)


def spoiled_list_of_free_pages(path: Path) -> None:
    """Reads go well, and a write would take pages that are in use."""
    with path.open("r+b") as file:
        file.seek(32)
        file.write((3).to_bytes(4, "big") + (5).to_bytes(4, "big"))


@pytest.mark.parametrize("spoil", [spoiled_head, spoiled_pages, cut_off, spoiled_list_of_free_pages])
def test_corrupt_file_is_set_aside_at_start(path: Path, spoil: Callable[[Path], None]) -> None:
    async def test() -> None:
        async with opened(path) as it:
            it.put(items(1, 500))
            await it.got(500)
        spoil(path)
        async with opened(path) as it:
            assert it.found == Found(0, 0, 1)
            await it.until(lambda: bool(it.set_aside))
            assert it.set_aside == [(0, 0)]
            it.put(items(1, 3))
            await it.got(3)
        assert on_disk(path) == [1, 2, 3]
        assert len(list(path.parent.glob("spool.db.corrupt-*"))) == 1

    asyncio.run(test())


def test_file_that_turns_out_corrupt_is_set_aside_and_what_it_lost_is_told(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "WINDOW", 50_000)
    monkeypatch.setattr(spool_file, "CACHE", 64 * 1024)  # pages that are in memory are good

    async def test() -> None:
        async with opened(path) as it:
            it.put(items(1, 6000, size=1000))
            await it.spool.durable()
        async with opened(path) as it:
            await it.until(lambda: bool(it.handed))
            spoiled_pages(path)
            before: list[Item] = []
            while not it.set_aside:  # what was read before is good
                it.remove(it.handed[len(before) :])
                before[:] = it.handed
                await it.until(lambda: bool(it.set_aside) or len(it.handed) > len(before))
            (lost, size) = it.set_aside[0]
            assert lost == 6000 - len(it.handed)
            assert size == 1000 * lost
            it.put(items(6001, 5))
            await it.until(lambda: it.handed[-1].number == 6005)

    asyncio.run(test())


def test_full_disk_holds_records_back_until_there_is_room(path: Path) -> None:
    async def test() -> None:
        async with opened(path) as it:
            with full_disk():
                put = items(1, 1000, size=1000)
                it.put(put)
                await it.until(lambda: it.spool.trouble is not None)
                assert "cannot write to" in (it.spool.trouble or "")
                assert it.spool.waiting_records > 0
            await it.got(1000)
            assert it.handed == put
            await it.until(lambda: it.spool.trouble is None)

    asyncio.run(test())


def test_full_disk_is_left_by_delivery_alone(path: Path) -> None:
    async def test() -> None:
        async with opened(path) as it:
            with full_disk():
                put = items(1, 1000, size=1000)
                it.put(put)
                removed = 0
                while removed < 1000:
                    await it.got(removed + 1)
                    it.remove(it.handed[removed:])
                    removed = len(it.handed)
                assert it.handed == put
                await it.until(lambda: not it.spool.waiting)

    asyncio.run(test())


@pytest.mark.parametrize("more", [True, False])
def test_disk_that_was_full_is_told_no_more(tmp_path: Path, more: bool) -> None:
    """Whether something is still to be written when there is room again, or all that was to be done was to delete."""

    async def test(disk: SmallDisk) -> None:
        async with opened(disk.folder / "spool.db") as it:
            put = items(1, 300, size=1000)
            it.put(put)
            await it.got(300)
            with disk.full():
                if more:
                    it.put(items(301, 300, size=1000))
                else:
                    it.remove(put)
                await it.until(lambda: it.spool.trouble is not None)
                if not more:  # a file in which nothing is needed makes room by going
                    await it.until(lambda: not (disk.folder / "spool.db").exists())
            if more:
                await it.got(600)
            await it.until(lambda: it.spool.trouble is None)

    with small_disk(tmp_path / "disk") as disk:
        asyncio.run(test(disk))


def test_bound_of_the_file_holds(path: Path) -> None:
    async def test() -> None:
        async with opened(path, max_bytes=512 * 1024) as it:
            it.put(items(1, 1000, size=1000))
            await it.until(lambda: it.spool.trouble is not None)
            assert path.stat().st_size <= 512 * 1024
            removed = 0
            while removed < 1000:
                await it.got(removed + 1)
                it.remove(it.handed[removed:])
                removed = len(it.handed)
            assert path.stat().st_size <= 512 * 1024

    asyncio.run(test())


@pytest.mark.parametrize(
    ("numbers", "expected"),
    [
        ([], []),
        ([[3]], [(3, 3)]),
        ([[1, 2, 3]], [(1, 3)]),
        ([[5, 1], (2, 9), [4]], [(1, 2), (4, 5), (9, 9)]),
        ([range(4, 8), (3, 9), range(1, 3), range(5, 6)], [(1, 7), (9, 9)]),
    ],
)
def test_numbers_are_deleted_by_their_runs(
    numbers: Sequence[Sequence[int]], expected: list[tuple[int, int]]
) -> None:
    assert list(ranges(numbers)) == expected


def test_file_that_is_removed_is_told_and_left_once_nothing_in_it_is_needed(path: Path) -> None:
    async def test() -> None:
        async with opened(path) as it:
            first, second = items(1, 3), items(4, 2)
            it.put(first)
            await it.got(3)
            path.unlink()
            it.put(second)
            await it.until(lambda: it.spool.trouble is not None)
            assert it.spool.trouble == f"cannot write to {path}: it was removed"
            assert it.spool.waiting_records == 2
            it.remove(first)
            await it.got(5)
            assert (it.spool.trouble, it.handed) == (None, [*first, *second])
        assert on_disk(path) == [4, 5]

    asyncio.run(test())


def test_folder_that_is_removed_is_written_to_again_when_it_is_back(path: Path) -> None:
    folder = path.parent / "folder"
    folder.mkdir()

    async def test() -> None:
        async with opened(folder / "spool.db") as it:
            shutil.rmtree(folder)
            it.put(items(1, 2))
            await it.until(lambda: "No such file or directory" in (it.spool.trouble or ""))
            folder.mkdir()
            await it.got(2)
            assert it.spool.trouble is None
        assert on_disk(folder / "spool.db") == [1, 2]

    asyncio.run(test())
