"""`mixer demo`: Mixer with the example policies behind a real Envoy, sample traffic, and what came out of it."""

from importlib.util import find_spec

from mixer.errors import StartError


def run(once: bool) -> int:
    """Start everything on 127.0.0.1, send the sample traffic, show what came out; then stay up until Ctrl-C or
    SIGTERM, or with `once` end there.

    Returns the exit code: 0 only if all came out as it must. Nothing that was started is left behind, nor any
    file. Raises `StartError` where something is missing or does not start.
    """
    if find_spec("rich") is None:
        raise StartError("the demo needs rich: pip install 'mixer[demo]'")
    from mixer.demo.show import show

    return show(once)
