"""Settings, policies, data and limits, read again while Mixer runs: on SIGHUP, and when their files change."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import structlog

from mixer import config, loaded
from mixer.errors import LoadError, MixerError, Problem
from mixer.loaded import Loaded
from mixer.metrics import ProcessMetrics
from mixer.reloadable import settled

log = structlog.get_logger()

_SETTLES = 0.1  # seconds between two looks until files that change are left alone
_MOST_PROBLEMS = 20  # that are logged of one attempt

Apply = Callable[[Loaded], Awaitable[None]]
"""Serves by something else from now on. Raises `MixerError`; then nothing has changed."""


class Reloads:
    """What is read is given to `apply` only if it is right, and one at a time; else all stays as it was.

    `first`: what is served now. `read`: see `loaded.load`.
    """

    def __init__(
        self, file: Path, first: Loaded, apply: Apply, metrics: ProcessMetrics, *, read: bool = True
    ) -> None:
        self._file = file
        self._read_files = read
        self._apply = apply
        self._metrics = metrics
        self._pushed = _pushed(first)
        self._current = first.bare()
        self._waiting: tuple[str, ...] = ()  # keys that need a restart
        self._failure: str | None = None
        self._asked = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        self._tasks = [asyncio.create_task(self._run())]
        if self._current.settings.reload.watch:
            self._tasks.append(asyncio.create_task(self._watch()))

    def ask(self) -> None:
        """Read again, soon. What is asked for meanwhile comes to one more time."""
        self._asked.set()

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def problems(self) -> list[str]:
        """What is wrong with what was read last, and which settings need a restart."""
        found = [] if self._failure is None else [f"reload: {self._failure}"]
        return found + [f"settings: {key} needs a restart" for key in self._waiting]

    async def _run(self) -> None:
        while True:
            await self._asked.wait()
            self._asked.clear()
            await self._reload()

    async def _watch(self) -> None:
        seen: object = None
        while True:
            if (now := await self._stamp()) != seen:
                while (later := await self._later()) != now:
                    now = later
                seen = now
                self.ask()
            await asyncio.sleep(self._current.settings.reload.interval)

    async def _stamp(self) -> object:
        # In a thread: a file system may be slow, or away.
        return await asyncio.to_thread(loaded.stamp, self._file, self._current.settings)

    async def _later(self) -> object:
        await asyncio.sleep(_SETTLES)
        return await self._stamp()

    async def _reload(self) -> None:
        waiting: tuple[str, ...] = ()
        try:
            fresh, waiting = await asyncio.to_thread(self._read)
            if fresh.digest != self._current.digest:
                await self._apply(fresh)
        except MixerError as error:
            self._failed(error)
            return
        except Exception as error:  # a reload that broke off must not be the last one
            log.exception("reload_failed")
            self._failed(error)
            return
        self._failure = None
        self._metrics.reload_failing.set(0)
        self._wait_for_restart(waiting)
        changed = fresh.digest != self._current.digest
        self._metrics.reloads.labels("applied" if changed else "unchanged").inc()
        self._current = fresh.bare()
        if changed:
            revision = None if fresh.sources is None else fresh.sources.revision
            log.info("reloaded", settings=fresh.revision, policy=revision)

    def _read(self) -> tuple[Loaded, tuple[str, ...]]:
        running, waiting = self._current.settings, list[str]()

        def settle(wanted: config.Config) -> config.Config:
            settings, waiting[:] = settled(running, wanted, str(self._file))
            return settings

        fresh = loaded.load(self._file, settle, read=self._read_files)
        if _pushed(fresh) != self._pushed:
            waiting.append("policy.paths, which are pushed to OPA at the start,")
        return fresh, tuple(waiting)

    def _wait_for_restart(self, waiting: tuple[str, ...]) -> None:
        if waiting and waiting != self._waiting:
            log.warning("reload_needs_restart", keys=list(waiting))
        self._waiting = waiting
        self._metrics.restart_needed.set(len(waiting))

    def _failed(self, error: Exception) -> None:
        self._metrics.reloads.labels("failed").inc()
        self._metrics.reload_failing.set(1)
        problems = error.problems if isinstance(error, LoadError) else ()
        for problem in problems[:_MOST_PROBLEMS]:
            _told(problem)
        if not problems:
            log.error("reload_failed", error=str(error) or type(error).__name__)
        self._failure = str(problems[0] if problems else error)


def _told(problem: Problem) -> None:
    log.error(
        "reload_failed",
        file=problem.file,
        path=problem.path,
        expected=problem.expected,
        got=problem.got,
    )


def _pushed(files: Loaded) -> str | None:
    """The revision of what an OPA server is given."""
    policy = files.settings.policy
    is_pushed = policy is not None and policy.engine == "opa" and policy.opa.push
    return files.sources.revision if is_pushed and files.sources is not None else None
