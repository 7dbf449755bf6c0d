"""The loop of `mixer top`."""

import asyncio
import contextlib
import signal
import sys
from datetime import datetime

from rich.console import Console
from rich.live import Live

from mixer import config
from mixer.errors import Problem, SettingsError, StartError
from mixer.top.scrape import Change, Scrape, scrape
from mixer.top.view import away, frame

_TIMEOUT = 5.0  # seconds that one look may take
_WIDTH = 80  # columns where the output is no terminal


def watch(address: str, interval: float, once: bool, tls: config.Tls | None) -> int:
    """See `mixer.top.run`."""
    terminal = sys.stdout.isatty()
    console = Console(width=None if terminal else _WIDTH, highlight=False, markup=False, emoji=False)
    if once:
        asyncio.run(_once(console, address, interval, tls))
        return 0
    if not terminal:
        raise SettingsError(
            [Problem("mixer top", "", "standard output is no terminal; --once prints one frame")]
        )
    with contextlib.suppress(KeyboardInterrupt, asyncio.CancelledError):
        asyncio.run(_live(console, address, interval, tls))
    return 0


async def _once(console: Console, address: str, interval: float, tls: config.Tls | None) -> None:
    first = await scrape(address, _TIMEOUT, tls)
    await asyncio.sleep(interval)
    change = Change(first, await scrape(address, _TIMEOUT, tls))
    console.print(frame(change, address, interval, datetime.now(), (console.width, None)))


async def _live(console: Console, address: str, interval: float, tls: config.Tls | None) -> None:
    if (task := asyncio.current_task()) is not None:
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)  # the screen is put back
    last: Scrape | None = None
    since: datetime | None = None
    with Live(console=console, screen=True, auto_refresh=False) as live:
        while True:
            now = datetime.now()
            try:
                new = await scrape(address, _TIMEOUT, tls)
            except StartError as error:
                since = since or now
                live.update(away(str(error), since, interval, now), refresh=True)
            else:
                since = None
                change = Change(last or new, new)
                live.update(frame(change, address, interval, now, console.size), refresh=True)
                last = new
            await asyncio.sleep(interval)
