"""A builtin's error as *undefined*, which is what OPA makes of it.

regorus raises instead. It raises, so nothing is decided wrongly; the evaluation is then repeated on an engine
whose modules call each builtin through a guard: a function that is undefined where the builtin fails. Only a
request that meets such an error pays for it.
"""

from collections.abc import Callable, Iterable
from typing import Any

from regorus import Engine

from mixer.policy.builtins import BuiltinError
from mixer.policy.builtins.catalog import ARITY, NONDETERMINISTIC
from mixer.policy.references import Call
from mixer.policy.sources import Module

PACKAGE = "mixer_guard"
# Relations and effects have no value to guard; what reads the clock must stay the one of this evaluation.
_UNGUARDED = NONDETERMINISTIC | {"walk", "print", "trace"}


def guarded_modules(modules: Iterable[Module], calls: Iterable[Call]) -> list[Module]:
    """The same modules, each builtin call's name replaced by its guard's, and the module of the guards."""
    by_file: dict[str, list[Call]] = {}
    needed: dict[tuple[str, int], None] = {}
    for call in calls:
        if call.name not in _UNGUARDED:
            by_file.setdefault(call.file, []).append(call)
            needed[call.name, _arity(call)] = None
    result = []
    for module in modules:
        source = module.source.encode()
        for call in sorted(by_file.get(module.file, ()), key=lambda call: call.start, reverse=True):
            source = (
                source[: call.start]
                + f"data.{PACKAGE}.{_name(call.name, _arity(call))}".encode()
                + source[call.end :]
            )
        result.append(Module(module.file, source.decode()))
    lines = [f"package {PACKAGE}", "import rego.v1"]
    for name, arity in needed:
        operands = ", ".join(f"a{index}" for index in range(arity))
        function = _name(name, arity)
        lines.append(f"{function}({operands}) := result if {{ result := mixer.{function}({operands})[0] }}")
    result.append(Module(f"<{PACKAGE}>", "\n".join(lines)))
    return result


def add_guards(
    engine: Engine, calls: Iterable[Call], supplied: dict[str, tuple[int, Callable[..., Any]]]
) -> None:
    """Register the functions that the guards call: a list with the builtin's value, or an empty one."""
    for name, arity in {(call.name, _arity(call)) for call in calls if call.name not in _UNGUARDED}:
        function = supplied[name][1] if name in supplied else _native(name, arity)
        engine.add_extension(f"mixer.{_name(name, arity)}", arity, _guarded(function))


def _arity(call: Call) -> int:
    """The builtin's own: one operand more takes its result."""
    return ARITY.get(call.name, call.arity)


def _name(name: str, arity: int) -> str:
    return f"{name.replace('.', '_')}_{arity}"


def _guarded(function: Callable[..., Any]) -> Callable[..., list[Any]]:
    def call(*operands: Any) -> list[Any]:
        try:
            return [function(*operands)]
        except BuiltinError:
            return []

    return call


def _native(name: str, arity: int) -> Callable[..., Any]:
    """A builtin of regorus, evaluated on an engine of its own."""
    engine = Engine()
    operands = ", ".join(f"input[{index}]" for index in range(arity))
    engine.add_policy(f"<{name}>", f"package builtin\nimport rego.v1\nvalue := [{name}({operands})]")

    def call(*operands: Any) -> Any:
        engine.set_input(list(operands))
        try:
            result = engine.eval_rule("data.builtin.value")
        except RuntimeError:
            raise BuiltinError(name) from None
        if result is None:
            raise BuiltinError(name)
        return result[0]

    return call
