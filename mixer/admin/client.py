"""Asks the admin listener of a running Mixer."""

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
    host, _, port = address.rpartition(":")
    url = f"http://{_ANY_HOST.get(host, host)}:{port}{path}"
    try:
        async with (
            aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=TIMEOUT)) as session,
            session.post(url, json=body) as answer,
        ):
            if answer.status != 200:
                raise RequestError((await answer.text()).strip() or f"{url} answers {answer.status}")
            return await answer.json()
    except (aiohttp.ClientError, TimeoutError) as error:
        raise StartError(f"no Mixer answers on {address}: {error or type(error).__name__}") from error
