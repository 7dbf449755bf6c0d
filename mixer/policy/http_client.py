"""HTTP for `policy.network`: one request, as Go's `net/http` sends it for OPA's `http.send`."""

import asyncio
import contextlib
import os
import ssl
import zlib
from collections.abc import Iterator
from importlib.metadata import version
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit
from urllib.request import getproxies_environment, proxy_bypass_environment  # type: ignore[attr-defined]

import aiohttp
from multidict import CIMultiDict, CIMultiDictProxy
from yarl import URL

from mixer import config
from mixer.policy.builtins.http import INTERNAL, NETWORK, Headers, Reply, Request, SendError, Tls
from mixer.policy.builtins.operands import UnsupportedError

_FIRST_RETRY, _LAST_RETRY = 0.1, 60.0  # seconds
_MOST_REDIRECTS = 50
_OURS = frozenset(["Content-Length", "Transfer-Encoding", "Trailer"])  # which Go's client writes itself
_LOCAL = frozenset(["localhost", "127.0.0.1", "::1"])


class HttpClient:
    """Belongs to the loop on which it sends first."""

    def __init__(self, settings: config.Http) -> None:
        self._settings = settings
        self._agent = f"mixer/{version('mixer')}"
        # `max_waiting` bounds the connections.
        self._session = self._opened(aiohttp.TCPConnector(limit=0))
        self._contexts: dict[Tls, ssl.SSLContext] = {}

    def _opened(self, connector: aiohttp.BaseConnector) -> aiohttp.ClientSession:
        return aiohttp.ClientSession(
            connector=connector, auto_decompress=False, cookie_jar=aiohttp.DummyCookieJar()
        )

    async def close(self) -> None:
        await self._session.close()

    async def send(self, asked: Request) -> Reply:
        """Raises `SendError`, and `UnsupportedError` for a reply that is too large."""
        attempt = 0
        while True:
            try:
                return await self._sent(asked)
            except SendError as error:
                if attempt == asked.retries or error.code == INTERNAL:
                    raise
            await asyncio.sleep(min(_FIRST_RETRY * 2.0**attempt, _LAST_RETRY))
            attempt += 1

    async def _sent(self, asked: Request) -> Reply:
        timeout = self._settings.timeout if asked.timeout is None else asked.timeout
        what = f'{asked.method.capitalize()} "{asked.url}"'
        try:
            async with asyncio.timeout(timeout or None):
                return await self._exchanged(asked)
        except TimeoutError:
            late = "context deadline exceeded (Client.Timeout exceeded while awaiting headers)"
            raise SendError(NETWORK, f"{what}: {late}") from None
        except aiohttp.ClientConnectorError as error:
            refused = isinstance(error.os_error, ConnectionRefusedError)
            why = _refused(error) if refused else type(error).__name__
            raise SendError(NETWORK, f"{what}: {why}") from None
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise SendError(NETWORK, f"{what}: {type(error).__name__}") from None

    async def _exchanged(self, asked: Request) -> Reply:
        url, socket = _target(asked)
        if socket is not None:
            async with self._opened(aiohttp.UnixConnector(socket)) as session:
                return await self._exchange(session, url, asked)
        return await self._exchange(self._session, url, asked)

    async def _exchange(self, session: aiohttp.ClientSession, url: URL, asked: Request) -> Reply:
        headers = CIMultiDict({name: value for name, value in asked.headers.items() if name not in _OURS})
        headers.setdefault("User-Agent", self._agent)
        unpacks = not headers.keys() & {"Accept-Encoding", "Range"} and asked.method != "HEAD"
        if unpacks:
            headers["Accept-Encoding"] = "gzip"
        async with session.request(
            asked.method,
            url,
            data=asked.body or None,
            headers=headers,
            skip_auto_headers=("Accept", "Accept-Encoding", "Content-Type", "User-Agent"),
            allow_redirects=asked.redirects,
            max_redirects=_MOST_REDIRECTS,
            ssl=await self._tls(asked.tls),
            server_hostname=asked.tls.server_name if url.scheme == "https" else None,
            proxy=_proxy(url),
            timeout=aiohttp.ClientTimeout(),
        ) as response:
            body = await _read(response.content, self._settings.max_response_size)
            found = _headers(response.headers)
            if unpacks and found.get("content-encoding") == ["gzip"]:
                body = _unpacked(body, self._settings.max_response_size)
                del found["content-encoding"]
                found.pop("content-length", None)
            return Reply(f"{response.status} {response.reason or ''}", response.status, found, body)

    async def _tls(self, tls: Tls) -> ssl.SSLContext | bool:
        if tls == Tls(server_name=tls.server_name):
            return True
        if any(name.endswith(("_file", "_env_variable")) for name, _ in tls.given):
            return await asyncio.to_thread(_context, tls)  # what is in the files may change
        if tls not in self._contexts:
            if len(self._contexts) >= 100:
                self._contexts.clear()
            self._contexts[tls] = await asyncio.to_thread(_context, tls)
        return self._contexts[tls]


