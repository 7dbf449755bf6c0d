"""The OPA engine: an OPA server (1.22 or newer), through opa-python-client.

Policies and data are the server's own, or pushed at start (`opa_push`). A server that is away does not stop Mixer from
starting: each Check answers UNAVAILABLE until it is back, and `/readyz` says so.

Checks that arrive while others are on their way are evaluated in one ad-hoc query, each `with input as` its own, and
only what the policies can read of it is sent (`opa_reading`). OPA's share of the processor for the benchmark's plain
policy, in µs a decision:

| | whole input | what is read |
|---|---|---|
| alone, by the Data API | 330 | 240 |
| 32, 64 in an ad-hoc query | 158, 147 | 52, 41 |
| 32, 64 by a rule in a module, whose query OPA keeps | 109, 150 | 48, 44 |

So a module of ours in the server would gain nothing, and a query needs none. What OPA keeps for one query
(`time.now_ns`, `rand.intn`, `http.send`) it keeps for all checks in it.
"""

import asyncio
import copy
import json
import logging
import re
from collections.abc import Awaitable, Sequence
from typing import Any, Final
from urllib.parse import quote

import orjson
import structlog

from mixer import config
from mixer.errors import DecisionError
from mixer.policy.batches import Batches, FullError
from mixer.policy.engine import Evaluation, OutdatedError, References
from mixer.policy.opa_lanes import Answer, Lane, LostError, Request
from mixer.policy.opa_push import Push
from mixer.policy.opa_reading import Reading
from mixer.policy.opa_server import OpaServer, RefusedError
from mixer.policy.sources import Sources

log = structlog.get_logger()

_UNDEFINED: Final = object()
_APART = 300.0  # seconds until ad-hoc queries are tried again with a server that refused one
_ATTEMPTS = 5  # to evaluate a batch between two changes of the server
_LONG_NUMBER = re.compile(rb"[0-9]{16}|[0-9][eE]\+?[0-9]{3}")  # orjson may round it, or refuse it
_Item = tuple[bytes, References]


def _exact(raw: bytes) -> bool:
    """Whether an answer may hold a number that orjson, at a tenth of the time, would not keep as it is."""
    return _LONG_NUMBER.search(raw) is not None


