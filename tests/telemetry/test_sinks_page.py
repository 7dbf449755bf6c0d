"""docs/sinks.md: its sink is taken from the page, and does what a sink promises."""

import asyncio
import importlib
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest
import yaml

from mixer import config
from mixer.backends import SINKS
from mixer.errors import SettingsError, SinkError
from mixer.telemetry.record import ACCESS
from mixer.telemetry.sink import OK, Receipt
from tests.contract.destinations import DEADLINE, Account, ids, run, until
from tests.telemetry.entries import new_metrics, records

PAGE = (Path(__file__).parents[2] / "docs" / "sinks.md").read_text("utf-8")
CODE, YAML = (re.findall(rf"```{kind}\n(.*?)```", PAGE, re.DOTALL)[0] for kind in ("python", "yaml"))


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    (tmp_path / "lines_over_tcp.py").write_text(CODE)
    monkeypatch.syspath_prepend(str(tmp_path))
    importlib.invalidate_caches()
    (sink,) = config.Config.model_validate(yaml.safe_load(YAML)).telemetry.sinks
    yield sink
    sys.modules.pop("lines_over_tcp", None)


class Receiver:
    """A TCP server that keeps lines."""

    def __init__(self) -> None:
        self.lines: list[bytes] = []

    async def start(self, port: int = 0) -> int:
        self.server = await asyncio.start_server(self._take, "127.0.0.1", port)
        return int(self.server.sockets[0].getsockname()[1])

    async def _take(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        async for line in reader:
            self.lines.append(line)
        writer.close()


def made(settings: Any, **chosen: Any) -> tuple[Any, Account]:
    metrics = new_metrics()
    sink = SINKS["python"](settings.model_copy(update={"settings": chosen}), metrics, ACCESS, "python")
    return sink, Account(metrics, sink)


def test_records_arrive_also_when_the_other_side_comes_later(settings: Any) -> None:
    async def test() -> None:
        receiver = Receiver()
        port = await receiver.start()
        receiver.server.close()
        sink, account = made(settings, port=port)
        await sink.start()
        written, receipt = records(50), Receipt(50)
        sink.write(written, receipt)
        await until(lambda: "cannot send" in sink.status())
        assert (account.buffered, receipt.open, account.held) == (50, 50, True)
        await receiver.start(port)
        await asyncio.wait_for(receipt.settled(), DEADLINE)
        await until(lambda: len(receiver.lines) == 50)
        assert [orjson.loads(line)["event_id"] for line in receiver.lines] == ids(written)
        assert (receipt.lost, account.delivered, sink.status(), account.held) == ({}, 50, OK, True)
        await sink.close(1)
        receiver.server.close()
        await until(lambda: len(asyncio.all_tasks()) == 1)

    run(test())


def test_what_does_not_fit_and_what_is_left_is_counted(settings: Any) -> None:
    async def test() -> None:
        sink, account = made(settings, port=1, max_records=10)
        await sink.start()
        receipt = Receipt(15)
        sink.write(records(15), receipt)
        assert (account.buffered, account.dropped("buffer_full")) == (10, 5)
        await sink.close(0.1)
        sink.write(records(1))
        assert receipt.lost == {"buffer_full": 5, "shutdown": 10}
        assert (account.buffered, account.dropped("shutdown"), account.held) == (0, 11, True)

    run(test())


def test_sink_says_at_start_what_can_never_work(settings: Any) -> None:
    sink, _ = made(settings)
    with pytest.raises(SinkError, match=r"settings.port: expected"):
        run(sink.start())


@pytest.mark.parametrize(
    ("factory", "told"),
    [
        (
            "no_such_module:Sink",
            "python: factory: cannot import no_such_module: No module named 'no_such_module'",
        ),
        ("lines_over_tcp:Sink", "python: factory: lines_over_tcp has no Sink"),
    ],
)
def test_factory_that_cannot_be_had_is_told(settings: Any, factory: str, told: str) -> None:
    with pytest.raises(SinkError, match=re.escape(told)):
        made(settings.model_copy(update={"factory": factory}))


def test_factory_is_a_module_and_a_class(tmp_path: Path) -> None:
    file = tmp_path / "mixer.yaml"
    file.write_text("telemetry: {sinks: [{type: python, factory: lines_over_tcp}]}")
    with pytest.raises(SettingsError, match=r"telemetry\.sinks\[0\]\.factory: expected"):
        config.load(file)
