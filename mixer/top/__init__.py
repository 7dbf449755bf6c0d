"""`mixer top`: what a running Mixer does now, in a terminal."""

from importlib.util import find_spec

from mixer.errors import StartError


def run(address: str, interval: float, once: bool) -> int:
    """Show the Mixer whose admin listener is at `address`, anew each `interval` seconds, until Ctrl-C. With `once`,
    print what happened within one interval, and end.

    Returns the exit code. Raises `StartError` where rich is missing, and with `once` where no Mixer answers; else it is
    asked again and again.
    """
    if find_spec("rich") is None:
        raise StartError("mixer top needs rich: pip install 'mixer[top]'")
    from mixer.top.watch import watch

    return watch(address, interval, once)
