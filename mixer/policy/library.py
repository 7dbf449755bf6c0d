"""Builtins of OPA that are written in Rego, over those of regorus and ours: no value has to cross to Python.

A module's call of one is put to the function here, `count(x)` to `data.mixer_lib.count_(x)`, unless what stands in
the call shows that regorus' own builtin is right.
"""

from collections.abc import Iterable

from mixer.policy.sources import Module
from mixer.policy.syntax import COLLECTIONS, COMPREHENSIONS, Node, kind_of

PACKAGE = "mixer_lib"

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
    # See `policy.shapes`.
    "=": "",
    "some": """
exact_in(c, keys, values) := {k: v | some k, v in c; exact(k, keys); exact(v, values)}
""",
    # As text, since numbers beyond 64 bits do not cross from Python.
    "http.send": """
http_send_(x) := json.unmarshal(mixer.http_send(x))
""",
    # Where regorus cannot read what OPA can, that is told.
    "json.unmarshal": """
json_unmarshal_(x) := y if { y := json.unmarshal(x) }
else := mixer.unread(x)
""",
    # Go escapes what HTML has a meaning for.
    "json.marshal": r"""
json_marshal_(x) := json_in_html(json.marshal(x))
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
    "glob.match": """
glob_match_(p, d, s) := regex.match(mixer.glob(p, d), s)
""",
    "regex.template_match": """
regex_template_match_(t, s, a, b) := regex.match(mixer.template_pattern(t, a, b), s)
""",
    # Between decimals OPA computes with 64 bits, and 0.1 + 0.2 is 0.3.
    "sum": """
sum_(x) := y if { y := sum(x); whole(y) }
else := mixer.sum(x)
""",
    "product": """
product_(x) := y if { y := product(x); whole(y) }
else := mixer.product(x)
""",
    "+": """
plus(a, b) := c if { c := a + b; whole(c) }
else := mixer.plus(a, b)
""",
    "-": """
minus(a, b) := a - b if is_set(a)
else := c if { c := a - b; whole(c) }
else := mixer.minus(a, b)
""",
    "/": """
divided(a, b) := c if { c := a / b; whole(c) }
else := mixer.divided(a, b)
""",
    "*": """
times(a, b) := c if { c := a * b; whole(c) }
else := mixer.times(a, b)
""",
}
_WHOLE = """
whole(x) if x == floor(x)
whole(x) if abs(x) >= 9007199254740992
"""  # numbers of 53 bits have no fraction from there on
_IN_HTML = r"""
json_in_html(text) := replace(replace(without_angles(text), "\u2028", `\u2028`), "\u2029", `\u2029`)
without_angles(text) := replace(replace(replace(text, "&", `\u0026`), "<", `\u003c`), ">", `\u003e`)
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
FUNCTIONS = frozenset(_FUNCTIONS)
_OPERATORS = {
    "+": "plus",
    "-": "minus",
    "*": "times",
    "/": "divided",
    "in": "member_",
    "=": "exact",
    "some": "exact_in",
}
# Builtins whose value is an integer, where it has one.
_INTEGERS = frozenset(
    """
    bits.and bits.lsh bits.negate bits.or bits.rsh bits.xor ceil count floor indexof round strings.count
    time.add_date time.now_ns time.parse_duration_ns time.parse_ns time.parse_rfc3339_ns units.parse_bytes
    """.split()  # noqa: SIM905
)


def function(name: str) -> str:
    """What a call of the builtin, or an operator, is put to."""
    return f"data.{PACKAGE}.{_OPERATORS.get(name) or name.replace('.', '_') + '_'}"


def stands_by_itself(name: str, operands: list[Node]) -> bool:
    """Whether regorus' own builtin is right for operands that look so."""
    if name == "count":
        return kind_of(operands[0]) in COLLECTIONS | COMPREHENSIONS
    if name in ("indexof", "indexof_n"):
        text = operands[1].get("String") or operands[1].get("RawString")
        return text is not None and text["value"] != ""
    return False


def integer(node: Node, called: str) -> bool:
    """Whether an expression's value can only be an integer; `called` is the builtin that it calls, or ""."""
    if "Number" in node:
        return isinstance(node["Number"]["value"], int)
    return called in _INTEGERS


def library(names: Iterable[str]) -> Module | None:
    """The module with the functions of these builtins; None where there are none."""
    needed = sorted(FUNCTIONS.intersection(names))
    if not needed:
        return None
    text = "".join(_FUNCTIONS[name] for name in needed)
    for called, shared in (("json_in_html(", _IN_HTML), ("whole(", _WHOLE)):
        if called in text:
            text += shared
    if {"=", "some"} & {*needed}:
        text += _EXACT
    return Module(f"<{PACKAGE}>", f"package {PACKAGE}\nimport rego.v1\n{text}")
