"""OPA's REST API over opa-python-client's session (https://www.openpolicyagent.org/docs/rest-api).

Decisions that share a query, and what confirms them, have connections of their own (`opa_lanes`).
"""

import asyncio
import json
from collections.abc import Sequence
from typing import Any, Final
from urllib.parse import urlsplit

import aiohttp
from opa_client.opa_async import AsyncOpaClient
from yarl import URL

from mixer import config
from mixer.errors import DecisionError, MixerError, StartError
from mixer.policy.documents import Module
from mixer.policy.opa_lanes import Answer, Lane, Lanes, LostError, Request

_JSON: Final = {"content-type": "application/json"}
_SLOW = 30.0  # seconds for what no check waits for: policies to be listed or put
_NONE: Final = object()


class AwayError(MixerError):
    """The server does not answer, or not as OPA does."""


class RefusedError(MixerError):
    """The server refuses a request: HTTP `status`, and what it says as JSON."""

    def __init__(self, status: int, what: str, answer: Any) -> None:
        self.status = status
        self.answer = answer
        said = answer.get("message") if isinstance(answer, dict) else None
        super().__init__(f"OPA refuses {what}: HTTP {status}" + (f", {said}" if said else ""))


class _Client(AsyncOpaClient):  # type: ignore[misc]
    """The client over a Unix socket too, which its own session does not know."""

    def __init__(self, unix_path: str | None, **options: object) -> None:
        super().__init__(**options)
        self._unix_path = unix_path

    async def ask(
        self, method: str, path: str, body: bytes | None, timeout: float | None = None
    ) -> tuple[int, bytes]:
        """HTTP status and body; `path` below /v1, quoted. Raises as aiohttp does."""
        limit: Any = {} if timeout is None else {"timeout": aiohttp.ClientTimeout(total=timeout)}
        url = URL(f"{self.root_url}/{path}", encoded=True)
        async with self._request(method, url, data=body, headers=_JSON, **limit) as response:
            return response.status, await response.read()

    async def _init_session(self) -> None:
        if self._unix_path is None:
            await super()._init_session()
            return
        self._connector = aiohttp.UnixConnector(self._unix_path)
        timeout = aiohttp.ClientTimeout(total=self.timeout)
        self._session = aiohttp.ClientSession(
            headers=self.headers, connector=self._connector, timeout=timeout
        )


class OpaServer:
    """One OPA server, at `policy.opa.url`."""

    def __init__(self, settings: config.Opa) -> None:
        self.url = settings.url
        self.lanes = Lanes(settings)
        self._timeout = settings.timeout
        token = settings.token.get_secret_value() if settings.token else None
        # No retries of the client's own: they wait 0.3 s, which is longer than Envoy does.
        options: dict[str, object] = {"timeout": settings.timeout, "retries": 0, "token": token}
        if settings.url.startswith("unix:"):
            path = "/" + settings.url.removeprefix("unix:").lstrip("/")
            self._client = _Client(path, host="localhost", **options)
            return
        url = urlsplit(settings.url)
        port = url.port or (443 if url.scheme == "https" else 80)
        self._client = _Client(None, host=url.hostname, port=port, ssl=url.scheme == "https", **options)

    async def open(self) -> None:
        await self._client._init_session()

    async def close(self) -> None:
        self.lanes.close()
        await self._client.close_connection()

    async def healthy(self) -> bool:
        return bool(await self._client.check_health())

    async def exchange(self, lane: Lane, requests: Sequence[Request]) -> list[Answer]:
        """HTTP status and body of each, in order. Raises `DecisionError` where there are none, and `LostError` where
        they may be asked for again."""
        try:
            async with asyncio.timeout(self._timeout):
                return await lane.exchange(requests)
        except LostError:
            raise
        except (TimeoutError, OSError) as error:
            raise self._silent(error) from None

    async def evaluate(self, path: str, body: bytes) -> bytes:
        """The answer to a query. Raises as `answer` does. A kept connection that turns out to be closed is replaced
        once."""
        try:
            try:
                status, answer = await self._client.ask("POST", path, body)
            except aiohttp.ServerDisconnectedError:
                status, answer = await self._client.ask("POST", path, body)
        except (TimeoutError, aiohttp.ClientError, OSError) as error:
            raise self._silent(error) from None
        return self.answer((status, answer))

    def answer(self, answer: Answer) -> bytes:
        """The body of an answer to a query. Raises `DecisionError` where there is none, and `RefusedError` for HTTP
        4xx."""
        status, body = answer
        if status == 200:
            return body
        if status >= 500:
            raise DecisionError("evaluation", f"OPA failed to evaluate: HTTP {status}")
        raise RefusedError(status, "the query", None)

    def _silent(self, error: Exception) -> DecisionError:
        if isinstance(error, TimeoutError):
            return DecisionError("timeout", f"OPA at {self.url} did not answer in time")
        return DecisionError("unavailable", f"OPA at {self.url} is away: {type(error).__name__}")

    async def call(self, method: str, path: str, body: bytes | None = None) -> Any:
        """The decoded answer to a request that no check waits for, None where it has no body. Raises `AwayError`, and
        `RefusedError` for any status but 200 and 204."""
        try:
            status, answer = await self._client.ask(method, path, body, _SLOW)
        except (TimeoutError, aiohttp.ClientError, OSError) as error:
            raise AwayError(f"OPA at {self.url} is away: {type(error).__name__}") from None
        try:
            decoded = json.loads(answer) if answer else None  # orjson refuses numbers that Rego has, 1e400
        except (ValueError, RecursionError):
            decoded = _NONE
        if status not in (200, 204):
            raise RefusedError(status, f"{method} /v1/{path.partition('?')[0]}", decoded)
        if decoded is _NONE:
            raise self.unlike_opa()
        return decoded

    async def document(self, path: str) -> Any:
        """A document below data, None where there is none. `path` is quoted."""
        answer = await self.call("GET", f"data/{path}")
        if not isinstance(answer, dict):
            raise self.unlike_opa()
        return answer.get("result")

    async def policies(self) -> dict[str, str]:
        """The source of each module that the server has, by its id."""
        match await self.call("GET", "policies"):
            case {"result": list(listed)}:
                try:
                    return {str(policy["id"]): str(policy["raw"]) for policy in listed}
                except (KeyError, TypeError):
                    pass
        raise self.unlike_opa()

    def unlike_opa(self) -> AwayError:
        return AwayError(f"OPA at {self.url} gave no answer of OPA's API")


def modules(policies: dict[str, str]) -> tuple[Module, ...]:
    return tuple(Module(name, source) for name, source in sorted(policies.items()))


async def shown(settings: config.Opa) -> tuple[Module, ...]:
    """The modules of a server. Raises `StartError`."""
    server = OpaServer(settings)
    await server.open()
    try:
        return modules(await server.policies())
    except (AwayError, RefusedError) as error:
        raise StartError(str(error)) from None
    finally:
        await server.close()
