"""Builtins of OPA that are written in Rego, over those of regorus and ours: no value has to cross to Python.

A module's call of one is put to the function here, `count(x)` to `data.mixer_lib.count_(x)`, unless what stands in
the call shows that regorus' own builtin is right.
"""

from collections.abc import Callable, Iterable, Iterator

from mixer.policy.sources import Module
from mixer.policy.syntax import STRINGS, Node

PACKAGE = "mixer_lib"
WHOLE_PACKAGE = "mixer_whole"  # whose calls of regorus' builtins need no guard

_FUNCTIONS = {
    # regorus has no such builtin.
    "array.flatten": """
array_flatten_(a) := [x | y := a[_]; x := array_items(y)[_]] if is_array(a)
else := array.reverse(a)
array_items(x) := x if is_array(x)
else := [x]
""",
    # OPA truncates, and takes one where there was a sign: 1 of -0.5, which has none then.
    "ceil": """
ceil_(x) := 1 if { x > -1; x < 0 }
else := ceil(x)
""",
    "floor": """
floor_(x) := 0 if { x > -1; x < 0 }
else := floor(x)
""",
    # regorus counts the halves of UTF-16.
    "count": """
count_(x) := count(split(x, "")) if is_string(x)
else := count(x)
""",
    # An empty string is nowhere in OPA.
    "indexof": """
indexof_(s, x) := indexof(s, x) if x != ""
else := mixer.fail("indexof")
""",
    "indexof_n": """
indexof_n_(s, x) := indexof_n(s, x) if x != ""
else := mixer.fail("indexof_n")
""",
    # In regorus a set has no keys; in OPA its elements are their own.
    "in": """
member_(k, v, c) := (k, v in c) if not is_set(c)
else := false if k != v
else := v in c
""",
    # See `policy.positions`.
    "[]": """
position(x) := to_number(x) if { is_string(x); regex.match(`^[+-]?[0-9]{1,19}(\\.0*)?$`, x) }
else := x
""",
    # See `policy.shapes`.
    "=": "",
    "some": """
exact_in(c, keys, values) := {k: v | some k, v in c; exact(k, keys); exact(v, values)}
""",
    # regorus compares what has not the same type, and fails for an empty array.
    "object.subset": """
object_subset_(a, b) := object.subset(a, b) if { is_object(a); is_object(b) }
else := object.subset(a, b) if { is_set(a); is_set(b) }
else := true if { is_array(a); b == [] }
else := object.subset(a, b) if { is_array(a); is_array(b) }
else := true if { is_array(a); is_set(b); every x in b { x in a } }
else := false if { is_array(a); is_set(b) }
else := mixer.fail("object.subset")
""",
    # What is no text is no error to OPA.
    "regex.is_valid": """
regex_is_valid_(p) := regex.is_valid(mixer.pattern(p)) if is_string(p)
else := false
""",
    # Where the pattern matches nothing at the beginning or at the end, Rust splits there too, and Go does not.
    "regex.split": """
regex_split_(p, s) := [] if { p == ""; s == "" }
else := [""] if s == ""
else := split_without_ends(p, s, regex.split(p, s))
split_without_ends(p, s, parts) := array.slice(parts, first, last) if {
    found := regex.find_n(p, s, -1)
    first := split_end(found, 0, parts[0])
    last := count(parts) - split_end(found, count(found) - 1, parts[count(parts) - 1])
}
split_end(found, at, part) := 1 if { found[at] == ""; part == "" }
else := 0
""",
    # What would take any time and memory in one call is not begun (`builtins.bounds`).
    "concat": """
concat_(d, x) := mixer.exceeded("concat") if sum([count(y) | some y in x]) + count(d) * count(x) > 67108864
else := concat(d, x)
""",
    "graph.reachable_paths": """
graph_reachable_paths_(g, i) := graph.reachable_paths(g, i) if {
    mixer.few_paths([[k, [w | w := v[_]]] | v := g[k]], [x | x := i[_]])
}
""",
    "json.patch": """
json_patch_(x, p) := mixer.exceeded("json.patch") if count([1 | p[_].op == "copy"]) > 16
else := json.patch(x, p)
""",
    "net.cidr_expand": """
net_cidr_expand_(c) := net.cidr_expand(c) if mixer.few_addresses(c)
""",
    "numbers.range": """
numbers_range_(a, b) := mixer.exceeded("numbers.range") if abs(b - a) > 1000000
else := numbers.range(a, b)
""",
    "numbers.range_step": """
numbers_range_step_(a, b, s) := mixer.exceeded("numbers.range_step") if { s > 0; abs(b - a) > 1000000 * s }
else := numbers.range_step(a, b, s)
""",
    "replace": """
replace_(s, a, b) := mixer.exceeded("replace") if {
    count(s) * count(b) > 67108864
    count(split(s, a)) * count(b) > 67108864
}
else := replace(s, a, b)
""",
    # A fraction is no position.
    "substring": """
substring_(s, a, n) := substring(s, a, n) if { floor(a) == a; floor(n) == n }
""",
    # regorus puts sets before objects. What is no collection has no order, and comes before all that is one.
    "sort": """
sort_(x) := y if { y := sort(x); is_simple(y[count(y) - 1]) }
else := sort(x) if ordered([y | y := x[_]])
else := mixer.unordered("sort")
""",
    "max": """
max_(x) := y if { y := max(x); is_simple(y) }
else := max(x) if ordered([y | y := x[_]])
else := mixer.unordered("max")
""",
    "min": """
min_(x) := y if { y := min(x); is_simple(y) }
else := min(x) if ordered([y | y := x[_]])
else := mixer.unordered("min")
""",
    "<": """
less(a, b) := a < b if is_simple(a)
else := a < b if is_simple(b)
else := a < b if ordered([a, b])
else := mixer.unordered("<")
""",
    "<=": """
at_most(a, b) := a <= b if is_simple(a)
else := a <= b if is_simple(b)
else := a <= b if ordered([a, b])
else := mixer.unordered("<=")
""",
    # Sets do not cross to Python whole.
    "-": """
minus(a, b) := a - b if is_set(a)
else := mixer.minus(a, b)
""",
}
# What the builtins of ours give in a form that crosses from Python, as OPA's values: integers beyond 64 bits come as
# limbs of 62 bits, and where they belong. No call in here fails but for those of ours.
_WHOLE_VALUES = {
    "crypto.parse_private_keys": ("x", "whole(mixer.private_keys(x))"),
    "crypto.x509.parse_and_verify_certificates": ("x", "whole(mixer.x509_verified(x))"),
    "crypto.x509.parse_and_verify_certificates_with_options": (
        "x, y",
        "whole(mixer.x509_verified_with(x, y))",
    ),
    "crypto.x509.parse_certificate_request": ("x", "whole(mixer.x509_request(x))"),
    "crypto.x509.parse_certificates": ("x", "whole(mixer.x509_certificates(x))"),
    "crypto.x509.parse_keypair": ("x, y", "whole(mixer.x509_keypair(x, y))"),
    "http.send": ("x", "json.unmarshal(mixer.http_send(x))"),
}
_WHOLE = """
whole(r) := r[0] if count(r[1]) == 0
else := json.patch(r[0], [{"op": "replace", "path": p[0], "value": large(p[1])} | some p in r[1]])
large(limbs) := sum([bits.lsh(limb, 62 * at) | some at, limb in limbs])
"""
_EXACT = """
exact(x, shapes) := x if {
    every shape in shapes {
        part := object.get({"": x}, array.concat([""], shape[0]), null)
        is_object(part)
        object.keys(part) == shape[1]
    }
}
"""
# Builtins and operators that are put to one of ours: between decimals OPA computes with 64 bits, and 0.1 + 0.2 is 0.3.
DIRECT = {
    "+": "mixer.plus",
    "*": "mixer.times",
    "/": "mixer.divided",
    "json.unmarshal": "mixer.json_unmarshal",
    "product": "mixer.product",
    "sum": "mixer.sum",
}
# What seldom fails is evaluated without a guard first, as regorus' own builtins are.
SOUND = frozenset(
    """
    mixer.divided mixer.exceeded mixer.few_paths mixer.marshalled mixer.minus mixer.plus mixer.times
    mixer.unordered
    """.split()  # noqa: SIM905
)
# regorus' own, whose value goes through one of ours: Go escapes what HTML has a meaning for.
WRAPPED = {"json.marshal": "mixer.marshalled"}
# Those that are `regex.match` with a pattern that a builtin of ours makes, of these operands; and what it matches with.
AS_PATTERN = {
    "glob.match": ("mixer.glob", (0, 1), 2),
    "regex.template_match": ("mixer.template_pattern", (0, 2, 3), 1),
}
FUNCTIONS = frozenset(_FUNCTIONS) | _WHOLE_VALUES.keys() | DIRECT.keys() | AS_PATTERN.keys() | WRAPPED.keys()
# Whether nothing in a value is a set beside an object.
_ORDER = """
ordered(x) if {
    kinds := {type_name(v) | walk(x, [_, v])}
    count(kinds & {"object", "set"}) < 2
}
is_simple(x) if { not is_array(x); not is_object(x); not is_set(x) }
"""
_OPERATORS = {
    "-": "minus",
    "<": "less",
    "<=": "at_most",
    "in": "member_",
    "=": "exact",
    "some": "exact_in",
    "[]": "position",
}


