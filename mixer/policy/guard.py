"""A builtin's error as *undefined*, which is what OPA makes of it.

regorus raises instead. So a call is made to give a list, with the value or empty where the builtin fails:
`to_number(x)` becomes `mixer.to_number_1(x)[0]`. For the builtins that we supply that is done from the start.
regorus' own are faster without; what raises is evaluated again on an engine whose modules guard all of them, and
the operators (`+`, `|`, …), which are builtins too, and `some x in y`, which finds nothing where y is no collection.
Only a request that meets such an error pays for it.
"""

from collections.abc import Callable, Collection, Iterable
from typing import Any

from regorus import Engine

from mixer.policy.builtins import Builtin, BuiltinError
from mixer.policy.builtins.catalog import ARITY, NATIVE, NONDETERMINISTIC
from mixer.policy.library import WHOLE_PACKAGE
from mixer.policy.sources import Module
from mixer.policy.syntax import Edit, Editor, Node, extent, replaced
from mixer.policy.ticks import TICK

PACKAGE = "mixer_guard"
# Relations and effects have no value to guard; what reads the clock must stay the one of this evaluation.
_UNGUARDED = (NONDETERMINISTIC & NATIVE) | {"walk", "print", "trace", TICK}
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
    """`only`: the builtins to guard; None: all but the `unguarded` ones, and the operators too."""

    def __init__(self, module: Node, unguarded: Collection[str], only: Collection[str] | None) -> None:
        super().__init__(module)
        self.guards: Guards = set()
        self._unguarded = unguarded
        self._is_sound = self.file == f"<{WHOLE_PACKAGE}>"
        self._only = only

    def expression(self, node: Node, statement: bool) -> list[Edit] | None:
        kind, body = next(iter(node.items()))
        if kind in ("ArithExpr", "BinExpr") and self._only is None and not self._is_sound:
            operands = self.text(body["lhs"]), self.text(body["rhs"])
            function = f"data.{PACKAGE}.{_OPERATORS[body['op']]}".encode()
            return [self.replaced(*extent(node, self.source), b"%b(%b, %b)" % (function, *operands))]
        if kind == "Call" and (name := self.builtin(node)) and self._guards(name):
            guard = name, ARITY.get(name, len(body["params"]))
            self.guards.add(guard)
            end = extent(node, self.source)[1]
            callee = (*extent(body["fcn"], self.source), _name(*guard).encode())
            return [callee, *self.edits(body["params"]), (end, end, b"[0]")]
        return None

    def _guards(self, name: str) -> bool:
        if self._is_sound and not name.startswith("mixer."):
            return False
        return name not in self._unguarded and (self._only is None or name in self._only)

    def literal(self, kind: str, body: Node) -> list[Edit] | None:
        if kind != "SomeIn" or self._only is not None or self._is_sound:
            return None
        collection = body["collection"]
        text = b"data.%b.collection(%b)" % (PACKAGE.encode(), self.text(collection))
        patterns = [body["value"], body["key"]]
        return [*self.edits(patterns), (*extent(collection, self.source), text)]


def guarded_modules(
    modules: Iterable[Node], only: Collection[str] | None = None
) -> tuple[list[Module], Guards]:
    """The same modules with what can fail guarded, all of it or `only` some builtins; and which builtins that are."""
    result, needed = [], set[tuple[str, int]]()
    modules = list(modules)
    unguarded = _UNGUARDED.union(*map(replaced, modules))  # `with count as f` means `count` by its own name
    for module in modules:
        editor = _Guarded(module, unguarded, only)
        result.append(Module(editor.file, editor.rewritten()))
        needed |= editor.guards
    if only is None:
        result.append(Module(f"<{PACKAGE}>", f"package {PACKAGE}\nimport rego.v1\n{_OPERATOR_RULES}"))
    return result, needed


def add_guards(engine: Engine, guards: Guards, supplied: dict[str, Builtin]) -> None:
    """Register what the guarded modules call: a list with the builtin's value, or an empty one."""
    for name, arity in guards:
        function = supplied[name][1] if name in supplied else _native(name, arity)
        engine.add_extension(_name(name, arity), arity, _guarded(function))


def _name(name: str, arity: int) -> str:
    return f"mixer.{name.replace('.', '_')}_{arity}"


def _guarded(function: Callable[..., Any]) -> Callable[..., list[Any]]:
    def call(*operands: Any) -> list[Any]:
        try:
            return [function(*operands)]
        except BuiltinError:
            return []

    return call


def _native(name: str, arity: int) -> Callable[..., Any]:
    """A builtin of regorus, evaluated on an engine of its own."""
    operands = ", ".join(f"input[{index}]" for index in range(arity))

    def made() -> Engine:
        engine = Engine()
        engine.add_policy(f"<{name}>", f"package builtin\nimport rego.v1\nvalue := [{name}({operands})]")
        return engine

    engine = made()

    def call(*operands: Any) -> Any:
        nonlocal engine
        engine.set_input(list(operands))
        try:
            result = engine.eval_rule("data.builtin.value")
        except RuntimeError:
            raise BuiltinError(name) from None
        except BaseException:
            engine = made()
            raise
        if result is None:
            raise BuiltinError(name)
        return result[0]

    return call


def is_panic(error: BaseException) -> bool:
    """Whether regorus panicked. pyo3 makes the exception's type at run time, and no module has it."""
    return type(error).__name__ == "PanicException"