class OpaEngine:
    """See `PolicyEngine`. `policy.opa` says how many checks share a query, how many queries there are, and how many
    checks may wait for one. `loaded`: the policies and data that are pushed."""

    name = "opa"

    def __init__(self, settings: config.Policy, loaded: Sources | None = None) -> None:
        self._settings = settings.opa
        self._server = OpaServer(settings.opa)
        self._push = Push(self._server, loaded) if loaded is not None else None
        self._reading = Reading(self._server, self._push, narrow=settings.opa.input == "read")
        self._engines: list[OpaEngine] = []
        self._decide(settings.decision)

    def _decide(self, decision: str) -> None:
        self.decision = decision
        self._reading.add(decision)
        # Brackets, since a path of the Data API may have words that are no names in Rego (beyond ASCII).
        rule = "data" + "".join(f"[{json.dumps(word)}]" for word in decision.split("/"))
        query = f"x := {{i: d | e := input[i]; d := {rule} with input as e}}"
        self._before = b'{"query": %b, "input": [' % json.dumps(query).encode()
        self._path = "data/" + quote(decision)
        settings = self._settings
        self._batches: Batches[_Item, Evaluation] = Batches(
            self._evaluate,
            self._late,
            max_items=settings.max_batch,
            concurrency=settings.concurrency,
            max_waiting=settings.max_waiting,
        )
        self._apart_until = 0.0  # by the loop's clock; the server has refused ad-hoc queries until then
        self._engines.append(self)

    @property
    def references(self) -> References:
        return self._reading.of(self.decision)

    @property
    def revision(self) -> str:
        return self._push.revision if self._push is not None else ""

    async def start(self) -> None:
        logging.getLogger("opa_client").setLevel(logging.WARNING)
        await self._server.open()
        if (reason := await self.ready()) is not None:
            log.warning("opa_away", url=self._server.url, reason=reason)
        await self._reading.start()

    def of(self, decision: str) -> "OpaEngine":
        other = copy.copy(self)  # and so with the same connections
        other._decide(decision)
        return other

    def evaluate(self, document: bytes, timeout: float | None, value: object = None) -> Awaitable[Evaluation]:
        bound = self._settings.timeout if timeout is None else min(timeout, self._settings.timeout)
        try:
            return self._batches.put((document, self._reading.of(self.decision)), bound)
        except FullError as error:
            why = f"{self._settings.max_waiting} checks wait for OPA at {self._server.url} already"
            if error.is_slow:
                why = (
                    f"checks wait for OPA at {self._server.url}, too many to answer one more in {bound:.3f} s"
                )
            raise DecisionError(
                "overload", why if error.is_slow else f"{why} (policy.opa.max_waiting)"
            ) from None

    def _late(self, seconds: float) -> DecisionError:
        return DecisionError("timeout", f"OPA at {self._server.url} did not answer within {seconds:.3f} s")

    async def _evaluate(self, items: Sequence[_Item]) -> list[Evaluation | Exception]:
        """The decision of each, or why there is none."""
        for _ in range(_ATTEMPTS):
            async with self._server.lanes.take() as lane:
                epoch = await self._reading.ready(self.decision, lane)
                present = self.references
                documents = [document for document, references in items if references is present]
                answers = await self._ask(lane, documents, epoch) if documents else []
            if answers is None:
                continue
            if len(documents) == len(items):
                return answers
            rest = iter(answers)
            return [next(rest) if references is present else OutdatedError() for _, references in items]
        raise DecisionError("unavailable", f"OPA at {self._server.url} changes faster than it answers")

    async def _ask(
        self, lane: Lane, documents: Sequence[bytes], epoch: int | None
    ) -> list[Evaluation | Exception] | None:
        """None: they must be asked for again."""
        loop = asyncio.get_running_loop()
        if len(documents) == 1 or loop.time() >= self._apart_until:
            path, body = self._path, b'{"input": %b}' % documents[0]
            if len(documents) > 1:
                path, body = "query", b"%b%b]}" % (self._before, b",".join(documents))
            if (answer := await self._confirmed(lane, (path, body), epoch)) is None:
                return None
            if len(documents) == 1:
                return [self._alone(answer)]
            try:
                return self._each(self._server.answer(answer), len(documents))
            except RefusedError as error:
                # By the server's authorization, say. Without this, checks would fail under load alone.
                self._apart_until = loop.time() + _APART
                hint = "let it allow POST /v1/query, or set policy.opa.max_batch: 1"
                log.warning("opa_refuses_batches", error=str(error), hint=hint, again_in=_APART)
            except DecisionError as error:
                # One that fails makes the query fail, so each is asked for by itself.
                if error.reason != "evaluation":
                    raise
        answers = await asyncio.gather(*map(self._single, documents))
        return answers if epoch is None or await self._reading.still_holds(epoch, lane) else None

    async def _confirmed(self, lane: Lane, request: Request, epoch: int | None) -> Answer | None:
        """The answer, None where it does not count."""
        if epoch is None:
            try:
                (answer,) = await self._server.exchange(lane, [request])
            except LostError:
                return None
            return answer
        try:
            answer, witness = await self._server.exchange(lane, [request, self._reading.witness(lane)])
        except (DecisionError, LostError, asyncio.CancelledError) as error:
            self._reading.lost(epoch, lane)
            if isinstance(error, LostError):
                return None
            raise
        return answer if self._reading.holds(epoch, witness) else None

    def _each(self, raw: bytes, count: int) -> list[Evaluation | Exception]:
        match self._parsed(raw):
            case {"result": [{"x": dict(decisions)}]}:
                exact = _exact(raw)
                return [self._decided(decisions.get(str(index), _UNDEFINED), exact) for index in range(count)]
        raise self._unlike_opa()

    def _alone(self, answer: Answer) -> Evaluation | Exception:
        try:
            raw = self._server.answer(answer)
            parsed = self._parsed(raw)
        except DecisionError as error:
            return error
        except RefusedError as error:
            return DecisionError("unavailable", f"{error}")
        if not isinstance(parsed, dict):
            return self._unlike_opa()
        return self._decided(parsed.get("result", _UNDEFINED), _exact(raw))

    async def _single(self, document: bytes) -> Evaluation | Exception:
        try:
            raw = await self._server.evaluate(self._path, b'{"input": %b}' % document)
        except DecisionError as error:
            return error
        except RefusedError as error:
            return DecisionError("unavailable", f"{error}")
        return self._alone((200, raw))

    def _parsed(self, raw: bytes) -> Any:
        try:
            return json.loads(raw) if _exact(raw) else orjson.loads(raw)
        except ValueError:
            raise self._unlike_opa() from None

    def _decided(self, decision: Any, exact: bool) -> Evaluation | Exception:
        if decision is _UNDEFINED:
            return DecisionError("undefined", f"decision {self.decision} is undefined for this request")
        if not exact:
            return Evaluation(orjson.dumps(decision).decode())
        try:
            return Evaluation(json.dumps(decision, allow_nan=False))
        except ValueError:
            return DecisionError(
                "illegal", f"decision {self.decision} holds a number beyond the range of doubles"
            )

    def _unlike_opa(self) -> DecisionError:
        return DecisionError("unavailable", str(self._server.unlike_opa()))

    async def ready(self) -> str | None:
        if not await self._server.healthy():
            return f"OPA at {self._server.url} is away"
        return self._reading.trouble

    async def close(self) -> None:
        for engine in self._engines:
            await engine._batches.close()
        await self._reading.close()
        await self._server.close()
