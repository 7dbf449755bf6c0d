"""The candidate's process, seen from Mixer: started, fed, listened to, ended."""

import asyncio
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from mixer import config
from mixer.errors import MixerError, PolicyError, Problem, StartError
from mixer.plain import plain
from mixer.shadow.frames import frame, split

_AT_ONCE = 256 * 1024  # bytes that are read together
START_TIMEOUT = 60.0  # seconds; parsing policies and data of 100,000 users takes 2


class GoneError(MixerError):
    """The process has ended by itself."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the candidate decided. `allowed` is None where that is no legal decision; `error` says why."""

    allowed: bool | None
    result: str | None
    error: str | None


class Candidate:
    """Evaluates requests in a process of its own, one after the other.

    In a process, since nothing less keeps the answers of Check from harm: an evaluation may take any time and memory,
    a thread of this process cannot be ended, and its Python shares the interpreter with the event loop. `policy`: the
    settings of the candidate's engine; `compared`: see `config.Policy`; `tarballs`: of its bundles.

    `decisions`, once started: the candidate's decision for each of the live policy's, both as paths.
    """

    def __init__(
        self,
        policy: config.Policy,
        compared: Mapping[str, tuple[str, bool]],
        logging: config.Logging,
        tarballs: Sequence[bytes] = (),
    ) -> None:
        self.decisions: dict[str, str] = {}
        self.revision = ""
        settings = {
            "policy": plain(policy, secrets=True),
            "compared": dict(compared),
            "logging": plain(logging),
            "tarballs": len(tarballs),
        }
        self._settings = [orjson.dumps(settings), *tarballs]
        self._process: asyncio.subprocess.Process | None = None
        self._received = bytearray()

    async def start(self) -> None:
        """Raises `PolicyError` for policies that cannot be used, `StartError` where the process does not come up."""
        self._received.clear()
        self._process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "mixer.shadow"),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            start_new_session=True,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        )
        try:
            self._write(self._settings)
            async with asyncio.timeout(START_TIMEOUT):
                [told] = await self._read()
        except (GoneError, TimeoutError):
            await self.close()
            raise StartError("the process of the shadow policy does not start; its log says why") from None
        except BaseException:
            await self.close()
            raise
        if "problems" in told:
            await self.close()
            raise PolicyError([Problem(*problem) for problem in told["problems"]])
        self.revision, self.decisions = told["revision"], told["decisions"]

    def check(self) -> None:
        """Raises `GoneError` where the process has ended."""
        if self._process is None or self._process.returncode is not None:
            raise GoneError("the process of the shadow policy has ended")

    def send(self, questions: Sequence[bytes]) -> None:
        """Hand over questions (see `frames`); a verdict comes for each, in order. Raises `GoneError`."""
        self._write(questions)

    async def verdicts(self) -> list[Verdict]:
        """The next verdicts, waited for until there is one. Raises `GoneError` where none will come."""
        return [Verdict(**told) for told in await self._read()]

    async def close(self) -> None:
        """End the process, whatever it does."""
        if (process := self._process) is None:
            return
        self._process = None
        if process.returncode is None:
            process.kill()
        if process.stdin is not None:
            process.stdin.close()
        await process.wait()

    def _write(self, messages: Sequence[bytes]) -> None:
        """Raises `GoneError` where the process has closed its end."""
        if self._process is None or self._process.stdin is None:
            return
        try:
            self._process.stdin.writelines(map(frame, messages))
        except (OSError, RuntimeError):  # uvloop's, of a pipe that is closed
            raise GoneError("the process of the shadow policy has ended") from None

    async def _read(self) -> list[dict[str, Any]]:
        while not (frames := split(self._received)):
            if self._process is None or self._process.stdout is None:
                raise GoneError("the process of the shadow policy has ended")
            try:
                data = await self._process.stdout.read(_AT_ONCE)
            except OSError:
                data = b""
            if not data:
                raise GoneError("the process of the shadow policy has ended")
            self._received += data
        return [orjson.loads(told) for told in frames]
