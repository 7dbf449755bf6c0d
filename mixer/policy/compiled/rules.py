"""Rules as closures: complete ones and partial ones, which are evaluated once, and functions."""

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from mixer.policy.compiled.closures import put
from mixer.policy.compiled.functions import function
from mixer.policy.compiled.names import Module, Places, Scope, UnsupportedRuleError
from mixer.policy.compiled.queries import Query
from mixer.policy.compiled.steps import Check, Frame, Run, Steps
from mixer.policy.compiled.terms import Part, Term, constant, local
from mixer.policy.compiled.values import UNDEFINED, Set, UnsureError, lookup, same
from mixer.policy.engine import Path
from mixer.policy.syntax import Node, pattern, rule_head

UNSET: Any = object()


class State:
    """What one evaluation knows: its input, what it kept so far (by place), and its moment."""

    __slots__ = ("input", "kept", "now")

    def __init__(self) -> None:
        self.input: Any = UNDEFINED
        self.kept: list[Any] = []
        self.now: int | None = None


@dataclass(slots=True)
class _Group:
    """All that the modules say of one path."""

    rules: list[tuple[Module, Node]] = field(default_factory=list)
    default: tuple[Module, Node] | None = None
    is_partial: bool = False
    unfit: str = ""  # why it is not compiled


