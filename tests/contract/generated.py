"""Modules of Rego as hypothesis strategies: rules, functions, else chains, partial rules, comprehensions, `every`,
`with`, defaults, patterns, and calls of builtins with whatever operands.

What a name stands for is kept track of (`Scope`), so that most modules compile.
"""

# ruff: noqa: E501, RUF001 (lists; letters of many alphabets)

from dataclasses import dataclass, field
from typing import Any

from hypothesis import strategies as st

# What stands in the input and in data: OPA's compiler knows no types of it, so every operand is worth a try.
TEXTS = [
    "", "a", "ab", "a.b", "A/b", "10.0.0.1", "10.0.0.0/8", "1.2.3", "YQ==", "héß", "1K", "5", "{}", "b*", "𝒳",
    '{"a": [1, 2.5]}', "a b", "0.1", "2024-01-02T03:04:05Z", "1h", "%v", "é\u0301", "\u2028<",
]  # fmt: skip
NUMBERS = [0, 1, -1, 2, 3, 7, 10, 100, 0.5, 1.5, -0.5, 0.1, 0.2, 0.3, 2.5, 1e3, 9007199254740993, 1e-7, 33.3]
SCALARS = st.one_of(st.none(), st.booleans(), st.sampled_from(NUMBERS), st.sampled_from(TEXTS))
VALUES = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["a", "b", "k"]), inner, max_size=3)
    ),
    max_leaves=5,
)
KEYS = ["a", "b", "s", "n", "l", "o"]
INPUTS = st.dictionaries(st.sampled_from(KEYS), VALUES, max_size=6)
DATA: dict[str, Any] = {
    "d": {
        "s": "a",
        "n": 3,
        "l": [1, "a", 2.5],
        "o": {"a": {"b": 1}},
        "users": {"a": {"roles": ["x", "y"], "n": 0.1}, "b": {"roles": [], "n": 0.2}},
    }
}
LIBRARY = """package e

set := {1, "a", 2.5}
id(x) := x
double(x) := x + x
pick(x, "a") := x
pick(_, "b") := "b"
"""

ONE = "abs ceil floor round count lower upper trim_space type_name is_string is_number is_array is_object is_set is_boolean is_null sum product max min sort array.reverse array.flatten strings.reverse to_number json.marshal json.unmarshal json.is_valid base64.encode base64.decode base64url.decode base64url.encode base64.is_valid hex.encode hex.decode urlquery.encode urlquery.decode urlquery.encode_object object.keys semver.is_valid units.parse units.parse_bytes regex.is_valid crypto.sha256 crypto.md5 glob.quote_meta net.cidr_is_valid net.cidr_expand net.cidr_merge time.parse_rfc3339_ns time.parse_duration_ns time.clock time.date time.weekday time.format uuid.parse base64url.encode_no_pad union intersection object.union_n bits.negate uri.is_valid yaml.unmarshal".split()  # noqa: SIM905
TWO = "startswith endswith contains trim trim_left trim_right trim_prefix trim_suffix split concat indexof indexof_n array.concat object.remove object.filter object.union object.subset json.filter json.remove json.patch regex.match regex.split regex.globs_match semver.compare net.cidr_contains net.cidr_intersects strings.any_prefix_match strings.any_suffix_match bits.and bits.or bits.xor bits.lsh bits.rsh format_int strings.count numbers.range sprintf graph.reachable crypto.hmac.sha256 crypto.hmac.equal time.parse_ns time.diff json.marshal_with_options strings.replace_n strings.render_template graph.reachable_paths json.match_schema".split()  # noqa: SIM905
THREE = "replace substring object.get array.slice glob.match regex.replace numbers.range_step regex.find_n regex.find_all_string_submatch_n strings.split_n".split()  # noqa: SIM905
CONSTANTS = ['"a"', '"b"', '""', "1", "0", "2.5", "0.1", "true", "false", "null", '"a.b"', '"/"', '"[a-z]+"', '"*"', '["."]', "[]", "{}", "set()", '{"a"}', '"%v-%d"', "-1", '{"a": 1}', '[1, "a"]', "3"]  # fmt: skip
INPUT_REFS = [f"input.{key}" for key in KEYS] + [
    "input.o.a",
    "input.l[0]",
    "input.o.a.b",
    'input["s"]',
    "input",
]
DATA_REFS = [
    "data.d.s",
    "data.d.n",
    "data.d.l",
    "data.d.o",
    "data.e.set",
    "data.d.none",
    "data.d.users.a.n",
    "data.d",
]


