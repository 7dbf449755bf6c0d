"""`mixer top`: what a running Mixer does now, in a terminal."""

from importlib.util import find_spec

from mixer import config
from mixer.errors import StartError


def run(address: str, interval: float, once: bool, tls: config.Tls | None = None) -> int:
    """Show the Mixer whose admin listener is at `address`, with these settings of TLS, anew each `interval` seconds,
    until Ctrl-C. With `once`, print what happened within one interval, and end.

    Returns the exit code. Raises `StartError` where rich is missing, and with `once` where no Mixer answers; else it is
    asked again and again.
    """
    if find_spec("rich") is None:
        raise StartError("mixer top needs rich: pip install 'mixer[top]'")
    from mixer.top.watch import watch

    return watch(address, interval, once, tls)
