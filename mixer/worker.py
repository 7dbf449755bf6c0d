"""One process: its listeners, the `ready` line, and the drain."""

import asyncio
import gc
import signal
import sys
from time import monotonic

import structlog

from mixer.admin.server import AdminServer
from mixer.config import Config
from mixer.runtime import Role, Runtime

log = structlog.get_logger()


async def serve(settings: Config, role: Role, revision: str) -> None:
    """Serve until SIGTERM or SIGINT, then drain. Raises `LoadError` or `StartError` where it cannot start."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    runtime = Runtime.build(settings, role, revision)
    admin = AdminServer(
        settings.listeners.admin.address,
        runtime.registry,
        runtime.not_ready,
        runtime.degraded,
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
    gc.collect()
    gc.freeze()  # what was loaded stays; the collector need not walk it again and again
    addresses = {name: front.address for name, front in runtime.fronts.items()} | {"admin": admin.address}
    print("ready", *(f"{name}={address}" for name, address in addresses.items()), flush=True)
    await stop.wait()
    started = monotonic()
    log.info("draining", timeout=settings.drain_timeout)
    await runtime.close(settings.drain_timeout)
    await admin.close()
    log.info("stopped", seconds=round(monotonic() - started, 3))
    sys.stdout.flush()