def function(name: str) -> str:
    """What a call of the builtin, or an operator, is put to."""
    if name in DIRECT:
        return DIRECT[name]
    package = WHOLE_PACKAGE if name in _WHOLE_VALUES else PACKAGE
    return f"data.{package}.{_OPERATORS.get(name) or name.replace('.', '_') + '_'}"


def stands_by_itself(
    name: str,
    operands: list[Node],
    is_collection: Callable[[Node], bool],
    is_whole: Callable[[Node], bool],
) -> bool:
    """Whether regorus' own builtin is right for operands that look so; `is_whole`: can only be an integer."""
    if name == "count":
        return is_collection(operands[0])
    if name in ("indexof", "indexof_n"):
        text = operands[1].get("String") or operands[1].get("RawString")
        return text is not None and text["value"] != ""
    if name == "replace":
        return not STRINGS.isdisjoint(operands[2])
    if name == "concat":
        return "Array" in operands[1]
    if name == "substring":
        return is_whole(operands[1]) and is_whole(operands[2])
    return False


def library(names: Iterable[str]) -> Iterator[Module]:
    """The modules with the functions of these builtins."""
    names = {*names}
    if needed := sorted(_FUNCTIONS.keys() & names):
        text = "".join(_FUNCTIONS[name] for name in needed)
        if {"=", "some"} & {*needed}:
            text += _EXACT
        if {"<", "<=", "max", "min", "sort"} & {*needed}:
            text += _ORDER
        yield _module(PACKAGE, text)
    if needed := sorted(_WHOLE_VALUES.keys() & names):
        rules = [(function(name).rpartition(".")[2], *_WHOLE_VALUES[name]) for name in needed]
        text = "".join(f"{rule}({operands}) := {value}\n" for rule, operands, value in rules)
        yield _module(WHOLE_PACKAGE, text + (_WHOLE if "whole(" in text else ""))


def _module(package: str, text: str) -> Module:
    return Module(f"<{package}>", f"package {package}\nimport rego.v1\n{text}")
