"""The file of dead letters: what stands in a line, its bound, and what happens when it cannot be written."""

import asyncio
import base64
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import orjson
import pytest

from mixer import config
from mixer.errors import SinkError
from mixer.telemetry.buffer import Reason
from mixer.telemetry.dead_letters import DeadLetters
from mixer.telemetry.outgoing import Item
from tests.components.disk import full_disk

HALF = 2 * 1024 * 1024


class Kept:
    """Dead letters, and what was told of each."""

    def __init__(self, path: Path) -> None:
        self.told: list[tuple[bytes, Reason, bool]] = []
        settings = config.DeadLetters(path=path, max_bytes=2 * HALF)
        self.letters = DeadLetters("kafka", settings, {"topic": "t", "schema": "s"}, self._written)

    def _written(self, item: Item, reason: Reason, written: bool) -> None:
        self.told.append((item.event_id, reason, written))


def item(number: int, size: int = 10, key: bytes | None = b"k") -> Item:
    return Item(key, b"v" * size, f"event-{number}".encode(), 1_700_000_000_123, size, number, None)


def run(test: Coroutine[Any, Any, None]) -> None:
    asyncio.run(test)


def lines(path: Path) -> list[Any]:
    return [orjson.loads(line) for line in path.read_bytes().splitlines()]


def test_line_has_all_of_the_record(tmp_path: Path) -> None:
    path = tmp_path / "dead.jsonl"

    async def test() -> None:
        kept = Kept(path)
        await kept.letters.start()
        kept.letters.put(item(1), "too_large", "MessageSizeTooLarge")
        kept.letters.put(item(2, key=None), "refused", "INVALID_RECORD")
        await kept.letters.settled()
        assert kept.told == [(b"event-1", "too_large", True), (b"event-2", "refused", True)]
        assert kept.letters.bytes == 0
        assert await kept.letters.close() == []

    run(test())
    first, second = lines(path)
    assert first == {
        "time": "2023-11-14T22:13:20.123+00:00",
        "reason": "too_large",
        "error": "MessageSizeTooLarge",
        "event_id": "event-1",
        "topic": "t",
        "schema": "s",
        "key": base64.b64encode(b"k").decode(),
        "value": base64.b64encode(b"v" * 10).decode(),
    }
    assert (second["event_id"], second["key"]) == ("event-2", None)
    assert path.stat().st_mode & 0o007 == 0


def test_both_files_stay_within_the_bound_and_the_newest_are_kept(tmp_path: Path) -> None:
    path = tmp_path / "dead.jsonl"

    async def test() -> None:
        kept = Kept(path)
        await kept.letters.start()
        for number in range(20):
            kept.letters.put(item(number, 300_000), "too_large", "")
        await kept.letters.settled()
        await kept.letters.close()
        assert all(written for _, _, written in kept.told)

    run(test())
    older = path.with_name("dead.jsonl.1")
    assert path.stat().st_size <= HALF
    assert older.stat().st_size <= HALF
    numbers = [int(line["event_id"].partition("-")[2]) for line in lines(older) + lines(path)]
    assert numbers == list(range(numbers[0], 20))
    assert len(numbers) >= 5


def test_line_that_was_cut_off_does_not_spoil_the_next(tmp_path: Path) -> None:
    path = tmp_path / "dead.jsonl"
    path.write_bytes(b'{"event_id": "ev')

    async def test() -> None:
        kept = Kept(path)
        await kept.letters.start()
        kept.letters.put(item(1), "too_large", "")
        await kept.letters.settled()
        await kept.letters.close()

    run(test())
    assert orjson.loads(path.read_bytes().splitlines()[1])["event_id"] == "event-1"


def test_what_cannot_be_written_is_told(tmp_path: Path) -> None:
    async def test() -> None:
        kept = Kept(tmp_path / "dead.jsonl")
        await kept.letters.start()
        kept.letters.put(item(1, 2 * HALF), "too_large", "")  # never fits
        kept.letters.put(item(2), "too_large", "")
        await kept.letters.settled()
        await kept.letters.close()
        assert [written for _, _, written in kept.told] == [False, True]

    run(test())


def test_full_disk_leaves_no_half_of_a_line(tmp_path: Path) -> None:
    path = tmp_path / "dead.jsonl"

    async def test() -> None:
        kept = Kept(path)
        await kept.letters.start()
        with full_disk():
            for number in range(4):
                kept.letters.put(item(number, 100_000), "too_large", "")
            await kept.letters.settled()
        assert [written for _, _, written in kept.told] == [True, True, False, False]
        kept.letters.put(item(4), "too_large", "")
        await kept.letters.settled()
        await kept.letters.close()

    run(test())
    assert [line["event_id"] for line in lines(path)] == ["event-0", "event-1", "event-4"]


def test_file_that_cannot_be_opened_says_so_at_start(tmp_path: Path) -> None:
    path = tmp_path / "missing" / "dead.jsonl"
    with pytest.raises(SinkError, match=f"kafka: dead_letters.path: cannot append to {path}: No such file"):
        run(Kept(path).letters.start())