def _refused(error: aiohttp.ClientConnectorError) -> str:
    return f"dial tcp {error.host}:{error.port}: connect: connection refused"


def _target(asked: Request) -> tuple[URL, str | None]:
    """The URL, and the path of the Unix socket that it is on. Raises `SendError`."""
    try:
        parts = urlsplit(asked.url)
        plain = asked.url.isascii() and " " not in asked.url
        if parts.scheme == "unix" and parts.query:
            query = parse_qsl(parts.query, keep_blank_values=True)
            socket = next((value for name, value in query if name == "socket"), "")
            rest = urlencode(sorted((name, value) for name, value in query if name != "socket"))
            return URL(urlunsplit(("http", parts.netloc, parts.path, rest, ""))), socket
        url = URL(asked.url, encoded=plain)
    except ValueError:
        raise SendError(INTERNAL, f'http.send: parse "{asked.url}": invalid URL') from None
    if url.scheme not in ("http", "https"):
        scheme = f'unsupported protocol scheme "{url.scheme}"'
        raise SendError(NETWORK, f'{asked.method.capitalize()} "{asked.url}": {scheme}')
    if not url.host:
        raise SendError(NETWORK, f'{asked.method.capitalize()} "{asked.url}": http: no Host in request URL')
    return url, None


def _proxy(url: URL) -> str | None:
    """The proxy that the environment names (`HTTPS_PROXY`, `NO_PROXY`, …)."""
    if url.host in _LOCAL or proxy_bypass_environment(url.host or ""):
        return None
    return getproxies_environment().get(url.scheme)


async def _read(stream: aiohttp.StreamReader, most: int) -> bytes:
    body = bytearray()
    async for part in stream.iter_any():
        body += part
        if len(body) > most:
            raise UnsupportedError("a reply to http.send is larger than policy.http.max_response_size")
    return bytes(body)


def _unpacked(body: bytes, most: int) -> bytes:
    """Raises `ValueError` for what is no gzip."""
    stream = zlib.decompressobj(31)
    try:
        unpacked = stream.decompress(body, most + 1)
    except zlib.error:
        raise ValueError("no gzip") from None
    if len(unpacked) > most:
        raise UnsupportedError("a reply to http.send is larger than policy.http.max_response_size")
    return unpacked


def _headers(given: CIMultiDictProxy[str]) -> Headers:
    found: Headers = {}
    for name, value in given.items():
        text = value.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
        if name.lower() != "transfer-encoding":
            found.setdefault(name.lower(), []).append(text)
    return found


def _context(tls: Tls) -> ssl.SSLContext:
    """Raises `SendError` for certificates and keys that cannot be used."""
    given = dict(tls.given)
    own_roots = any(name.startswith("ca_cert") for name in given)
    try:
        context = ssl.create_default_context() if not own_roots else ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        if own_roots and tls.system_certs:
            context.load_default_certs()
        if (text := given.get("ca_cert")) is not None:
            context.load_verify_locations(cadata=text.replace("\\n", "\n"))
        if (file := given.get("ca_cert_file")) is not None:
            context.load_verify_locations(file)
        if (name := given.get("ca_cert_env_variable")) is not None:
            context.load_verify_locations(cadata=os.environ.get(name, ""))
        _load_own(context, given)
    except (OSError, ValueError) as error:  # ssl.SSLError too
        raise SendError(INTERNAL, f"http.send: certificates or keys: {type(error).__name__}") from None
    if tls.insecure_skip_verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def _load_own(context: ssl.SSLContext, given: dict[str, str]) -> None:
    if "client_cert_file" in given and "client_key_file" in given:
        context.load_cert_chain(given["client_cert_file"], given["client_key_file"])
    texts = [(given.get("client_cert"), given.get("client_key"))]
    if "client_cert_env_variable" in given and "client_key_env_variable" in given:
        texts.append(
            (
                os.environ.get(given["client_cert_env_variable"], ""),
                os.environ.get(given["client_key_env_variable"], ""),
            )
        )
    for cert, key in texts:
        if cert is None or key is None:
            continue
        with _file(cert) as cert_file, _file(key) as key_file:
            context.load_cert_chain(cert_file, key_file)


@contextlib.contextmanager
def _file(text: str) -> Iterator[str]:
    """OpenSSL reads a certificate and its key from files alone; this one is in memory."""
    descriptor = os.memfd_create("pem")
    try:
        os.write(descriptor, text.encode())
        yield f"/proc/self/fd/{descriptor}"
    finally:
        os.close(descriptor)