class RuleSet:
    """The rules of all modules; each is compiled when something refers to it."""

    def __init__(
        self,
        asts: Sequence[Node],
        data: dict[str, Any],
        state: State,
        builtins: dict[str, Callable[..., Any]],
    ) -> None:
        """`builtins`: besides those of `compiled.functions`."""
        self._data = data
        self.state = state
        self._builtins = builtins
        self._groups: dict[Path, _Group] = defaultdict(_Group)
        self._values: dict[Path, Run] = {}
        self._functions: dict[Path, tuple[Callable[..., Any], int]] = {}
        self._inputs: dict[Path, Run] = {}
        self.kept = 0  # places of `State.kept`
        packages: set[Path] = set()
        for ast in asts:
            module = Module(ast)
            packages.add(module.package)
            for rule in ast["ast"]["rules"]:
                self._sort_in(module, rule)
        self._above = {path[:end] for path in self._groups for end in range(len(path))}
        self._above |= {path[:end] for path in packages for end in range(len(path) + 1)}

    def _sort_in(self, module: Module, rule: Node) -> None:
        parts = (*module.package, *pattern(rule_head(rule)))
        known = parts[: parts.index(None)] if None in parts else parts
        group = self._groups[known]  # type: ignore[index]
        if "Default" in rule:
            group.default = (module, rule["Default"])
            return
        head = rule["Spec"]["head"]
        group.is_partial |= None in parts or "Set" in head
        if None in parts and (len(parts) != len(known) + 1 or "Compr" not in head):
            group.unfit = "a rule's head with several keys"
        group.rules.append((module, rule["Spec"]))

    def document(self, path: Path, parts: Sequence[Part]) -> tuple[Term, Sequence[Part]]:
        taken = 0
        while path not in self._groups:
            if taken == len(parts) or not isinstance(part := parts[taken], str):
                break
            path, taken = (*path, part), taken + 1
        if path in self._above:
            raise UnsupportedRuleError(f"data.{'.'.join(path)}, which has rules below it")
        if path in self._groups:
            return Term(self.value(path)), parts[taken:]
        found: Any = self._data
        for name in path:
            found = lookup(found, name)
        return constant(found), parts[taken:]

    def input(self, path: Path, *, kept: bool) -> Run:
        if path in self._inputs:
            return self._inputs[path]
        run = _at(self.state, path)
        if kept:
            run = self._inputs[path] = self._once(run)
        return run

    def builtin(self, name: str) -> tuple[Callable[..., Any] | None, bool]:
        return (self._builtins[name], True) if name in self._builtins else (function(name), False)

    def callee(self, path: Path) -> tuple[Callable[..., Any], int]:
        if path not in self._functions:
            group = self._groups.get(path)
            if group is None or not all("Func" in rule["head"] for _, rule in group.rules):
                raise UnsupportedRuleError(f"a call of data.{'.'.join(path)}")
            counts = {len(rule["head"]["Func"]["args"]) for _, rule in group.rules}
            if len(counts) != 1:
                raise UnsupportedRuleError("a function with several numbers of operands")
            self._functions[path] = self._function(group), counts.pop()
        return self._functions[path]

    def value(self, path: Path) -> Run:
        """A rule's value. Raises `UnsupportedRuleError`."""
        if path not in self._values:
            if path in self._above:
                raise UnsupportedRuleError(f"data.{'.'.join(path)}, which has rules below it")
            group = self._groups[path]
            if group.unfit or any("Func" in rule["head"] for _, rule in group.rules):
                raise UnsupportedRuleError(group.unfit or f"data.{'.'.join(path)} as a value")
            if group.is_partial:
                run = self._partial(group)
            else:
                alternatives = [self._alternative(module, rule) for module, rule in group.rules]
                decide = _decided(alternatives, self._default(group), "a complete rule with two values")
                run = lambda _: decide()  # noqa: E731 (a rule has no operands)
            self._values[path] = self._once(run)
        return self._values[path]

    def _once(self, run: Run) -> Run:
        """Evaluated once, then kept for the rest of the evaluation."""
        place, state = self.kept, self.state
        self.kept += 1

        def value(frame: Frame) -> Any:
            kept = state.kept[place]
            if kept is UNSET:
                kept = state.kept[place] = run(frame)
            return kept

        return value

    def _default(self, group: _Group) -> Any:
        if group.default is None:
            return UNDEFINED
        module, rule = group.default
        term = Query(self, module, Scope(Places()), Steps()).term(rule["value"])
        if not term.is_constant:
            raise _refused(module, rule, "a default that is no constant")
        return term.constant

    def _alternative(self, module: Module, rule: Node) -> "_Alternative":
        """One definition of a complete rule or of a function, with what comes after `else`."""
        head = next(iter(rule["head"].values()))
        places = Places()
        scope, steps = Scope(places), Steps()
        arguments = head.get("args", ())
        matching = Query(self, module, scope, steps)
        operands = [places.new() for _ in arguments]
        for place, argument in zip(operands, arguments, strict=True):
            if argument.get("Var", {}).get("value") != "_":
                matching.match(argument, local(place).run, declare=True)
        if steps.loops:
            raise _refused(module, head, "a loop among operands")
        bodies = rule["bodies"] or [{"query": {"stmts": []}, "assign": None}]
        runs, values = [], []
        for number, body in enumerate(bodies):
            if number and not body["is_else"]:
                raise _refused(module, head, "several bodies")
            assign = body["assign"] if number else head["assign"]
            run, value = self._body(module, scope.inner(), body["query"], assign)
            runs.append(run)
            values.append(value)
        return _Alternative(places, steps.then(_go_on) if arguments else None, tuple(runs), values)

    def _body(
        self, module: Module, scope: Scope, query: Node | None, assign: Node | None
    ) -> tuple[Check, Any]:
        """A body that puts its value into the frame's first place; and that value where it is constant."""
        steps = Steps()
        statements = Query(self, module, scope, steps)
        if query is not None:
            statements.statements(query)
        term = statements.term(assign["value"]) if assign else constant(True)
        return steps.then(_resulting(term)), term.constant

    def _function(self, group: _Group) -> Callable[..., Any]:
        alternatives = [self._alternative(module, rule) for module, rule in group.rules]
        return _decided(alternatives, self._default(group), "a function with two results")

    def _partial(self, group: _Group) -> Run:
        if group.default is not None:
            raise UnsupportedRuleError("a default of a partial rule")
        makers = [self._part(module, rule) for module, rule in group.rules]
        if len({kind for kind, _, _ in makers}) != 1:
            raise UnsupportedRuleError("a rule that makes a set and an object")

        def run(outer: Frame) -> Any:
            result: Any = Set() if makers[0][0] == "Set" else {}
            for _, places, fill in makers:
                frame: Frame = [UNDEFINED] * places.count
                frame[0] = result
                fill(frame)
            return result

        return run

    def _part(self, module: Module, rule: Node) -> tuple[str, Places, Check]:
        kind, head = next(iter(rule["head"].items()))
        if len(rule["bodies"]) > 1 or kind == "Func":
            raise _refused(module, head, "several bodies")
        places, steps = Places(), Steps()
        query = Query(self, module, Scope(places), steps)
        if rule["bodies"] and rule["bodies"][0]["query"] is not None:
            query.statements(rule["bodies"][0]["query"])
        if kind == "Set":
            return kind, places, steps.then(_taking(query.term(head["key"]), Set.add))
        if "RefBrack" not in head["refr"]:
            raise _refused(module, head, "a key within a rule's head")
        key = query.term(head["refr"]["RefBrack"]["index"])
        value = query.term(head["assign"]["value"]) if head["assign"] else constant(True)
        return kind, places, steps.then(_putting(key, value))

    def comprehension(self, module: Module, scope: Scope, kind: str, body: Node) -> Run:
        inner, steps, place = scope.inner(), Steps(), scope.places.new()
        query = Query(self, module, inner, steps)
        query.statements(body["query"])
        if kind == "ObjectCompr":
            fill = steps.then(_putting(query.term(body["key"]), query.term(body["value"]), place))
        elif kind == "SetCompr":
            fill = steps.then(_taking(query.term(body["term"]), Set.add, place))
        else:
            fill = steps.then(_taking(query.term(body["term"]), list.append, place))
        make: Callable[[], Any] = {"ObjectCompr": dict, "SetCompr": Set, "ArrayCompr": list}[kind]

        def run(frame: Frame) -> Any:
            frame[place] = result = make()
            fill(frame)
            return result

        return run