@dataclass
class Scope:
    """Names that can be used. `fresh` gives names that are not yet."""

    names: tuple[str, ...] = ()
    rules: tuple[str, ...] = ()
    functions: tuple[str, ...] = ()
    depth: int = 0
    counter: list[int] = field(default_factory=lambda: [0])

    def fresh(self) -> str:
        self.counter[0] += 1
        return f"v{self.counter[0]}"

    def knowing(self, *names: str) -> "Scope":
        return Scope((*self.names, *names), self.rules, self.functions, self.depth + 1, self.counter)


@st.composite
def operands(draw: st.DrawFn, scope: Scope) -> str:
    """An expression of which OPA's compiler knows no type, so that it goes with any builtin."""
    text = draw(expressions(scope))
    if text.startswith(("input", "data.d", "data.e.id")) and " " not in text:
        return text
    return draw(st.sampled_from([f"data.e.id({text})"] * 9 + [text]))


@st.composite
def expressions(draw: st.DrawFn, scope: Scope) -> str:
    """An expression; not too deep."""
    if scope.depth > 3 or draw(st.integers(0, 9)) < (0, 3, 6, 8, 9)[scope.depth]:
        known = [*scope.names, *scope.names, *scope.rules] or INPUT_REFS
        kind = draw(st.integers(0, 9))
        return draw(
            st.sampled_from(
                known if kind < 3 else INPUT_REFS if kind < 7 else DATA_REFS if kind < 9 else CONSTANTS
            )
        )
    inner = scope.knowing()
    kind = draw(st.integers(0, 24))
    one = draw(operands(inner))
    match kind:
        case 0 | 1 | 2:
            return f"{draw(st.sampled_from(ONE))}({one})"
        case 3 | 4 | 5:
            return f"{draw(st.sampled_from(TWO))}({one}, {draw(operands(inner))})"
        case 6:
            others = f"{draw(operands(inner))}, {draw(operands(inner))}"
            return f"{draw(st.sampled_from(THREE))}({one}, {others})"
        case 7 | 8:
            return f"({one} {draw(st.sampled_from('+-*/%'))} {draw(operands(inner))})"
        case 9 | 10:
            operator = draw(st.sampled_from(["==", "!=", "<", "<=", ">", ">="]))
            return f"({one} {operator} {draw(operands(inner))})"
        case 11:
            return f"({one} in {draw(expressions(inner))})"
        case 12:
            return f"({one}, {draw(expressions(inner))} in {draw(expressions(inner))})"
        case 13:
            return f"[{one}, {draw(expressions(inner))}]"
        case 14:
            return f'{{"a": {one}, "b": {draw(expressions(inner))}}}'
        case 15:
            return f"{{{one}, {draw(expressions(inner))}}}"
        case 16:
            return f"({one} {draw(st.sampled_from('|&-'))} {draw(operands(inner))})"
        case 17 if scope.functions:
            return f"{draw(st.sampled_from(scope.functions))}({one})"
        case 18:
            return f"data.d.users[{one}].{draw(st.sampled_from(['n', 'roles', 'none']))}"
        case 22:
            return f'$"a {{{one}}} b"'
        case 23:
            return f"data.d.l[{one}]"
        case 24:
            return f"{{{one}: {draw(expressions(inner))}}}"
        case 19:
            return draw(
                st.sampled_from(
                    [f"data.e.double({one})", f'data.e.pick({one}, "b")', f'{{"k": 1, "a": 2}}[{one}]']
                )
            )
        case _:
            return draw(comprehensions(inner))


@st.composite
def comprehensions(draw: st.DrawFn, scope: Scope) -> str:
    body, known = draw(bodies(scope, most=2))
    head = draw(expressions(known))
    match draw(st.integers(0, 2)):
        case 0:
            return f"[{head} | {body}]"
        case 1:
            return f"{{{head} | {body}}}"
        case _:
            return f"{{{draw(st.sampled_from(known.names or ('input.s',)))}: {head} | {body}}}"


