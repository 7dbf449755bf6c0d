"""A worker's process: serves one role, and does as the supervisor says. It ends with the supervisor."""

import asyncio
import contextlib
import signal
import socket
import sys
from typing import Any

import structlog
import uvloop
from aiohttp import web

from mixer import config
from mixer import log as logs
from mixer.admin.server import AdminServer
from mixer.errors import LoadError, MixerError
from mixer.exposition import dump
from mixer.loaded import Loaded
from mixer.runtime import Runtime
from mixer.supervision import FAMILIES, messages
from mixer.supervision.messages import Start
from mixer.worker import drain, freeze

log = structlog.get_logger()

_STREAMS_END = 1.0  # seconds that are waited for clients whose streams end only in the drain


class Worker:
    def __init__(self, start: Start, writer: asyncio.StreamWriter) -> None:
        settings = config.of_worker(start.files.settings, start.number)
        self._start = start
        self._writer = writer
        self._runtime = Runtime.build(settings, start.role, start.files.revision, start.files.of(settings))
        self._admin = AdminServer(
            f"unix:{start.admin}",
            self._runtime.registry,
            self._runtime.not_ready,
            self._runtime.degraded,
            self._runtime.serving,
            pages=lambda: [web.get(FAMILIES, self._families), *self._runtime.pages()],
        )
        self._prepared: tuple[Loaded, Any] | None = None

    async def run(self, reader: asyncio.StreamReader) -> None:
        """Serve until told to end. Raises `LoadError` or `StartError` where it cannot start."""
        loop = asyncio.get_running_loop()
        orders = asyncio.ensure_future(self._obey(reader))
        for number in (signal.SIGINT, signal.SIGHUP, signal.SIGUSR2):
            loop.add_signal_handler(number, lambda: None)  # of a group: they are for the supervisor
        loop.add_signal_handler(signal.SIGTERM, orders.cancel)
        loop.add_signal_handler(signal.SIGUSR1, self._runtime.reopen)
        try:
            await self._runtime.start(
                {
                    name: [socket.socket(fileno=each) for each in kept]
                    for name, kept in self._start.kept.items()
                }
            )
            await self._admin.start()
        except BaseException:
            orders.cancel()
            await self._runtime.close(1.0)
            raise
        freeze()
        addresses = {name: front.address for name, front in self._runtime.fronts.items()}
        self._writer.write(messages.told(ready=addresses))
        beats = asyncio.create_task(self._beat())
        handed_over = False
        with contextlib.suppress(asyncio.CancelledError):
            handed_over = await orders == "retire"
        if handed_over:
            await self._hand_over()
        await drain(self._runtime)
        beats.cancel()
        self._writer.write(messages.told(metrics=dump(self._runtime.registry).decode()))
        await self._admin.close()
        with contextlib.suppress(OSError):
            await self._writer.drain()

    async def _families(self, _: web.Request) -> web.Response:
        """All metrics, as the supervisor adds them up."""
        told = await asyncio.to_thread(dump, self._runtime.registry)
        return web.Response(body=told, content_type="application/json")

    async def _beat(self) -> None:
        while True:
            self._writer.write(messages.told(beat=True))
            await asyncio.sleep(self._start.beat)

    async def _obey(self, reader: asyncio.StreamReader) -> str:
        """Until an order to end, which is answered."""
        while (message := await messages.received(reader)) is not None:
            what, files = messages.ordered(message)
            if what in ("stop", "retire"):
                return str(what)
            if what == "prepare" and files is not None:
                self._writer.write(messages.told(prepared=await self._prepare(files)))
            elif what == "exchange" and self._prepared is not None:
                (fresh, prepared), self._prepared = self._prepared, None
                await self._runtime.exchange(fresh, prepared)
                self._writer.write(messages.told(exchanged=True))
            elif what == "discard" and self._prepared is not None:
                (_, prepared), self._prepared = self._prepared, None
                await self._runtime.discard(prepared)
            elif what == "reopen":
                self._runtime.reopen()
        return "stop"

    async def _prepare(self, files: Loaded) -> dict[str, Any] | None:
        """What is wrong with it, if anything is."""
        files = files.of(config.of_worker(files.settings, self._start.number))
        try:
            self._prepared = files, await self._runtime.prepare(files)
        except MixerError as error:
            return failure(error)
        except Exception as error:
            log.exception("prepare_failed")
            return {"message": f"internal error: {type(error).__name__}", "problems": None}
        return None

    async def _hand_over(self) -> None:
        timeout = {"check": self._runtime.settings.drain_timeout / 2, "report": _STREAMS_END}
        for name, limit in timeout.items():
            if (front := self._runtime.fronts.get(name)) is not None:
                await front.hand_over(limit)


def failure(error: MixerError) -> dict[str, Any]:
    """An error, to be raised by the supervisor."""
    problems = error.problems if isinstance(error, LoadError) else None
    return {
        "message": str(error),
        "problems": problems and [(each.file, each.path, each.expected, each.got) for each in problems],
    }


async def _main(control: socket.socket) -> int:
    reader, writer = await asyncio.open_connection(sock=control)
    message = await messages.received(reader)
    if message is None:
        return 1
    start = messages.started(message)
    logs.setup(start.files.settings.logging, role=start.role, worker=start.number)
    try:
        await Worker(start, writer).run(reader)
    except MixerError as error:
        writer.write(messages.told(failed=failure(error)))
        await writer.drain()
        return 1
    sys.stdout.flush()
    return 0


if __name__ == "__main__":
    sys.exit(uvloop.run(_main(socket.socket(fileno=int(sys.argv[1])))))
