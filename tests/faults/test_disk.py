"""The disk: a Kafka sink's spool and a file sink, in a folder that is missing, full, taken away or garbled."""

import contextlib
import fcntl
import os
import resource
import shutil
import threading
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.components import processes
from tests.components.processes import Kafka, StartError
from tests.faults import stage
from tests.faults.scene import Scene, scene
from tests.faults.table import rows

BY_HOW = {row.how: row for row in rows("disk")}
ENOUGH = 300_000  # bytes that a file may have, after which the disk is full


@dataclass(frozen=True, slots=True)
class Disk:
    """The folder of the sinks' files, beside that of the policy."""

    kafka: Kafka
    topic: str
    folder: Path
    data: Path

    @property
    def spool(self) -> Path:
        return self.data / "spool.db"

    def settings(self, file: str = "access.jsonl") -> dict[str, Any]:
        buffer = {"type": "disk", "path": str(self.spool)}
        return stage.embedded(
            self.folder,
            {"paths": [str(self.folder / "policies")]},
            stage.kafka(self.kafka.bootstrap, self.topic, **buffer),
            {"type": "file", "path": str(self.data / file)},
        )

    @contextlib.contextmanager
    def scene(self, file: str = "access.jsonl") -> Iterator[Scene]:
        with processes.mixer(self.settings(file)) as mixer, scene(mixer) as made:
            yield made


@pytest.fixture(scope="module")
def disk(own_kafka: Kafka, tmp_path_factory: pytest.TempPathFactory) -> Disk:
    topic = f"faults-{uuid.uuid4()}"
    own_kafka.create_topic(topic, 2)
    folder = stage.folder_of(tmp_path_factory.mktemp("faults"))
    (folder / "data").mkdir()
    return Disk(own_kafka, topic, folder, folder / "data")


@pytest.fixture(scope="module")
def made(disk: Disk) -> Iterator[Scene]:
    with disk.scene() as running:
        yield running


def test_a_start_without_the_folder_is_refused(disk: Disk) -> None:
    missing = Disk(disk.kafka, disk.topic, disk.folder, disk.folder / "missing")
    with pytest.raises(
        StartError, match=r"exit code 1(.|\n)*buffer\.path: cannot use .*No such file or directory"
    ):
        processes.mixer(missing.settings()).__enter__()
    missing.data.mkdir()
    with missing.scene() as late:
        late.is_as_before(20)


def fill(made: Scene, times: int) -> None:
    for _ in range(times):
        made.ask.all()


def test_it_is_full(disk: Disk, made: Scene) -> None:
    def limit(size: int) -> Callable[[], object]:
        return lambda: resource.prlimit(made.mixer.pid, resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))

    made.play(BY_HOW["no space is left"], limit(4096), limit(resource.RLIM_INFINITY))
    assert made.series().total("mixer_sink_dropped_total") == 0


def test_it_is_taken_away(disk: Disk, made: Scene) -> None:
    made.play(BY_HOW["its folder is removed"], lambda: shutil.rmtree(disk.data), disk.data.mkdir)
    assert made.series().total("mixer_sink_dropped_total") == 0
    assert disk.spool.exists()


def test_it_is_garbled(disk: Disk) -> None:
    row = BY_HOW["the spool's file is garbage, at start"]
    disk.spool.unlink(missing_ok=True)
    for more in disk.data.glob("spool.db-*"):
        more.unlink()
    disk.spool.write_bytes(os.urandom(20_000))
    with disk.scene() as late:
        late.is_as_before(20)
        assert late.watched(row) == 1
    assert len(list(disk.data.glob("spool.db.corrupt-*"))) == 1


@contextlib.contextmanager
def pipe(path: Path) -> Iterator[Callable[[bool], None]]:
    """A named pipe, and what has it read from or not."""
    os.mkfifo(path)
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    fcntl.fcntl(reader, fcntl.F_SETPIPE_SZ, 4096)  # the least that it may hold
    reads, ended = threading.Event(), threading.Event()

    def drain() -> None:
        while not ended.is_set():
            if reads.wait(0.05):
                with contextlib.suppress(BlockingIOError):
                    os.read(reader, 4096)
                ended.wait(0.002)

    thread = threading.Thread(target=drain)
    thread.start()
    try:
        yield lambda on: reads.set() if on else reads.clear()
    finally:
        ended.set()
        thread.join()
        os.close(reader)


def test_it_hangs(disk: Disk) -> None:
    row = BY_HOW["a file sink's write does not return"]
    with pipe(disk.data / "pipe") as reading:
        reading(True)
        with disk.scene("pipe") as late:
            late.play(row, lambda: reading(False), lambda: reading(True))


def test_room_that_is_back_is_used(disk: Disk, made: Scene) -> None:
    row = BY_HOW["with room again"]
    made.is_as_before(20)
    before = made.series().total("mixer_sink_received_total", sink="kafka")
    resource.prlimit(made.mixer.pid, resource.RLIMIT_FSIZE, (4096, resource.RLIM_INFINITY))
    fill(made, 5)
    resource.prlimit(made.mixer.pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY,) * 2)
    made.is_as_before(row.back)
    made.mixer.wait_until(
        lambda: made.series().total("mixer_sink_buffered", sink="kafka") == 0, 10, "deliver what waited"
    )
    series = made.series()
    assert series.total("mixer_sink_received_total", sink="kafka") >= before + 10
    assert series.total("mixer_sink_dropped_total") == 0
