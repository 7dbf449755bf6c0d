"""Bundles kept up to date: polled, read in a thread, activated together; what is wrong never replaces what is right."""

import asyncio
import contextlib
import gc
import random
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Generic, Protocol, TypeVar

import aiohttp
import structlog

from mixer import config
from mixer.errors import BundleError, LoadError, PolicyError, StartError
from mixer.metrics import Metrics
from mixer.policy import bundle
from mixer.policy.bundle import Bundle
from mixer.policy.download import Download

log = structlog.get_logger()

_FIRST_RETRY = 0.5  # seconds after a first failed download; doubled up to the poll interval
_FIRST_WAIT = 5.0  # seconds that a start waits for servers that do not answer; other calls are to be served
_JITTER = 0.1  # share of the poll interval, so that a fleet does not ask at one moment


class Revised(Protocol):
    """What a tarball was made into; its revision may be known only once it is activated."""

    @property
    def revision(self) -> str: ...


Made = TypeVar("Made", bound=Revised)
Read = Callable[[config.Bundle, bytes], Made]
Activate = Callable[[Sequence[Made]], Awaitable[None]]


def reader(settings: config.Policy) -> Read[Bundle]:
    """Reads and verifies tarballs of `settings.bundles`; it may do so in a thread, and raises `PolicyError`. Raises it
    now for keys that cannot be used."""
    limit = settings.bundle_size_limit
    if not settings.keys:
        return lambda each, raw: bundle.read(each.name, raw, limit, None)
    from mixer.policy.signatures import Verifier, keys

    known = keys(settings.keys)
    verifiers = {
        each.name: Verifier(known, each.signing.key_id, each.signing.scope, each.signing.exclude_files)
        for each in settings.bundles
    }
    return lambda each, raw: bundle.read(each.name, raw, limit, verifiers[each.name])


@dataclass(slots=True)
class _Source:
    """One bundle: what came last, what is served, and what is wrong with it. Kept as tarballs, which are small."""

    settings: config.Bundle
    download: Download
    latest: bytes | None = None
    active: bytes | None = None
    revision: str = ""
    trouble: str | None = "not fetched yet"  # why it cannot be had
    refusal: str | None = None  # why what was had cannot be used
    failures: int = 0  # downloads, one after the other
    told: str | None = None  # what the log said last
    asked: asyncio.Event = field(default_factory=asyncio.Event)  # set once the first poll has an end

    @property
    def problem(self) -> str | None:
        return self.trouble or self.refusal


