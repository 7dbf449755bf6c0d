"""Structured logs on standard error: `console` for people, `json` for machines. No token or secret gets through."""

import logging
import re
import sys
import time
from collections.abc import Callable, Mapping, MutableMapping
from typing import Any

import structlog

from mixer import config

_SECRET_KEYS = re.compile(r"token|secret|password|authorization|cookie", re.IGNORECASE)
_SECRET_TEXT = re.compile(
    r"eyJ[\w-]{5,}\.[\w-]*\.[\w-]*"  # a JWT
    r"|(?:(?<=bearer )|(?<=basic ))\S+"
    r"|(?<=://)[^/\s]+(?=@)",  # user:password of a URL
    re.IGNORECASE,
)


def setup(settings: config.Logging, **labels: object) -> None:
    """Send our events and those of the libraries through one chain, each with these labels. Call once, at start."""

    def labelled(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        return {**event, **labels}

    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        labelled,
        structlog.stdlib.add_log_level,
        structlog.stdlib.ExtraAdder(),
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,  # to text, so that it is masked too
        mask,
    ]
    renderer = (
        structlog.processors.JSONRenderer()
        if settings.format == "json"
        else structlog.dev.ConsoleRenderer(
            colors=sys.stderr.isatty(), exception_formatter=structlog.dev.plain_traceback
        )
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer],
        )
    )
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(settings.level.upper())
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        wrapper_class=structlog.make_filtering_bound_logger(getattr(logging, settings.level.upper())),
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=True,
    )


def mask(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Values under a secret's name, and text that looks like a token, become `***`."""
    for key, value in event.items():
        if key.startswith("_") or key == "exc_info":
            continue
        event[key] = _masked(key, value)
    return event


def _masked(key: str, value: Any) -> Any:
    if _SECRET_KEYS.search(key):
        return "***"
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, Mapping):
        return {name: _masked(str(name), item) for name, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_masked("", item) for item in value]
    return _SECRET_TEXT.sub("***", str(value))


class Throttle:
    """Lets one event of a kind through every `seconds`, and says how many it held back meanwhile."""

    def __init__(self, seconds: float = 1.0, clock: Callable[[], float] = time.monotonic) -> None:
        self._seconds = seconds
        self._clock = clock
        self._held: dict[str, tuple[float, int]] = {}

    def __call__(self, kind: str) -> int | None:
        """How many were held back since the last one of this `kind` (a constant), or None: hold this one back."""
        now = self._clock()
        until, held = self._held.get(kind, (0.0, 0))
        if now < until:
            self._held[kind] = (until, held + 1)
            return None
        self._held[kind] = (now + self._seconds, 0)
        return held
