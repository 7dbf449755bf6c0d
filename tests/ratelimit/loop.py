"""The event loop of tests: uvloop, as in production."""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

import uvloop

T = TypeVar("T")


def run(main: Coroutine[Any, Any, T], within: float = 60) -> T:
    """Run to the end. Raises TimeoutError after `within` seconds (pytest-timeout cannot interrupt uvloop)."""
    return uvloop.run(asyncio.wait_for(main, within))
