"""Rules compiled to closures, for the part of Rego that most policies stay within.

The interpreter (`policy.program`) decides as OPA does and takes 40 µs for a small policy; the same policy, compiled,
takes a tenth of it, since values stay Python's and nothing is looked up by name. What is not compiled is refused when
a policy is loaded (`UnsupportedRuleError`), or met in an evaluation (`UnsureError`): then the interpreter decides.
So nothing is decided here that is not certain to be OPA's answer; OPA's own cases and generated policies hold it to
that.
"""

import re
import time
from collections.abc import Callable, Sequence
from typing import Any

import orjson

from mixer.policy.compiled.names import UnsupportedRuleError
from mixer.policy.compiled.rules import UNSET, RuleSet, State
from mixer.policy.compiled.values import UNDEFINED, UnsureError, plain
from mixer.policy.engine import Path
from mixer.policy.syntax import Node

__all__ = ["Compiled", "UnsupportedRuleError", "UnsureError", "read"]

_MINUS_ZERO = re.compile(rb"-0(?![.0-9])")


def read(document: bytes | None) -> Any:
    """An input's value from its JSON text. Raises `UnsureError` where the interpreter must read it."""
    if document is None:
        return UNDEFINED
    if b"-0" in document and _MINUS_ZERO.search(document):
        raise UnsureError("a zero with a sign")
    try:
        return orjson.loads(document)
    except orjson.JSONDecodeError:
        raise UnsureError("text that is no JSON") from None


class Compiled:
    """One decision of a set of modules. Raises `UnsupportedRuleError` for what is not compiled.

    `asts`: what `Engine.get_ast_as_json` gives, parsed; `builtins`: those besides `compiled.functions`.
    """

    def __init__(
        self,
        asts: Sequence[Node],
        data: dict[str, Any],
        decision: Path,
        builtins: dict[str, Callable[..., Any]],
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._state = state = State()

        def now() -> int:
            if state.now is None:
                state.now = int(clock() * 1e9)
            return state.now

        rules = RuleSet(asts, data, state, {"time.now_ns": now, **builtins})
        try:
            term, rest = rules.document(decision, ())
        except RecursionError:
            raise UnsupportedRuleError("rules that lead to each other too deeply") from None
        except UnsureError as error:
            raise UnsupportedRuleError(str(error)) from None
        if rest or term.is_constant:
            raise UnsupportedRuleError("a decision that is no rule")
        self._run = term.run
        self._unset = [UNSET] * rules.kept

    def evaluate(self, document: Any) -> str | None:
        """The decision over an input (of JSON's values) as JSON text; None where it is undefined.

        Raises `UnsureError` where the interpreter has to decide.
        """
        state = self._state
        state.input, state.kept, state.now = document, self._unset.copy(), None
        try:
            value = self._run([])
            if value is UNDEFINED:
                return None
            return orjson.dumps(value, default=plain, option=orjson.OPT_SORT_KEYS).decode()
        except RecursionError:
            raise UnsureError("a deep recursion") from None
        except orjson.JSONEncodeError:  # an integer of more than 64 bits, or a surrogate
            raise UnsureError("a value that JSON does not have") from None
        finally:
            state.input = UNDEFINED
