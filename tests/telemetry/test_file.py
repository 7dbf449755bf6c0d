"""The file sink's file: rotated, moved away, synchronised."""

import asyncio
import os
from pathlib import Path
from typing import Any

import orjson
import pytest

from mixer import config
from mixer.telemetry import file as module
from mixer.telemetry import rotation
from mixer.telemetry.file import FileSink
from mixer.telemetry.rotation import LogFile
from mixer.telemetry.sink import OK, Receipt
from tests.contract.destinations import Account, ids, run, until
from tests.telemetry.entries import new_metrics, records

MEGABYTE = 1024 * 1024


class Clock:
    """Time that a test tells."""

    def __init__(self, now: float = 1_700_000_000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "records.jsonl"


def settings(path: Path, **more: Any) -> config.FileSink:
    return config.FileSink.model_validate({"type": "file", "path": path, **more})


def opened(path: Path, clock: Clock, **more: Any) -> LogFile:
    file = LogFile(settings(path, **more), clock)
    file.open()
    return file


def test_full_file_becomes_the_first_of_the_old_ones_and_the_oldest_goes(path: Path) -> None:
    file = opened(path, Clock(), rotation={"max_bytes": MEGABYTE, "keep": 2})
    for letter in b"abcde":
        file.write(bytes([letter]) * (MEGABYTE * 2 // 3) + b"\n")
    file.close()
    first = {each.name: each.read_bytes()[:1] for each in path.parent.iterdir()}
    assert first == {"records.jsonl": b"e", "records.jsonl.1": b"d", "records.jsonl.2": b"c"}


def test_line_that_is_written_in_parts_stays_in_one_file(path: Path) -> None:
    file = opened(path, Clock(), rotation={"max_bytes": MEGABYTE})
    file.write(b"a" * (MEGABYTE - 1))
    file.write(b"b" * 100 + b"\n")
    file.write(b"c\n")
    file.close()
    assert path.read_bytes() == b"c\n"
    assert path.with_name("records.jsonl.1").stat().st_size == MEGABYTE + 100


def test_each_span_of_time_has_its_file(path: Path) -> None:
    clock = Clock(3600.0 * 1000)
    age = {"max_age": "1h", "max_bytes": None, "keep": 9}
    file = opened(path, clock, rotation=age)
    file.write(b"1\n")
    clock.now += 3599
    file.write(b"2\n")
    clock.now += 1
    file.write(b"3\n")
    clock.now += 7200
    file.write(b"4\n")
    file.close()
    assert path.read_bytes() == b"4\n"
    assert path.with_name("records.jsonl.1").read_bytes() == b"3\n"
    assert path.with_name("records.jsonl.2").read_bytes() == b"1\n2\n"


def test_file_of_an_earlier_process_is_rotated_by_its_own_time(path: Path) -> None:
    clock = Clock(3600.0 * 1000)
    path.write_bytes(b"old\n")
    os.utime(path, (clock.now - 1, clock.now - 1))
    file = opened(path, clock, rotation={"max_age": "1h"})
    file.write(b"new\n")
    file.close()
    assert path.read_bytes() == b"new\n"
    assert path.with_name("records.jsonl.1").read_bytes() == b"old\n"


def test_sink_rotates_and_loses_nothing(path: Path) -> None:
    async def test() -> None:
        metrics = new_metrics()
        sink = FileSink(settings(path, rotation={"max_bytes": MEGABYTE, "keep": 50}), metrics)
        await sink.start()
        written = [each for _ in range(8) for each in records(1000)]
        for start in range(0, len(written), 500):
            sink.write(written[start : start + 500])
        await until(lambda: Account(metrics, sink).delivered == len(written))
        await sink.close(5)
        files = [*sorted(path.parent.glob("*.jsonl.*"), key=lambda each: -int(each.suffix[1:])), path]
        assert len(files) > 2
        assert all(each.stat().st_size <= MEGABYTE for each in files)
        lines = [line for each in files for line in each.read_bytes().splitlines()]
        assert [orjson.loads(line)["event_id"] for line in lines] == ids(written)

    run(test())


def test_file_that_was_moved_away_is_opened_anew_on_demand(path: Path) -> None:
    async def test() -> None:
        metrics = new_metrics()
        sink = FileSink(settings(path), metrics)
        await sink.start()
        sink.write(records(2))
        await until(lambda: Account(metrics, sink).delivered == 2)
        moved = path.rename(path.with_name("moved"))
        sink.reopen()
        await until(path.exists)
        sink.write(records(3))
        await sink.close(5)
        assert (moved.read_bytes().count(b"\n"), path.read_bytes().count(b"\n")) == (2, 3)

    run(test())


def test_file_that_was_removed_is_made_anew(path: Path) -> None:
    async def test() -> None:
        metrics = new_metrics()
        sink = FileSink(settings(path), metrics)
        await sink.start()
        sink.write(records(2))
        await until(lambda: Account(metrics, sink).delivered == 2)
        path.unlink()
        sink.write(records(3))
        await sink.close(5)
        assert path.read_bytes().count(b"\n") == 3

    run(test())


class Disk:
    """`fdatasync`, counted; fails while `broken`."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.broken = False
        self.synced: list[int] = []  # the file's size each time
        monkeypatch.setattr(os, "fdatasync", self._sync)

    def _sync(self, file: int) -> None:
        if self.broken:
            raise OSError(5, "Input/output error")
        self.synced.append(os.fstat(file).st_size)


def test_line_counts_as_delivered_once_it_is_on_the_disk(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    disk = Disk(monkeypatch)
    monkeypatch.setattr(module, "RETRY", 0.05)

    async def test() -> None:
        metrics = new_metrics()
        sink = FileSink(settings(path, fsync="batch"), metrics)
        await sink.start()
        disk.broken = True
        written, receipt = records(3), Receipt(3)
        sink.write(written, receipt)
        await until(lambda: sink.status() == f"cannot write to {path}: Input/output error")
        assert (receipt.open, Account(metrics, sink).delivered) == (3, 0)
        disk.broken = False
        await asyncio.wait_for(receipt.settled(), 10)
        assert (receipt.lost, Account(metrics, sink).delivered, sink.status()) == ({}, 3, OK)
        assert disk.synced == [path.stat().st_size]
        # What a disk has refused may be lost: it was written again, and each has its id.
        found = [orjson.loads(line)["event_id"] for line in path.read_bytes().splitlines()]
        assert found[-3:] == ids(written)
        assert set(found) == set(ids(written))
        await sink.close(5)

    run(test())


def test_lines_are_synchronised_at_intervals_also_when_no_more_come(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = Disk(monkeypatch)
    monkeypatch.setattr(module, "SYNC_INTERVAL", 0.05)
    monkeypatch.setattr(rotation, "SYNC_INTERVAL", 0.05)

    async def test() -> None:
        metrics = new_metrics()
        sink = FileSink(settings(path, fsync="interval"), metrics)
        await sink.start()
        for turn in (1, 2):
            sink.write(records(1))
            await until(lambda turn=turn: Account(metrics, sink).delivered == turn)
            await until(lambda: bool(disk.synced) and disk.synced[-1] == path.stat().st_size > 0)
        sink.write(records(1))
        await sink.close(5)
        assert disk.synced[-1] == path.stat().st_size

    run(test())


def test_nothing_is_synchronised_where_it_is_not_asked_for(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = Disk(monkeypatch)

    async def test() -> None:
        sink = FileSink(settings(path), new_metrics())
        await sink.start()
        sink.write(records(1))
        await sink.close(5)

    run(test())
    assert disk.synced == []