@dataclass(slots=True)
class _Alternative:
    """`matches`: holds the operands to the function's patterns; `values`: of the bodies, where constant."""

    places: Places
    matches: Check | None
    bodies: tuple[Check, ...]
    values: list[Any]

    def value(self, operands: Sequence[Any]) -> Any:
        frame = [UNDEFINED] * self.places.count
        if self.matches is not None:
            frame[1 : 1 + len(operands)] = operands
            if not self.matches(frame):
                return UNDEFINED
        for body in self.bodies:
            body(frame)
            if frame[0] is not UNDEFINED:
                return frame[0]
        return UNDEFINED


def _refused(module: Module, node: Node, what: str) -> UnsupportedRuleError:
    return UnsupportedRuleError(what, module.file, node["span"]["line"])


def _all_alike(alternatives: Sequence[_Alternative]) -> bool:
    """Whether whatever gives a value gives the same."""
    values = [value for alternative in alternatives for value in alternative.values]
    return all(constant(value).is_constant and same(value, values[0]) for value in values)


def _decided(alternatives: Sequence[_Alternative], default: Any, two: str) -> Callable[..., Any]:
    """The one value of what is defined several times; `two`: what it is called where it has two."""
    stop = _all_alike(alternatives)

    def decide(*operands: Any) -> Any:
        result = UNDEFINED
        for alternative in alternatives:
            value = alternative.value(operands)
            if value is UNDEFINED:
                continue
            if stop:
                return value
            if result is UNDEFINED:
                result = value
            elif not same(result, value):
                raise UnsureError(two)
        return default if result is UNDEFINED else result

    return decide


def _at(state: State, path: Path) -> Run:
    if not path:
        return lambda _: state.input
    *above, last = path

    def run(_: Frame) -> Any:
        value = state.input
        try:
            for name in above:
                value = value[name]
            return value.get(last, UNDEFINED)
        except (KeyError, TypeError, AttributeError):
            return UNDEFINED

    return run


def _go_on(frame: Frame) -> bool:
    return True


def _resulting(term: Term) -> Check:
    if term.is_constant:
        value = term.constant

        def put_constant(frame: Frame) -> bool:
            frame[0] = value
            return True

        return put_constant
    run = term.run

    def put_value(frame: Frame) -> bool:
        value = run(frame)
        if value is not UNDEFINED:
            if frame[0] is UNDEFINED:
                frame[0] = value
            elif not same(frame[0], value):
                raise UnsureError("a rule with two values")
        return False

    return put_value


def _taking(term: Term, take: Callable[[Any, Any], None], place: int = 0) -> Check:
    """Puts a term's value into the collection at a place, by `take`."""
    run = term.run

    def put_value(frame: Frame) -> bool:
        value = run(frame)
        if value is not UNDEFINED:
            take(frame[place], value)
        return False

    return put_value


def _putting(key: Term, value: Term, place: int = 0) -> Check:
    name, item = key.run, value.run

    def put_entry(frame: Frame) -> bool:
        found = name(frame)
        if found is not UNDEFINED and (given := item(frame)) is not UNDEFINED:
            put(frame[place], found, given)
        return False

    return put_entry
