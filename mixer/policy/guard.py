"""A builtin's error as *undefined*, which is what OPA makes of it.

regorus raises instead. It raises, so nothing is decided wrongly; the evaluation is then repeated on an engine
whose modules call each builtin through a guard: a function that is undefined where the builtin fails. Operators
(`+`, `|`, …) are builtins too, and `some x in y` finds nothing where y is no collection. Only a request that meets
such an error pays for it.
"""

from collections.abc import Callable, Iterable
from typing import Any

from regorus import Engine

from mixer.policy.builtins import Builtin, BuiltinError
from mixer.policy.builtins.catalog import ARITY, NONDETERMINISTIC
from mixer.policy.sources import Module
from mixer.policy.syntax import Edit, Editor, Node, extent, replaced

PACKAGE = "mixer_guard"
# Relations and effects have no value to guard; what reads the clock must stay the one of this evaluation.
_UNGUARDED = NONDETERMINISTIC | {"walk", "print", "trace"}
_OPERATORS = {
    "Add": "plus",
    "Sub": "minus",
    "Mul": "times",
    "Div": "divided",
    "Mod": "modulo",
    "Union": "either",
    "Intersection": "both",
}
_OPERATOR_RULES = """
numbers(a, b) if { is_number(a); is_number(b) }
sets(a, b) if { is_set(a); is_set(b) }
plus(a, b) := a + b if numbers(a, b)
minus(a, b) := a - b if numbers(a, b)
minus(a, b) := a - b if sets(a, b)
times(a, b) := a * b if numbers(a, b)
divided(a, b) := a / b if { numbers(a, b); b != 0 }
modulo(a, b) := a % b if { numbers(a, b); b != 0; floor(a) == a; floor(b) == b }
either(a, b) := a | b if sets(a, b)
both(a, b) := a & b if sets(a, b)
collection(a) := a if is_array(a)
collection(a) := a if is_object(a)
collection(a) := a if is_set(a)
"""

Guards = set[tuple[str, int]]  # name and number of operands


class _Guarded(Editor):
    def __init__(self, module: Node, unguarded: frozenset[str]) -> None:
        super().__init__(module)
        self.guards: Guards = set()
        self._unguarded = unguarded

    def expression(self, node: Node, statement: bool) -> list[Edit] | None:
        kind, body = next(iter(node.items()))
        if kind in ("ArithExpr", "BinExpr"):
            function = _OPERATORS[body["op"]].encode()
            text = b"data.%b.%b(%b, %b)" % (
                PACKAGE.encode(),
                function,
                self.text(body["lhs"]),
                self.text(body["rhs"]),
            )
            return [self.replaced(*extent(node, self.source), text)]
        if kind == "Call" and (name := self.builtin(node)) and name not in self._unguarded:
            guard = name, ARITY.get(name, len(body["params"]))  # one operand more takes the value
            self.guards.add(guard)
            callee = f"data.{PACKAGE}.{_name(*guard)}".encode()
            return [(*extent(body["fcn"], self.source), callee), *self.edits(body["params"])]
        return None

    def literal(self, kind: str, body: Node) -> list[Edit] | None:
        if kind != "SomeIn":
            return None
        collection = body["collection"]
        text = b"data.%b.collection(%b)" % (PACKAGE.encode(), self.text(collection))
        patterns = [body["value"], body["key"]]
        return [*self.edits(patterns), (*extent(collection, self.source), text)]


def guarded_modules(modules: Iterable[Node]) -> tuple[list[Module], Guards]:
    """The same modules with all that can fail guarded, and the module of the guards; and which builtins they need."""
    result, needed = [], set[tuple[str, int]]()
    modules = list(modules)
    unguarded = _UNGUARDED.union(*map(replaced, modules))  # `with count as f` means `count` by its own name
    for module in modules:
        editor = _Guarded(module, unguarded)
        result.append(Module(editor.file, editor.rewritten()))
        needed |= editor.guards
    lines = [f"package {PACKAGE}", "import rego.v1", _OPERATOR_RULES]
    for name, arity in sorted(needed):
        operands = ", ".join(f"a{index}" for index in range(arity))
        function = _name(name, arity)
        lines.append(f"{function}({operands}) := result if {{ result := mixer.{function}({operands})[0] }}")
    result.append(Module(f"<{PACKAGE}>", "\n".join(lines)))
    return result, needed


def add_guards(engine: Engine, guards: Guards, supplied: dict[str, Builtin]) -> None:
    """Register the functions that the guards call: a list with the builtin's value, or an empty one."""
    for name, arity in guards:
        function = supplied[name][1] if name in supplied else _native(name, arity)
        engine.add_extension(f"mixer.{_name(name, arity)}", arity, _guarded(function))


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
