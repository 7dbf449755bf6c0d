"""The statements of a query as steps.

A negated call, comparison or membership has its operands evaluated before it, as OPA's compiler has it: where one
is undefined, so is the statement. Those of `==` and what a reference goes through stay within the negation.
"""

from collections.abc import Callable, Sequence
from typing import Any

from mixer.policy.compiled.names import UnsupportedRuleError
from mixer.policy.compiled.steps import Check, Frame, Run, Steps, bind, each, equal, holds, is_collection
from mixer.policy.compiled.terms import Term, Terms, local
from mixer.policy.compiled.values import UNDEFINED, UnsureError, entries
from mixer.policy.syntax import COMPREHENSIONS, INFIX, REFERENCES, Node, kind_of


class Query(Terms):
    """Statements, one by one, into `steps`."""

    def statements(self, query: Node) -> None:
        for statement in query["stmts"]:
            if statement.get("with_mods"):
                raise UnsupportedRuleError("with", self.module.file, statement["span"]["line"])
            kind, body = next(iter(statement["literal"].items()))
            _STATEMENTS[kind](self, body)

    def _expression(self, body: Node) -> None:
        expression = body["expr"]
        if assign := expression.get("AssignExpr"):
            self._assign(assign, expression)
        elif (call := expression.get("Call")) and self.has_output(call):
            *operands, output = call["params"]
            self.match(output, self.call({"Call": {**call, "params": operands}}).run)
        else:
            self.steps.check(holds(self.term(expression).run))

    def _assign(self, body: Node, node: Node) -> None:
        one, other = body["lhs"], body["rhs"]
        if body["op"] == "ColEq":
            self.match(one, self.term(other).run, declare=True)
        elif not self._has_unbound(other):
            self.match(one, self.term(other).run)
        elif not self._has_unbound(one):
            self.match(other, self.term(one).run)
        else:
            raise self.unsupported(node, "a unification of two sides without values")

    def _has_unbound(self, node: Node) -> bool:
        if "Array" in node:
            return any(map(self._has_unbound, node["Array"]["items"]))
        if "Object" in node:
            return any(self._has_unbound(value) for _, _, value in node["Object"]["fields"])
        return self.is_unbound(node)

    def match(self, pattern: Node, value: Run, *, declare: bool = False) -> None:
        """Steps that hold a value to a pattern; names in it get theirs, new ones where they are declared."""
        if "Var" in pattern and (declare or self.is_unbound(pattern)):
            name = pattern["Var"]["value"]
            place = self.scope.declare(name) if declare else self.place_of(name)
            self.scope.bind(place)
            self.steps.check(bind(place, value))
        elif "Array" in pattern:
            items = pattern["Array"]["items"]
            place = self.scope.places.new()
            self.steps.check(_list_of(place, value, len(items)))
            for index, item in enumerate(items):
                if item.get("Var", {}).get("value") != "_":
                    self.match(item, _element(place, index), declare=declare)
        elif "Object" in pattern and (declare or self._has_unbound(pattern)):
            raise self.unsupported(pattern, "an object as a pattern")
        else:
            self.steps.check(equal(self.term(pattern).run, value))

    def _some_variables(self, body: Node) -> None:
        for span in body["vars"]:
            self.scope.declare(self._name(span))

    def _name(self, span: Node) -> str:
        return self.module.source[span["start"] : span["end"]].decode()

    def _some_in(self, body: Node) -> None:
        collection = self.term(body["collection"]).run
        key_at, key = self._side(body["key"])
        value_at, value = self._side(body["value"])
        self.steps.loop(each(collection, key, value, (key_at, value_at)))

    def _side(self, pattern: Node | None) -> tuple[int, Check | None]:
        """Where a loop puts its keys or its values, and what they are held to."""
        if pattern is None:
            return -1, None
        if "Var" in pattern:
            name = pattern["Var"]["value"]
            place = self.scope.declare(name)
            self.scope.bind(place)
            return place, None
        place, steps, outer = self.scope.places.new(), Steps(), self.steps
        self.steps = steps
        try:
            self.match(pattern, local(place).run, declare=True)
        finally:
            self.steps = outer
        if steps.loops:
            raise self.unsupported(pattern, "a loop within a pattern")
        return place, steps.then(_found)

    def _every(self, body: Node) -> None:
        domain = self.before(body["domain"])
        scope, steps = self.scope.inner(), Steps()
        key, value = (
            scope.declare(self._name(span)) if span else -1 for span in (body["key"], body["value"])
        )
        scope.bind(key)
        scope.bind(value)
        Query(self.rules, self.module, scope, steps).statements(body["query"])
        self.steps.check(_all(domain.run, key, value, steps.then(_found)))

    def _negation(self, body: Node) -> None:
        run = self._negated(body["expr"]).run

        def check(frame: Frame) -> bool:
            value = run(frame)
            return value is UNDEFINED or value is False

        self.steps.check(check)

    def _negated(self, node: Node) -> Term:
        kind, body = next(iter(node.items()))
        if kind == "Call":
            return self.call(node, self.before)
        if kind in ("BoolExpr", "AssignExpr"):
            equals = kind == "AssignExpr" or body["op"] == "Eq"
            if kind == "AssignExpr" and (body["op"] == "ColEq" or self._has_unbound(body["lhs"])):
                raise self.unsupported(node, "an assignment within `not`")
            sides: Sequence[Term] = [
                self._within(side) if equals else self.before(side) for side in (body["lhs"], body["rhs"])
            ]
            return self.comparison("Eq" if equals else body["op"], *sides)
        if kind in INFIX:
            return self.arithmetic(node, self.before)
        if kind == "Membership":
            return self.membership([self.before(member) for member in self.members(node)])
        return self._within(node)

    def _within(self, node: Node) -> Term:
        """What stays within a negation, but for what is in its brackets."""
        if kind_of(node) in REFERENCES:
            return self.reference(node, self.before, loops=False)
        return self.term(node) if kind_of(node) in COMPREHENSIONS else self.before(node)


_STATEMENTS: dict[str, Callable[[Query, Node], None]] = {
    "Expr": Query._expression,
    "NotExpr": Query._negation,
    "SomeVars": Query._some_variables,
    "SomeIn": Query._some_in,
    "Every": Query._every,
}


def _found(frame: Frame) -> bool:
    return True


def _list_of(place: int, value: Run, length: int) -> Check:
    def check(frame: Frame) -> bool:
        frame[place] = items = value(frame)
        return type(items) is list and len(items) == length

    return check


def _element(place: int, index: int) -> Run:
    def run(frame: Frame) -> Any:
        return frame[place][index]

    return run


def _all(domain: Run, key: int, value: int, body: Check) -> Check:
    def check(frame: Frame) -> bool:
        items = domain(frame)
        if not is_collection(items):
            raise UnsureError("every over what is no collection")
        for name, item in entries(items):
            if key >= 0:
                frame[key] = name
            if value >= 0:
                frame[value] = item
            if not body(frame):
                return False
        return True

    return check
