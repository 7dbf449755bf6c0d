"""Numbers of policies and data that are written in an unusual way, where that would be seen: refused at load.

See `policy.written`. What is computed with a number, or compared with it, is the same however it is written.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from decimal import Decimal
from functools import partial
from typing import Any

from mixer.errors import Problem
from mixer.policy.positions import names_of_numbers
from mixer.policy.references import Uses
from mixer.policy.syntax import STRINGS, Node, extent, flatten, pattern
from mixer.policy.written import Number, is_usual, read

# Builtins that give text, or a hash or a request, of numbers that they are given.
_SHOWING = frozenset(
    """
    http.send io.jwt.encode_sign json.marshal json.marshal_with_options mixer.template providers.aws.sign_req sprintf
    strings.render_template
    """.split()  # noqa: SIM905
)
# Those that want an integer, which to OPA is none where it has an exponent.
_INTEGERS = frozenset(
    """
    array.slice format_int json.patch rand.intn regex.find_all_string_submatch_n regex.find_n strings.split_n substring
    time.add_date
    """.split()  # noqa: SIM905
)
_INDEX_MOST = 1000  # a larger number is a position of hardly anything
_COMPUTED = frozenset(["ArithExpr", "BoolExpr"])


@dataclass(frozen=True, slots=True)
class Exposure:
    """Whether it matters how numbers are written that the modules read: `shown` as text, as `positions` in arrays (with
    an exponent they are none to OPA), as `names` in data that has names which are numbers, as `keys` of objects.
    `kept`: those of the modules and data themselves, which such a key might be."""

    shown: bool = False
    positions: bool = False
    names: bool = False
    keys: bool = False
    kept: frozenset[float] = frozenset()

    @property
    def any(self) -> bool:
        return self.shown or self.positions or self.names or self.keys


def exposure(
    modules: Sequence[Node], uses: Uses, data: dict[str, Any], unusual: Iterable[tuple[str, float, bool]]
) -> tuple[Exposure, list[Problem]]:
    """`unusual`: those of data, as `Sources` has them."""
    calls = {call.name for call in uses.calls}
    shown = not _SHOWING.isdisjoint(calls)
    rules = [module["ast"]["rules"] for module in modules]
    integers = not _INTEGERS.isdisjoint(calls)
    positions = integers or any(map(_varies, rules))
    own_positions = integers or any(
        map(_varies_by_own, rules)
    )  # where what the policy or its data say may be
    problems: list[Problem] = []
    kept: set[float] = set()
    for module in modules:
        source = module["source"]["contents"].encode()
        for node, text in _literals(module["ast"]["rules"], source):
            number = read(text)
            if number is None:
                continue
            kept.add(number.value)
            if shown or (own_positions and _is_position(number)):
                line = node["Number"]["span"]["line"]
                what = (
                    f"the embedded engine does not keep that a number is written {text}; {_instead(number)}"
                )
                problems.append(Problem(module["source"]["file"], f"line {line}", what))
    for file, value, exponent in unusual:
        number = Number(value, exponent)
        kept.add(value)
        if shown or (own_positions and _is_position(number)):
            what = f"the embedded engine does not keep how the number {value} is written; {_instead(number)}"
            problems.append(Problem(file, "", what))
    names = names_of_numbers(modules, data) or any(map(_has_varying_base, rules))
    has_keys = any(map(_has_keys, rules))
    return Exposure(shown, positions, names, has_keys, frozenset(kept) if has_keys else frozenset()), problems


def _is_position(number: Number) -> bool:
    return number.exponent and number.is_whole and 0 <= number.value < _INDEX_MOST


def _instead(number: Number) -> str:
    usual = str(int(number.value)) if number.is_whole else format(Decimal(repr(number.value)), "f")
    return f"write {usual}, or engine: opa runs it" if is_usual(usual) else "engine: opa runs it"


def _some(judge: Callable[[Node], bool], node: Any) -> bool:
    """Whether there is a node in a tree of which that is so."""
    if isinstance(node, list):
        return any(_some(judge, item) for item in node)
    if not isinstance(node, dict):
        return False
    return judge(node) or any(_some(judge, item) for name, item in node.items() if name != "span")


def _is_varying_reference(node: Node) -> bool:
    if "RefBrack" not in node:
        return False
    index = node["RefBrack"]["index"]
    return STRINGS.isdisjoint(index) and "Number" not in index and index.get("Var", {}).get("value") != "_"


def _is_varying_by_own(node: Node) -> bool:
    return _is_varying_reference(node) and pattern(node["RefBrack"]["index"])[0] != "input"


def _is_with_keys(node: Node) -> bool:
    if "Object" in node and "fields" in node["Object"]:
        return any(STRINGS.isdisjoint(key) for _, key, _ in node["Object"]["fields"])
    return "ObjectCompr" in node or (
        "head" in node and _varies(next(iter(node["head"].values())).get("refr"))
    )


def _is_varying_base(node: Node) -> bool:
    """Of `format_int`, to which 2.0 is none."""
    call = node.get("Call")
    return call is not None and flatten(call["fcn"])[0] == "format_int" and "Number" not in call["params"][-1]


_varies_by_own = partial(_some, _is_varying_by_own)
_varies = partial(_some, _is_varying_reference)
_has_keys = partial(_some, _is_with_keys)
_has_varying_base = partial(_some, _is_varying_base)


def _literals(node: Any, source: bytes, computed: bool = False) -> Iterator[tuple[Node, str]]:
    """The numbers in a tree that are written in an unusual way, but for those that are computed with or compared."""
    if isinstance(node, list):
        for item in node:
            yield from _literals(item, source)
        return
    if not isinstance(node, dict):
        return
    if "Number" in node:
        start, end = extent(node, source)
        text = source[start:end].decode().replace(" ", "")
        if not computed and not is_usual(text):
            yield node, text
        return
    if "Call" in node and flatten(node["Call"]["fcn"]) == ("sprintf", [], True):
        yield from _of_sprintf(node["Call"]["params"], source)
        return
    for name, item in node.items():
        if name in _COMPUTED:
            for side in (item["lhs"], item["rhs"]):
                yield from _literals(side, source, computed=True)
        elif name != "span":
            yield from _literals(item, source)


def _of_sprintf(operands: list[Node], source: bytes) -> Iterator[tuple[Node, str]]:
    """Fractions right among its operands are doubles to it."""
    for operand in operands:
        for item in operand["Array"]["items"] if "Array" in operand else [operand]:
            if "Number" not in item or isinstance(item["Number"]["value"], int):
                yield from _literals(item, source)
