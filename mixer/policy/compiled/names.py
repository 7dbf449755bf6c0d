"""Names of a rule: its locals and their places, and what the others stand for."""

from dataclasses import dataclass, field

from mixer.policy.engine import Path
from mixer.policy.syntax import Node, imports, own_names, package


class UnsupportedRuleError(Exception):
    """A construct that is not compiled; the interpreter runs what uses it."""

    def __init__(self, what: str, file: str = "", line: int = 0) -> None:
        super().__init__(f"{file}:{line}: {what}" if file else what)


class Module:
    """What a module's names stand for."""

    def __init__(self, ast: Node) -> None:
        self.file: str = ast["source"]["file"]
        self.source: bytes = ast["source"]["contents"].encode()
        self.package: Path = package(ast)
        self.own = own_names(ast)
        self.imports = imports(ast)

    def known(self, name: str) -> bool:
        return name in self.own or name in self.imports or name in ("input", "data")


@dataclass(slots=True)
class Places:
    """The places of one rule's frame; the first holds its result."""

    count: int = 1
    bound: set[int] = field(default_factory=set)
    implicit: set[str] = field(default_factory=set)  # names that were never declared

    def new(self) -> int:
        self.count += 1
        return self.count - 1


class Scope:
    """The locals of a query, over those of the queries around it."""

    def __init__(self, places: Places, outer: "Scope | None" = None) -> None:
        self.places = places
        self._outer = outer
        self._names: dict[str, int] = {}

    def inner(self) -> "Scope":
        return Scope(self.places, self)

    def find(self, name: str) -> int | None:
        """The place of a local, declared here or around."""
        scope: Scope | None = self
        while scope is not None:
            if (place := scope._names.get(name)) is not None:
                return place
            scope = scope._outer
        return None

    def is_bound(self, place: int) -> bool:
        return place in self.places.bound

    def bind(self, place: int) -> None:
        self.places.bound.add(place)

    def declare(self, name: str) -> int:
        """A place for a new local, without a value yet."""
        if name == "_":
            return self.places.new()
        if name in self._names:
            raise UnsupportedRuleError(f"a second declaration of {name}")
        self._names[name] = place = self.places.new()
        return place

    def imply(self, name: str) -> int:
        """A place for a name that is declared nowhere. It is one local wherever it stands in the rule."""
        if name != "_":
            if name in self.places.implicit:
                raise UnsupportedRuleError(f"{name} in two queries without `some`")
            self.places.implicit.add(name)
        return self.declare(name)
