"""A worker seen from the supervisor: started, told what to do, listened to, ended."""

import asyncio
import contextlib
import json
import os
import signal
import socket
import sys
from typing import Any

from mixer.errors import LoadError, MixerError, Problem, StartError
from mixer.loaded import Loaded
from mixer.supervision import WorkerRole, messages
from mixer.supervision.messages import Order, Start

START_TIMEOUT = 120.0  # seconds; policies and data of 100,000 users take 2


class GoneError(MixerError):
    """The worker has ended."""


class Process:
    """One worker. `addresses`, once started: of its listeners. `metrics`: the last that it said of itself."""

    def __init__(self, start: Start) -> None:
        self.role: WorkerRole = start.role
        self.number = start.number
        self.admin = start.admin
        self.digest = start.files.digest
        self.addresses: dict[str, str] = {}
        self.metrics: str | None = None
        self.killed_for: str | None = None
        self.heard = 0.0  # by the loop's clock
        self._start = start
        self._answers: asyncio.Queue[dict[str, Any] | None] = asyncio.Queue()

    @property
    def id(self) -> str:
        """No other process of this supervisor has had it."""
        return f"{self.role} {self.number} {self.pid}"

    @property
    def pid(self) -> int:
        return self._process.pid

    async def start(self) -> None:
        """Returns once it serves. Raises `LoadError` or `StartError` as it said it, or if it ended or did not answer;
        then it is gone."""
        ours, its = socket.socketpair()
        with its:
            self._process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "mixer.supervision.child", str(its.fileno())),
                stdin=asyncio.subprocess.DEVNULL,
                pass_fds=(its.fileno(), *(each for kept in self._start.kept.values() for each in kept)),
                start_new_session=True,  # Ctrl-C is for the supervisor, which drains
                env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            )
        reader, self._writer = await asyncio.open_connection(sock=ours)
        self._listening = asyncio.create_task(self._listen(reader))
        self._writer.write(messages.start(self._start))
        try:
            async with asyncio.timeout(START_TIMEOUT):
                answer = await self._answers.get()
        except TimeoutError:
            await self.end()
            raise StartError(f"{self.name} did not start within {START_TIMEOUT:g} s") from None
        except BaseException:
            await self.end()
            raise
        if answer is None:
            raise StartError(f"{self.name} {await self.wait()} before it was ready")
        if (failed := answer.get("failed")) is not None:
            await self.end()
            raise _raised(failed)
        self.addresses = answer["ready"]
        self.heard = asyncio.get_running_loop().time()

    @property
    def name(self) -> str:
        return f"{self.role} worker {self.number}"

    @property
    def running(self) -> bool:
        return self._process.returncode is None

    async def prepare(self, files: Loaded) -> None:
        """Raises `LoadError` or `StartError`, and `GoneError`."""
        if (problem := (await self._ask("prepare", files))["prepared"]) is not None:
            raise _raised(problem)

    async def exchange(self, files: Loaded) -> None:
        """To what was prepared. Raises `GoneError`."""
        await self._ask("exchange")
        self.digest = files.digest

    def order(self, what: Order, files: Loaded | None = None) -> None:
        """Nothing is waited for."""
        if self.running:
            self._writer.write(messages.order(what, files))

    async def wait(self) -> str:
        """How it ended, once it has: "ended with exit code 1"."""
        code = await self._process.wait()
        await self._listening
        if code < 0:
            return f"ended by {signal.Signals(-code).name}"
        return f"ended with exit code {code}"

    def kill(self, reason: str) -> None:
        self.killed_for = reason
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()

    @property
    def reason(self) -> str:
        """Why it ended, as a metric's label."""
        return self.killed_for or ("signal" if (self._process.returncode or 0) < 0 else "exit")

    async def end(self, within: float = 0.0) -> None:
        """It is killed if it does not end by itself in time."""
        try:
            async with asyncio.timeout(within):
                await self.wait()
        except TimeoutError:
            self.kill("timeout")
            await self.wait()

    async def _ask(self, what: Order, files: Loaded | None = None) -> dict[str, Any]:
        self.order(what, files)
        answer = await self._answers.get()
        if answer is None:
            self._answers.put_nowait(None)
            raise GoneError(f"{self.name} has ended")
        return answer

    async def _listen(self, reader: asyncio.StreamReader) -> None:
        loop = asyncio.get_running_loop()
        while (message := await messages.received(reader)) is not None:
            self.heard = loop.time()
            answer = json.loads(message)
            if "metrics" in answer:
                self.metrics = answer["metrics"]
            elif "beat" not in answer:
                self._answers.put_nowait(answer)
        self._answers.put_nowait(None)
        self._writer.close()


def _raised(failed: dict[str, Any]) -> MixerError:
    if failed["problems"] is None:
        return StartError(failed["message"])
    return LoadError([Problem(*problem) for problem in failed["problems"]])
