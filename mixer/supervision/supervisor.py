"""Starts workers, keeps them running, and exchanges what they serve by, or themselves, without a call lost."""

import asyncio
import signal
import socket
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from time import monotonic

import structlog
from prometheus_client import CollectorRegistry

from mixer import config
from mixer.errors import MixerError
from mixer.loaded import Loaded
from mixer.metrics import SupervisorMetrics
from mixer.reloading import Reloads
from mixer.supervision import WorkerRole, counts
from mixer.supervision.messages import Start
from mixer.supervision.pages import SupervisorAdmin
from mixer.supervision.ports import Ports
from mixer.supervision.process import GoneError, Process
from mixer.supervision.slot import Slot

log = structlog.get_logger()

_AFTER_DRAIN = 5.0  # seconds that a worker may take to end, beyond its drain


async def supervise(file: Path, files: Loaded, role: config.Role) -> int:
    """Serve until SIGTERM or SIGINT, then drain; answers the exit code. Raises `LoadError` or `StartError` where it
    cannot start."""
    with tempfile.TemporaryDirectory(prefix="mixer-") as folder:  # only this user may enter it
        return await Supervisor(file, files, role, Path(folder)).run()


class Supervisor:
    def __init__(self, file: Path, files: Loaded, role: config.Role, folder: Path) -> None:
        self._files = files
        self._role = role
        self._folder = folder
        self._ports = Ports()
        self._registry = CollectorRegistry(support_collectors_without_names=True)
        self._metrics = SupervisorMetrics(self._registry)
        self._slots: list[Slot] = []
        self._otlp_http = ""  # the address that the workers of Report share for it
        self._started = 0  # processes
        self._stopping = False
        self._exchanging = asyncio.Lock()
        self._rolling: asyncio.Task[None] | None = None
        self._reloads = Reloads(file, files, self._apply, self._metrics, read=role != "report")
        self._admin = SupervisorAdmin(
            self._settings.listeners.admin.address,
            self._registry,
            self._slots,
            self._reloads.problems,
            self._settings.telemetry,
        )

    @property
    def _settings(self) -> config.Config:
        return self._files.settings

    async def run(self) -> int:
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop.set)
        loop.add_signal_handler(signal.SIGHUP, self._reloads.ask)
        loop.add_signal_handler(signal.SIGUSR1, self._reopen)
        loop.add_signal_handler(signal.SIGUSR2, self._roll)
        try:
            self._take_slots()
            await self._start_all()
            await self._admin.start()
        except BaseException:
            await asyncio.gather(
                *(self._end(slot.process) for slot in self._slots if slot.process is not None)
            )
            self._ports.close()
            raise
        tasks = [asyncio.create_task(self._keep(slot)) for slot in self._slots]
        tasks.append(asyncio.create_task(self._watch_beats()))
        self._reloads.start()
        print("ready", *(f"{name}={each}" for name, each in self._addresses().items()), flush=True)
        await stop.wait()
        self._stopping = True
        await self._reloads.close()
        await self._drain(tasks)
        await self._admin.close()
        self._ports.close()
        sys.stdout.flush()
        return 0

    def _addresses(self) -> dict[str, str]:
        found: dict[str, list[str]] = {}
        for slot in self._slots:
            if slot.address not in (of_role := found.setdefault(slot.role, [])):
                of_role.append(slot.address)
        if self._otlp_http:
            found["otlp_http"] = [self._otlp_http]
        return {role: ",".join(each) for role, each in found.items()} | {"admin": self._admin.address}

    def _take_slots(self) -> None:
        roles = counts(self._settings.workers, self._role)
        if "report" in roles and (otlp_http := self._settings.listeners.otlp_http) is not None:
            self._otlp_http = self._ports.take(otlp_http.address)
        for role, count in roles.items():
            listener: config.Listener = getattr(self._settings.listeners, role)
            own = [self._ports.take(each) for each in listener.addresses or (listener.address,)]
            self._slots += [Slot(role, number, own[number % len(own)]) for number in range(count)]

    async def _start_all(self) -> None:
        """All at the same time. Raises what the first one to fail raises."""
        starting = [asyncio.create_task(self._start(slot)) for slot in self._slots]
        try:
            await asyncio.gather(*starting)
        except BaseException:
            for task in starting:
                task.cancel()
            await asyncio.gather(*starting, return_exceptions=True)
            raise

    async def _start(self, slot: Slot) -> Process:
        """A process for this place, which serves by what is current. Raises `LoadError` or `StartError`."""
        self._started += 1
        files, settings = self._files, self._settings
        listeners = settings.listeners
        listener = getattr(listeners, slot.role).model_copy(update={"address": slot.address, "addresses": ()})
        update: dict[str, object] = {slot.role: listener}
        if slot.role == "report" and listeners.otlp_http is not None:
            update["otlp_http"] = listeners.otlp_http.model_copy(update={"address": self._otlp_http})
        own = settings.model_copy(update={"listeners": listeners.model_copy(update=update)})
        files = files.of(own) if slot.role == "check" else files.bare().of(own)
        if not slot.kept:
            slot.kept = self._listen(slot)
        kept = {name: [each.fileno() for each in sockets] for name, sockets in slot.kept.items()}
        beat = min(1.0, settings.workers.hang_timeout / 4)
        admin = str(self._folder / f"{slot.role}-{slot.number}-{self._started}.sock")
        process = Process(Start(slot.role, slot.number, files, admin, beat, kept))
        await process.start()
        try:
            async with self._exchanging:
                if process.digest != self._files.digest:  # that was exchanged meanwhile
                    await process.prepare(self._of(process, self._files))
                    await process.exchange(self._files)
                slot.process, slot.trouble = process, ""
        except BaseException:
            await process.end()
            raise
        self._count()
        return process

    def _listen(self, slot: Slot) -> dict[str, list[socket.socket]]:
        """By listener; what grpcio serves it binds itself."""
        server = getattr(self._settings.listeners, slot.role).server
        kept: dict[str, list[socket.socket]] = {}
        kept[slot.role] = self._ports.listen(slot.address) if server == "asyncio" else []
        if slot.role == "report" and self._otlp_http:
            kept["otlp_http"] = self._ports.listen(self._otlp_http)
        return kept

    def _count(self) -> None:
        for role in counts(self._settings.workers, self._role):
            serving = sum(slot.process is not None for slot in self._slots if slot.role == role)
            self._metrics.serving.labels(role).set(serving)

    async def _keep(self, slot: Slot) -> None:
        """Start again what ends."""
        while True:
            began, process, how = monotonic(), slot.process, slot.trouble
            if process is not None:
                how = await process.wait()
                self._admin.keep(process)
            async with slot.changing:
                if slot.process is process:
                    slot.process, slot.trouble = None, how
                    if sum(other.role == slot.role for other in self._slots) > 1:
                        slot.stop_listening()  # others answer whoever would wait here
                    self._count()
                    reason = "start" if process is None else process.reason
                    await self._start_again(slot, reason, monotonic() - began)

    async def _start_again(self, slot: Slot, reason: str, ran: float) -> None:
        """As often as it takes. `ran`: seconds that the one before it served."""
        while slot.process is None:
            pause = slot.backoff.after(ran)
            log.error("worker_ended", role=slot.role, worker=slot.number, how=slot.trouble, again_in=pause)
            self._metrics.restarts.labels(slot.role, reason).inc()
            await asyncio.sleep(pause)
            try:
                fresh = await self._start(slot)
            except MixerError as error:
                reason, ran, slot.trouble = "start", 0.0, str(error)
            else:
                log.info("worker_started", role=slot.role, worker=slot.number, pid=fresh.pid)

    async def _watch_beats(self) -> None:
        """Kill those that give no sign of life."""
        loop = asyncio.get_running_loop()
        timeout = self._settings.workers.hang_timeout
        pause, looked = timeout / 10, loop.time()
        while True:
            await asyncio.sleep(pause)
            now = loop.time()
            if (
                now - looked > 3 * pause
            ):  # this process was held up itself: what they said may not be read yet
                for slot in self._slots:
                    if slot.process is not None:
                        slot.process.heard = now
            looked = now
            for slot in self._slots:
                if (
                    (process := slot.process) is not None
                    and process.running
                    and now - process.heard > timeout
                ):
                    log.error(
                        "worker_hangs",
                        role=slot.role,
                        worker=slot.number,
                        silent=round(now - process.heard, 3),
                    )
                    process.kill("hang")

    async def _apply(self, fresh: Loaded) -> None:
        """In every worker, or in none. A worker that ends meanwhile is started again with what is current then."""
        async with self._exchanging:
            prepared: list[Process] = []
            try:
                for process in self._serving():
                    try:
                        await process.prepare(self._of(process, fresh))
                        prepared.append(process)
                    except GoneError:
                        continue
            except MixerError:
                for process in prepared:
                    process.order("discard")
                raise
            self._files = fresh
            await asyncio.gather(*(each.exchange(fresh) for each in prepared), return_exceptions=True)

    def _serving(self) -> Sequence[Process]:
        return [slot.process for slot in self._slots if slot.process is not None]

    @staticmethod
    def _of(process: Process, files: Loaded) -> Loaded:
        return files if process.role == "check" else files.bare()

    def _reopen(self) -> None:
        for process in self._serving():
            process.order("reopen")

    def _roll(self) -> None:
        if self._stopping or (self._rolling is not None and not self._rolling.done()):
            return
        self._rolling = asyncio.create_task(self._roll_all())

    async def _roll_all(self) -> None:
        """One after the other, each served for by its successor before it goes; a failure ends it."""
        log.info("rolling_restart")
        for slot in self._slots:
            async with slot.changing:
                before = slot.process
                if before is None or self._stopping:
                    continue
                try:
                    if self._has_own_files(slot.role):
                        slot.process, slot.trouble = None, "is being exchanged"
                        self._count()
                        await self._retired(before)
                        await self._start(slot)
                    else:
                        await self._start(slot)
                        await self._retired(before)
                except MixerError as error:
                    log.error("rolling_restart_failed", role=slot.role, worker=slot.number, error=str(error))
                    return
                self._metrics.restarts.labels(slot.role, "rolling").inc()
        log.info("rolling_restart_done")

    def _has_own_files(self, role: WorkerRole) -> bool:
        """Whether two of its processes cannot run at the same time: a buffer on disk has one owner."""
        settings = self._settings
        sinks: Sequence[object] = settings.telemetry.sinks
        if role == "check":
            sinks = () if settings.decision_log is None else settings.decision_log.sinks
        return any(
            isinstance(sink, config.KafkaSink) and (sink.buffer.path or sink.dead_letters) for sink in sinks
        )

    async def _retired(self, process: Process) -> None:
        process.order("retire")
        await process.end(1.5 * self._settings.drain_timeout + _AFTER_DRAIN)
        self._admin.keep(process)

    async def _drain(self, tasks: Sequence["asyncio.Task[None]"]) -> None:
        started = monotonic()
        for slot in self._slots:
            slot.stop_listening()
        log.info("draining", timeout=self._settings.drain_timeout)
        if self._rolling is not None:
            self._rolling.cancel()
        for task in tasks:
            task.cancel()
        others = [self._rolling] if self._rolling is not None else []
        await asyncio.gather(*tasks, *others, return_exceptions=True)
        await asyncio.gather(*map(self._end, self._serving()))
        log.info("stopped", seconds=round(monotonic() - started, 3))

    async def _end(self, process: Process) -> None:
        process.order("stop")
        await process.end(self._settings.drain_timeout + _AFTER_DRAIN)
