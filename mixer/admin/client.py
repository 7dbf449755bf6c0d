"""Asks the admin listener of a running Mixer. With `tls`, over https: `trust_own`."""

import os
import ssl
from collections.abc import Sequence
from typing import Any

import aiohttp

from mixer import config
from mixer.errors import RequestError, StartError

TIMEOUT = 5.0  # seconds
_ANY_HOST = {"0.0.0.0": "127.0.0.1", "[::]": "[::1]"}


def trust_own(tls: config.Tls | None) -> ssl.SSLContext | None:
    """How to ask a listener with these settings, from its own machine: its certificate is the one in the file, and is
    shown to it in turn. None: over http. Raises `StartError` for files that cannot be used."""
    if tls is None:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False  # no matter whom it names
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    try:
        context.load_verify_locations(tls.cert)
        if tls.client_ca is not None:
            context.load_cert_chain(tls.cert, tls.key, password="")
    except OSError as error:
        raise StartError(f"{tls.cert}: {error.strerror or error}") from error
    return context


async def ask(address: str, path: str, body: object, tls: config.Tls | None = None) -> Any:
    """POST JSON, and the JSON that comes back.

    Raises:
        RequestError: it refuses; the message is its own.
        StartError: nobody answers there.
    """
    context = trust_own(tls)
    url = _url(address, path, context)
    try:
        async with (
            _session(TIMEOUT, context) as session,
            session.post(url, json=body) as answer,
        ):
            if answer.status != 200:
                raise RequestError((await answer.text()).strip() or f"{url} answers {answer.status}")
            return await answer.json()
    except (aiohttp.ClientError, TimeoutError) as error:
        raise _away(address, error) from error


async def read(
    address: str,
    *pages: tuple[str, Sequence[tuple[str, str]]],
    timeout: float = TIMEOUT,
    tls: config.Tls | None = None,
) -> list[tuple[int, str]]:
    """Status and text of each page, given as path and query. Raises `StartError` where nobody answers there."""
    context = trust_own(tls)
    try:
        async with _session(timeout, context) as session:
            return [await _page(session, _url(address, path, context), query) for path, query in pages]
    except (aiohttp.ClientError, TimeoutError, UnicodeDecodeError) as error:
        raise _away(address, error) from error


async def _page(
    session: aiohttp.ClientSession, url: str, query: Sequence[tuple[str, str]]
) -> tuple[int, str]:
    async with session.get(url, params=query) as answer:
        return answer.status, await answer.text()


def _session(timeout: float, context: ssl.SSLContext | None) -> aiohttp.ClientSession:
    connector = aiohttp.TCPConnector(ssl=context or True)
    return aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(total=timeout))


def _url(address: str, path: str, context: ssl.SSLContext | None) -> str:
    host, _, port = address.rpartition(":")
    return f"http{'s' if context else ''}://{_ANY_HOST.get(host, host)}:{port}{path}"


def _away(address: str, error: Exception) -> StartError:
    reason = str(error) or type(error).__name__
    if isinstance(error, aiohttp.ClientConnectorError) and error.os_error.errno:
        reason = os.strerror(error.os_error.errno)
    return StartError(f"no Mixer answers on {address}: {reason}")
