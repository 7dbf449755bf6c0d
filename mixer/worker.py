"""One process that serves: its listeners, the `ready` line, reloads, and the drain."""

import asyncio
import gc
import signal
import sys
from pathlib import Path
from time import monotonic

import structlog

from mixer import config
from mixer.admin.server import AdminServer
from mixer.loaded import Loaded
from mixer.metrics import ProcessMetrics
from mixer.reloading import Reloads
from mixer.runtime import Runtime

log = structlog.get_logger()


async def serve(file: Path, files: Loaded, role: config.Role) -> None:
    """Serve until SIGTERM or SIGINT, then drain. SIGHUP reads `file` and what it names again; SIGUSR1 opens the files
    of sinks anew. Raises `LoadError` or `StartError` where it cannot start."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    settings = config.of_worker(files.settings, 0)
    runtime = Runtime.build(settings, role, files.revision, files.of(settings))
    metrics = ProcessMetrics(runtime.registry)

    async def apply(fresh: Loaded) -> None:
        await runtime.exchange(fresh, await runtime.prepare(fresh))

    reloads = Reloads(file, files, apply, metrics, read=role != "report")
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    loop.add_signal_handler(signal.SIGHUP, reloads.ask)
    loop.add_signal_handler(signal.SIGUSR1, runtime.reopen)
    loop.add_signal_handler(signal.SIGUSR2, _not_supervised)
    admin = AdminServer(
        settings.listeners.admin.address,
        runtime.registry,
        runtime.not_ready,
        lambda: [*runtime.degraded(), *reloads.problems()],
        runtime.serving,
        pages=runtime.pages,
        tls=(tls, runtime.metrics) if (tls := settings.listeners.admin.tls) else None,
    )
    try:
        await runtime.start()
        await admin.start()
    except BaseException:
        await runtime.close(1.0)
        raise
    freeze()
    reloads.start()
    addresses = {name: front.address for name, front in runtime.fronts.items()} | {"admin": admin.address}
    print("ready", *(f"{name}={address}" for name, address in addresses.items()), flush=True)
    await stop.wait()
    await reloads.close()
    await drain(runtime)
    await admin.close()
    sys.stdout.flush()


def freeze() -> None:
    """What was loaded stays; the collector need not walk it again and again."""
    gc.collect()
    gc.freeze()


async def drain(runtime: Runtime) -> None:
    started, timeout = monotonic(), runtime.settings.drain_timeout
    log.info("draining", timeout=timeout)
    await runtime.close(timeout)
    log.info("stopped", seconds=round(monotonic() - started, 3))


def _not_supervised() -> None:
    log.warning(
        "not_supervised", hint="SIGUSR2 starts workers anew; with workers.supervised: true there are some"
    )