class Bundles(Generic[Made]):
    """Polls the bundles of the settings.

    `read` makes something of a tarball, in a thread, or raises `PolicyError`. `activate` makes a policy of all of them
    and of `policy.paths`, and puts it in the place of the one before; it raises `LoadError` where it cannot, or
    `StartError` where it cannot now, and then nothing has changed. One activation runs at a time.

    Reading is done in a thread, yet parsing one JSON document holds the interpreter: 0.1 s for 100,000 users (8.8 MB).
    All else that is long is done in slices of some 20 ms.
    """

    def __init__(
        self, settings: config.Policy, metrics: Metrics, read: Read[Made], activate: Activate[Made]
    ) -> None:
        """Raises `PolicyError` for certificates that cannot be used."""
        self._polls = metrics.bundle_polls
        self._make = read
        self._activate = activate
        self._lock = asyncio.Lock()
        self._arriving = 0  # bundles that are being read and activated
        self._tasks: list[asyncio.Task[None]] = []
        self._sources = [
            _Source(each, Download(each, settings.bundle_size_limit)) for each in settings.bundles
        ]

    async def start(self) -> None:
        """Ask for each bundle once, then go on by the clock. A server that is away does not fail the start, and one
        that hangs does not hold it."""
        self._session = aiohttp.ClientSession(auto_decompress=False)
        self._tasks = [asyncio.create_task(self._run(source)) for source in self._sources]
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_FIRST_WAIT):
                for source in self._sources:
                    await source.asked.wait()

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._session.close()

    @property
    def activated(self) -> bool:
        return all(source.active is not None for source in self._sources)

    def problems(self) -> list[str]:
        """What is wrong with which bundle, and the revision that is served meanwhile."""
        return [
            f"bundle {source.settings.name}: "
            + (f"serving revision {source.revision}: " if source.active is not None else "")
            + source.problem
            for source in self._sources
            if source.problem is not None
        ]

    async def _run(self, source: _Source) -> None:
        while True:
            await self._once(source)
            source.asked.set()
            await asyncio.sleep(self._pause(source))

    async def _once(self, source: _Source) -> None:
        try:
            await self._poll(source)
        except Exception as error:  # a poller that ended would serve an old policy for ever, unseen
            log.exception("bundle_poll_failed", bundle=source.settings.name)
            self._polls.labels(source.settings.name, "internal").inc()
            source.refusal = f"internal error: {type(error).__name__}"
            source.download.forget()

    def _pause(self, source: _Source) -> float:
        poll = source.settings.poll
        if source.failures:
            retry = _FIRST_RETRY * 2.0 ** min(source.failures - 1, 16)
            return min(poll, retry) * random.uniform(0.5, 1)  # noqa: S311
        return poll * random.uniform(1 - _JITTER, 1 + _JITTER)  # noqa: S311

    async def _poll(self, source: _Source) -> None:
        """Fetch, read and activate; every failure is counted, and told once."""
        name = source.settings.name
        try:
            raw = await source.download.fetch(self._session)
        except BundleError as error:
            source.failures += 1
            source.trouble = str(error)
            self._refused(source, error.reason)
            return
        source.failures = 0
        if raw is None:
            self._polls.labels(name, "unchanged").inc()
        if source.trouble is not None:
            source.trouble = None
            source.told = source.refusal
            if raw is None:
                log.info("bundle_recovered", bundle=name, serving=source.revision)
        if raw is not None:
            with self._uncollected():
                await self._arrived(source, raw)

    @contextlib.contextmanager
    def _uncollected(self) -> Iterator[None]:
        """The collector would hold the loop again and again for what large data allocate, and find nothing."""
        self._arriving += 1
        gc.disable()
        try:
            yield
        finally:
            self._arriving -= 1
            if not self._arriving:
                gc.enable()

    async def _arrived(self, source: _Source, raw: bytes) -> None:
        try:
            fresh = await self._read(source, raw)
        except PolicyError as error:
            reason = error.reason if isinstance(error, BundleError) else "content"
            if reason == "archive":
                source.download.forget()
            source.refusal = "; ".join(map(str, error.problems))
            self._refused(source, reason)
            return
        async with self._lock:
            source.latest = raw
            try:
                await self._take(source, fresh)
            except LoadError as error:
                source.refusal = "; ".join(map(str, error.problems))
                self._refused(source, "activation")
            except StartError as error:  # not the bundle's fault, so the next poll tries it again
                source.download.forget()
                source.refusal = str(error)
                self._refused(source, "activation")

    async def _read(self, source: _Source, raw: bytes) -> Made:
        return await asyncio.to_thread(self._make, source.settings, raw)

    async def _take(self, source: _Source, fresh: Made) -> None:
        """Activate with the latest of all others; where that fails, with those that are served."""
        latest = [each.latest for each in self._sources]
        active = [each.latest if each is source else each.active for each in self._sources]
        if None in latest:
            source.refusal = "waits for the other bundles"
            return
        try:
            await self._together(latest, source, fresh)
        except LoadError:
            if None in active or active == latest:
                raise
            await self._together(active, source, fresh)

    async def _together(self, chosen: Sequence[bytes | None], source: _Source, fresh: Made) -> None:
        bundles = []
        for each, raw in zip(self._sources, chosen, strict=True):
            bundles.append(fresh if each is source else await self._read(each, raw or b""))
        await self._activate(bundles)
        for each, raw, made in zip(self._sources, chosen, bundles, strict=True):
            if each is source or each.active != raw:
                self._polls.labels(each.settings.name, "activated").inc()
                log.info("bundle_activated", bundle=each.settings.name, revision=made.revision)
                each.active, each.revision = raw, made.revision
                each.refusal = each.told = None

    def _refused(self, source: _Source, reason: str) -> None:
        name = source.settings.name
        self._polls.labels(name, reason).inc()
        if source.told != source.problem:
            source.told = source.problem
            log.warning(
                "bundle_refused", bundle=name, reason=reason, error=source.problem, serving=source.revision
            )