@st.composite
def statements(draw: st.DrawFn, scope: Scope) -> tuple[str, Scope]:
    """A statement, and what is known after it."""
    one = draw(operands(scope.knowing()))
    match draw(st.integers(0, 17)):
        case 15:
            way, name = scope.fresh(), scope.fresh()
            return f"[{way}, {name}] := walk({one})", scope.knowing(way, name)
        case 16:
            name = scope.fresh()
            return f"{name} := {one} with data.e.id as data.e.double", scope.knowing(name)
        case 17:
            kept = "; ".join(f"{name} != null" for name in scope.names[-2:]) or "true"
            return f"not ({one} in [v | some v in {draw(operands(scope.knowing()))}; {kept}])", scope
        case 0 | 1 | 2:
            name = scope.fresh()
            return f"{name} := {one}", scope.knowing(name)
        case 3 | 4:
            return one, scope
        case 5 | 6:
            return f"not {one}", scope
        case 7:
            name = scope.fresh()
            return f"some {name} in {one}", scope.knowing(name)
        case 8:
            key, name = scope.fresh(), scope.fresh()
            return f"some {key}, {name} in {one}", scope.knowing(key, name)
        case 9:
            key, name = scope.fresh(), scope.fresh()
            body, _ = draw(bodies(scope.knowing(key, name), most=2))
            return f"every {key}, {name} in {one} {{ [{key}, {name}] != 0; {body} }}", scope
        case 10:
            name = scope.fresh()
            pattern = draw(
                st.sampled_from(
                    ["[%s, _]", '{"a": %s}', '{"a": %s, "b": _}', "[[%s], _]", '{"a": {"b": %s}}']
                )
            )
            return f"{pattern % name} {draw(st.sampled_from(['=', ':=']))} {one}", scope.knowing(name)
        case 11:
            target = draw(st.sampled_from(["input", "input.s", "input.o.a", "data.d.n", "data.d.o"]))
            return f"{one} with {target} as {draw(expressions(scope.knowing()))}", scope
        case 12:
            name = scope.fresh()
            root = draw(st.sampled_from(["data.d.users", "input.o", "data.d.l", "input.l", "input"]))
            return f"some {name}; {root}[{name}]", scope.knowing(name)
        case 13:
            name, target = scope.fresh(), draw(st.sampled_from(["input", "input.n", "data.d.users"]))
            value = draw(expressions(scope.knowing()))
            return f"{name} := {one} with {target} as {value}", scope.knowing(name)
        case _:
            return f"{one} == {draw(operands(scope.knowing()))}", scope


@st.composite
def bodies(draw: st.DrawFn, scope: Scope, most: int = 3) -> tuple[str, Scope]:
    parts = []
    for _ in range(draw(st.integers(1, most))):
        text, scope = draw(statements(scope))
        parts.append(text)
    return "; ".join(parts), scope


@st.composite
def rules(draw: st.DrawFn, name: str, scope: Scope) -> str:
    """The definitions of one name."""
    match draw(st.integers(0, 8)):
        case 7:
            body, known = draw(bodies(scope))
            key, other = (draw(st.sampled_from(known.names or ('"k"',))) for _ in range(2))
            return f"{name}[{key}][{other}] := {draw(expressions(known))} if {{ {body} }}"
        case 8:
            body, known = draw(bodies(scope))
            key = draw(st.sampled_from(known.names or ('"k"',)))
            return f"{name}[{key}] contains {draw(expressions(known))} if {{ {body} }}"
        case 0 | 1:
            body, known = draw(bodies(scope))
            text = f"{name} := {draw(expressions(known))} if {{ {body} }}"
            for _ in range(draw(st.integers(0, 2))):
                body, known = draw(bodies(scope))
                text += f"\nelse := {draw(expressions(known))} if {{ {body} }}"
            default = draw(
                st.sampled_from(["", "", f"default {name} := 0\n", f'default {name} := {{"a": [1]}}\n'])
            )
            return default + text
        case 2 | 3:
            body, known = draw(bodies(scope))
            return f"{name} contains {draw(expressions(known))} if {{ {body} }}"
        case 4:
            body, known = draw(bodies(scope))
            key = draw(st.sampled_from(known.names or ('"k"',)))
            return f"{name}[{key}] := {draw(expressions(known))} if {{ {body} }}"
        case 5:
            body, known = draw(bodies(scope))
            return f"{name}.a.b := {draw(expressions(known))} if {{ {body} }}\n{name}.c := 1"
        case _:
            return f"{name} := {draw(expressions(scope))}"


@st.composite
def modules(draw: st.DrawFn) -> str:
    scope = Scope()
    parts = ["package p", ""]
    for index in range(draw(st.integers(0, 2))):
        name, operand = f"f{index}", scope.fresh()
        inner = scope.knowing(operand)
        body, known = draw(bodies(inner, most=2))
        operands = draw(
            st.sampled_from([operand, operand, operand, f"[{operand}, _]", f'{{"a": {operand}}}', '"a"'])
        )
        if operands == '"a"':
            body, known = draw(bodies(scope, most=1))
        parts.append(f"{name}({operands}) := {draw(expressions(known))} if {{ {body} }}")
        if draw(st.booleans()):
            parts[-1] += f"\nelse := {draw(expressions(scope))}"
        if draw(st.integers(0, 3)) == 0:
            parts.append(f"default {name}(_) := 7")
        scope = Scope(scope.names, scope.rules, (*scope.functions, name), 0, scope.counter)
    for index in range(draw(st.integers(1, 3))):
        name = f"r{index}"
        parts.append(draw(rules(name, scope)))
        scope = Scope((), (*scope.rules, name), scope.functions, 0, scope.counter)
    return "\n".join(parts) + "\n"
