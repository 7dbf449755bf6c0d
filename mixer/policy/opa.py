"""The OPA engine: an OPA server (1.22 or newer), through opa-python-client.

Policies and data are the server's own. A server that is away does not stop Mixer from starting: each Check
answers UNAVAILABLE until it is back, and `/readyz` says so.

Checks that arrive while others are on their way are evaluated in one ad-hoc query, each `with input as` its own. With
OPA and the load on one core, and Mixer on the other, that is 1.3 to 1.5 times what `AsyncOpaClient` alone gets with a
query each (`benchmarks/opa.py`). What OPA keeps for one query (`time.now_ns`, `rand.intn`, `http.send`) it then keeps
for all of them.
"""

import asyncio
import copy
import json
import logging
from collections.abc import Sequence
from typing import Any, Final
from urllib.parse import urlsplit

import aiohttp
import structlog
from opa_client.opa_async import AsyncOpaClient

from mixer import config
from mixer.errors import DecisionError
from mixer.policy.batches import Batches, FullError
from mixer.policy.engine import WHOLE_INPUT, Evaluation, References

log = structlog.get_logger()


_UNDEFINED: Final = object()
_APART = 300.0  # seconds until ad-hoc queries are tried again with a server that refused one
_JSON = {"content-type": "application/json"}


class _RefusedError(DecisionError):
    """The server does not take the query (HTTP 4xx)."""


class _Client(AsyncOpaClient):  # type: ignore[misc]
    """The client over a Unix socket too, which its own session does not know."""

    def __init__(self, unix_path: str | None, **options: object) -> None:
        super().__init__(**options)
        self._unix_path = unix_path

    async def post(self, path: str, body: bytes) -> Any:
        """The JSON answer to JSON. Raises as aiohttp does, and `ValueError` for what is no JSON."""
        async with self._request("POST", f"{self.root_url}/{path}", data=body, headers=_JSON) as response:
            response.raise_for_status()
            return await response.json()

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
    """See `PolicyEngine`. `policy.opa` says how many checks share a query, how many queries there are, and how many
    checks may wait for one."""

    name = "opa"

    def __init__(self, settings: config.Policy) -> None:
        self._settings = settings.opa
        self._url = settings.opa.url
        self.revision = ""
        # The server's policies may change at any time, so all of the input is sent and nothing is cached.
        self.references = References(WHOLE_INPUT, ("the OPA server may change its policies at any time",))
        self._client = _client(settings.opa)
        self._engines: list[OpaEngine] = []
        self._decide(settings.decision)

    def _decide(self, decision: str) -> None:
        self.decision = decision
        # Brackets, since a path of the Data API may have words that are no names in Rego (beyond ASCII).
        rule = "data" + "".join(f"[{json.dumps(word)}]" for word in decision.split("/"))
        query = f"x := {{i: d | some i, doc in input; d := {rule} with input as doc}}"
        self._before = b'{"query": %b, "input": [' % json.dumps(query).encode()
        settings = self._settings
        self._batches: Batches[bytes, object] = Batches(
            self._evaluate,
            max_items=settings.max_batch,
            concurrency=settings.concurrency,
            max_waiting=settings.max_waiting,
        )
        self._apart_until = 0.0  # by the loop's clock; the server has refused ad-hoc queries until then
        self._engines.append(self)

    async def start(self) -> None:
        logging.getLogger("opa_client").setLevel(logging.WARNING)
        await self._client._init_session()
        if (reason := await self.ready()) is not None:
            log.warning("opa_away", url=self._url, reason=reason)

    def of(self, decision: str) -> "OpaEngine":
        other = copy.copy(self)  # and so with the same connections
        other._decide(decision)
        return other

    async def evaluate(self, document: bytes, timeout: float | None, value: object = None) -> Evaluation:
        bound = self._settings.timeout if timeout is None else min(timeout, self._settings.timeout)
        try:
            async with asyncio.timeout(bound):
                decision = await self._batches.do(document)
        except TimeoutError:
            raise DecisionError(
                "timeout", f"OPA at {self._url} did not answer within {bound:.3f} s"
            ) from None
        except FullError:
            raise DecisionError(
                "overload",
                f"{self._settings.max_waiting} checks wait for OPA at {self._url} already "
                "(policy.opa.max_waiting)",
            ) from None
        if decision is _UNDEFINED:
            raise DecisionError("undefined", f"decision {self.decision} is undefined for this request")
        try:
            return Evaluation(json.dumps(decision, allow_nan=False))
        except ValueError:
            raise DecisionError(
                "illegal", f"decision {self.decision} holds a number beyond the range of doubles"
            ) from None

    async def _evaluate(self, documents: Sequence[bytes]) -> Sequence[object]:
        """The decision of each, `_UNDEFINED`, or an error of its own."""
        loop = asyncio.get_running_loop()
        if len(documents) > 1 and loop.time() >= self._apart_until:
            try:
                return await self._together(documents)
            except _RefusedError as error:
                # By the server's authorization, say. Without this, checks would fail under load alone.
                self._apart_until = loop.time() + _APART
                log.warning("opa_refuses_batches", decision=self.decision, error=str(error), again_in=_APART)
            except DecisionError as error:
                # One that fails makes the query fail, so each is asked for by itself.
                if error.reason != "evaluation":
                    raise
        return await asyncio.gather(*map(self._single, documents))

    async def _together(self, documents: Sequence[bytes]) -> list[object]:
        answer = await self._post("query", b"%b%b]}" % (self._before, b",".join(documents)))
        match answer:
            case {"result": [{"x": dict(decisions)}]}:
                return [decisions.get(str(index), _UNDEFINED) for index in range(len(documents))]
        raise self._unlike_opa()

    async def _single(self, document: bytes) -> object:
        try:
            answer = await self._post(f"data/{self.decision}", b'{"input": %b}' % document)
        except DecisionError as error:
            return error
        return answer.get("result", _UNDEFINED) if isinstance(answer, dict) else self._unlike_opa()

    async def _post(self, path: str, body: bytes) -> object:
        """The server's answer. Raises `DecisionError` where there is none."""
        try:
            try:
                return await self._client.post(path, body)
            except aiohttp.ServerDisconnectedError:
                # A kept connection that the server had just closed; evaluating twice is harmless.
                return await self._client.post(path, body)
        except TimeoutError:
            raise DecisionError("timeout", f"OPA at {self._url} did not answer in time") from None
        except aiohttp.ClientResponseError as error:
            if error.status >= 500:
                raise DecisionError(
                    "evaluation", f"OPA failed to evaluate {self.decision}: HTTP {error.status}"
                ) from None
            hint = "; let it allow POST /v1/query, or set policy.opa.max_batch: 1" if path == "query" else ""
            raise _RefusedError(
                "unavailable", f"OPA at {self._url} refused the query: HTTP {error.status}{hint}"
            ) from None
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise DecisionError(
                "unavailable", f"OPA at {self._url} is away: {type(error).__name__}"
            ) from None

    def _unlike_opa(self) -> DecisionError:
        return DecisionError("unavailable", f"OPA at {self._url} gave no answer of OPA's API")

    async def ready(self) -> str | None:
        return None if await self._client.check_health() else f"OPA at {self._url} is away"

    async def close(self) -> None:
        for engine in self._engines:
            await engine._batches.close()
        await self._client.close_connection()
