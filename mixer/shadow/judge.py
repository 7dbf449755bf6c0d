"""What a candidate makes of a request: the same way as a Check, without the answer."""

from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import orjson
from envoy.service.auth.v3.external_auth_pb2 import CheckRequest

from mixer.authz.body import Bodies
from mixer.authz.input import InputBuilder
from mixer.authz.response import Answers
from mixer.authz.url import BadRequestError
from mixer.errors import DecisionError
from mixer.policy.engine import Evaluation, PolicyEngine


class Judge:
    """Evaluates requests with a started engine. `wait`: has what the engine must wait for, on the loop that it was
    started on."""

    def __init__(
        self,
        engine: PolicyEngine,
        bodies: Bodies | None,
        wait: Callable[[Coroutine[Any, Any, Evaluation]], Evaluation],
    ) -> None:
        self._engine = engine
        self._wait = wait
        self._input = InputBuilder(engine.references.paths, bodies)
        # A candidate's limits are not counted, so nothing is to be read from them.
        self._answers = Answers(engine.decision, engine.revision, read=lambda _: ())
        self.decision = engine.decision

    def __call__(self, request: bytes) -> dict[str, Any]:
        """`allowed`, None where there is no legal decision, and then `error`; `result`: the decision as JSON text."""
        result: str | None = None
        try:
            document = orjson.dumps(self._input.build(CheckRequest.FromString(request)))
            evaluation = self._engine.evaluate(document, None)
            if not isinstance(evaluation, Evaluation):
                evaluation = self._wait(_awaited(evaluation))
            result = evaluation.decision
            allowed = self._answers.of(result, "off").allowed
        except (DecisionError, BadRequestError) as error:
            return {"allowed": None, "result": result, "error": str(error)}
        except orjson.JSONEncodeError as error:
            return {"allowed": None, "result": None, "error": f"no input can be made of the request: {error}"}
        # None: an `error_response`, which is a decision, but neither of the two.
        why = "the candidate leaves the request to the failure mode" if allowed is None else None
        return {"allowed": allowed, "result": result, "error": why}


async def _awaited(waiting: Awaitable[Evaluation]) -> Evaluation:
    return await waiting
