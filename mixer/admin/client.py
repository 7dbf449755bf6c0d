"""Asks the admin listener of a running Mixer."""

import os
from collections.abc import Sequence
from typing import Any

import aiohttp

from mixer.errors import RequestError, StartError

TIMEOUT = 5.0  # seconds
_ANY_HOST = {"0.0.0.0": "127.0.0.1", "[::]": "[::1]"}


async def ask(address: str, path: str, body: object) -> Any:
    """POST JSON, and the JSON that comes back.

    Raises:
        RequestError: it refuses; the message is its own.
        StartError: nobody answers there.
    """
    url = _url(address, path)
    try:
        async with (
            aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=TIMEOUT)) as session,
            session.post(url, json=body) as answer,
        ):
            if answer.status != 200:
                raise RequestError((await answer.text()).strip() or f"{url} answers {answer.status}")
            return await answer.json()
    except (aiohttp.ClientError, TimeoutError) as error:
        raise _away(address, error) from error


async def read(
    address: str, *pages: tuple[str, Sequence[tuple[str, str]]], timeout: float = TIMEOUT
) -> list[tuple[int, str]]:
    """Status and text of each page, given as path and query. Raises `StartError` where nobody answers there."""
    try:
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=timeout)) as session:
            return [await _page(session, _url(address, path), query) for path, query in pages]
    except (aiohttp.ClientError, TimeoutError, UnicodeDecodeError) as error:
        raise _away(address, error) from error


async def _page(
    session: aiohttp.ClientSession, url: str, query: Sequence[tuple[str, str]]
) -> tuple[int, str]:
    async with session.get(url, params=query) as answer:
        return answer.status, await answer.text()


def _url(address: str, path: str) -> str:
    host, _, port = address.rpartition(":")
    return f"http://{_ANY_HOST.get(host, host)}:{port}{path}"


def _away(address: str, error: Exception) -> StartError:
    reason = str(error) or type(error).__name__
    if isinstance(error, aiohttp.ClientConnectorError) and error.os_error.errno:
        reason = os.strerror(error.os_error.errno)
    return StartError(f"no Mixer answers on {address}: {reason}")
