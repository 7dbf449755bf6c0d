"""The OPA engine: an OPA server (1.22 or newer), through opa-python-client.

Policies and data are the server's own. A server that is away does not stop Mixer from starting: each Check
answers UNAVAILABLE until it is back, and `/readyz` says so.
"""

import asyncio
import copy
import json
import logging
from urllib.parse import urlsplit

import aiohttp
import structlog
from opa_client.opa_async import AsyncOpaClient

from mixer import config
from mixer.errors import DecisionError
from mixer.policy.engine import WHOLE_INPUT, Evaluation, References

log = structlog.get_logger()


class _Client(AsyncOpaClient):  # type: ignore[misc]
    """The client over a Unix socket too, which its own session does not know."""

    def __init__(self, unix_path: str | None, **options: object) -> None:
        super().__init__(**options)
        self._unix_path = unix_path

    async def _init_session(self) -> None:
        if self._unix_path is None:
            await super()._init_session()
            return
        self._connector = aiohttp.UnixConnector(self._unix_path)
        timeout = aiohttp.ClientTimeout(total=self.timeout)
        self._session = aiohttp.ClientSession(
            headers=self.headers, connector=self._connector, timeout=timeout
        )


def _client(settings: config.Opa) -> _Client:
    token = settings.token.get_secret_value() if settings.token else None
    # No retries of the client's own: they wait 0.3 s, which is longer than Envoy does.
    options: dict[str, object] = {"timeout": settings.timeout, "retries": 0, "token": token}
    if settings.url.startswith("unix:"):
        path = "/" + settings.url.removeprefix("unix:").lstrip("/")
        return _Client(path, host="localhost", **options)
    url = urlsplit(settings.url)
    port = url.port or (443 if url.scheme == "https" else 80)
    return _Client(None, host=url.hostname, port=port, ssl=url.scheme == "https", **options)


class OpaEngine:
    """See `PolicyEngine`. Each evaluation is one query to the server's Data API."""

    name = "opa"

    def __init__(self, settings: config.Policy) -> None:
        self._url = settings.opa.url
        self._timeout = settings.opa.timeout
        self.decision = settings.decision
        self.revision = ""
        # The server's policies may change at any time, so all of the input is sent and nothing is cached.
        self.references = References(WHOLE_INPUT, ("the OPA server may change its policies at any time",))
        self._client = _client(settings.opa)

    async def start(self) -> None:
        logging.getLogger("opa_client").setLevel(logging.WARNING)
        await self._client._init_session()
        if (reason := await self.ready()) is not None:
            log.warning("opa_away", url=self._url, reason=reason)

    def of(self, decision: str) -> "OpaEngine":
        other = copy.copy(self)  # and so with the same connections
        other.decision = decision
        return other

    async def evaluate(self, document: bytes, timeout: float | None) -> Evaluation:
        bound = self._timeout if timeout is None else min(timeout, self._timeout)
        try:
            async with asyncio.timeout(bound):
                answer = await self._query(json.loads(document))
        except TimeoutError:
            raise DecisionError(
                "timeout", f"OPA at {self._url} did not answer within {bound:.3f} s"
            ) from None
        except aiohttp.ClientResponseError as error:
            if error.status >= 500:
                raise DecisionError(
                    "evaluation", f"OPA failed to evaluate {self.decision}: HTTP {error.status}"
                ) from None
            raise DecisionError(
                "unavailable", f"OPA at {self._url} refused the query: HTTP {error.status}"
            ) from None
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise DecisionError(
                "unavailable", f"OPA at {self._url} is away: {type(error).__name__}"
            ) from None
        if not isinstance(answer, dict):
            raise DecisionError("unavailable", f"OPA at {self._url} gave no answer of OPA's Data API")
        if "result" not in answer:
            raise DecisionError("undefined", f"decision {self.decision} is undefined for this request")
        try:
            return Evaluation(json.dumps(answer["result"], allow_nan=False))
        except ValueError:
            raise DecisionError(
                "illegal", f"decision {self.decision} holds a number beyond the range of doubles"
            ) from None

    async def _query(self, document: object) -> object:
        try:
            return await self._client.query_rule(document, self.decision)
        except aiohttp.ServerDisconnectedError:
            # A kept connection that the server had just closed; evaluating twice is harmless.
            return await self._client.query_rule(document, self.decision)

    async def ready(self) -> str | None:
        return None if await self._client.check_health() else f"OPA at {self._url} is away"

    async def close(self) -> None:
        await self._client.close_connection()
