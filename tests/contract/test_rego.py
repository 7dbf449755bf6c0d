"""Rego in the embedded engine and in a real OPA: snippet by snippet the same answer.

Each snippet is a module's rules; its decision is the rule `x`, over one input and one set of data. The answers are
OPA's, so both engines are held to them. Policies are full of references to what is not there, so most of this is about
what is undefined.
"""

# ruff: noqa: E501, RUF001 (tables: a snippet a line; letters of many alphabets)

import asyncio
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from mixer import config
from mixer.errors import DecisionError
from mixer.policy.engine import Evaluation, PolicyEngine
from mixer.policy.opa import OpaEngine
from mixer.policy.regorus import EmbeddedEngine
from tests.components import processes
from tests.components.processes import Opa

Cases = list[tuple[str, Any]]
Answer = Callable[..., Any]

UNDEFINED = "<undefined>"
FAILED = "<failed>"

INPUT = {
    "user": "u1",
    "method": "GET",
    "path": ["a", "b"],
    "groups": ["g1", "g2"],
    "h": {"x-a": "1"},
    "n": 5,
    "big": 9007199254740993,
    "f": 1.5,
    "nul": None,
    "e": [],
    "o": {},
    "auth": "Basic dXNlcjpwYXNz",
    "s": "héllo wörld",
    "arr": [1, "a", None],
    "obj": {"b": 1, "a": [1, 2]},
    "ip": "10.0.0.1",
    "ts": "2024-01-02T03:04:05Z",
    "str5": "5",
}
DATA = {
    "flags": {"a": {"on": False}, "b": {"on": True}},
    "users": {"u1": {"role": "admin", "n": 1}, "u2": {"role": "dev", "n": 2}},
    "list": [1, 2, 3],
    "perm": [{"m": ["GET"], "p": "/a"}, {"m": ["POST"], "p": "/b"}],
}

RULES: Cases = [
    ("x[k].v := v if some k, v in input.h", {"x-a": {"v": "1"}}),
    ("x[k].v contains v if some k, v in input.h\nx.z.v contains 1", {"x-a": {"v": ["1"]}, "z": {"v": [1]}}),
    ("x.y[k][v] := 1 if some k, v in input.h", {"y": {"x-a": {"1": 1}}}),
    ("x[k] contains v if some k, v in input.h", {"x-a": ["1"]}),
    ('x := data.flags[k].on if { k := "b" }', True),
    ('x := data.flags[k].on if { k := "a" }', False),
    ('p contains "a" if { k := "a"; data.flags[k].on == true }\np contains "b" if { k := "b"; data.flags[k].on == true }\nx := p', ['b']),
    ("x := data.users[u].role if { u := input.user }", 'admin'),
    ('x := 1 if input.n == 5\nx := 2 if input.user == "u1"', FAILED),
    ('default x := 0\nx := 1 if input.n == 5\nx := 2 if input.user == "u1"', FAILED),
    ('p[k] := v if { some k in ["a"]; some v in [1,2] }\nx := p', FAILED),
    ('x[k] := v if { some k, v in input.h }\nx["c"] := 3', {'c': 3, 'x-a': '1'}),
    ('x contains g if some g in input.groups\nx contains "z"', ['g1', 'g2', 'z']),
    ("y.a.b := 1\ny.a.c := 2\nx := y", {'a': {'b': 1, 'c': 2}}),
    ("y[k].c := v if some k, v in input.h\nx := y", {'x-a': {'c': '1'}}),
    ("y.a contains 1\ny.a contains 2\ny.b contains 3\nx := y", {'a': [1, 2], 'b': [3]}),
    ('s contains {"a": [1,2]} \nx if { some i; s[{"a": [1,2]}].a[i] == 2 }', True),
    ('s := {"a","b"}\nx if s["a"]', True),
    ('s := {"a","b"}\nx := [v | s[v]]', ['a', 'b']),
    ('s := {{"a":1},{"a":2}}\nx := [v | some e in s; v := e.a]', [1, 2]),
    ("x := data.list[-1]", UNDEFINED),
    ('o := {1: "a", 2: "b"}\nx := o[1]', 'a'),
    ('x := {1: "a"}', {'1': 'a'}),
    ('x := {[1,2]: "a"}', {'[1,2]': 'a'}),
    ("x := {3,1,2}", [1, 2, 3]),
    ('x := {"a", 1, null, true, [1], {"k": 1}}', [None, True, 1, 'a', [1], {'k': 1}]),
    ("x := input.nul", None),
    ('x if { not input.nul }\ndefault x := "no"', 'no'),
    ('x if { input.nul }\ndefault x := "no"', True),
    ('x if { data.flags.a.on }\ndefault x := "no"', 'no'),
    ("x := y if { y := 1 }\ny := 2", 1),
    ("f(input_) := input_\nx := f(3)", 3),
    ("a1 := 1\nb1 := a1 + 1\nc1 := b1 + 1\nx := c1", 3),
    ("y := 3\nx := data.a.b.y", 3),
    ("y := 1\nz contains 1\nx := count(data.users)", 2),
    ("x := {k: v | v := data.users[k].n}", {'u1': 1, 'u2': 2}),
    ('y := true if input.n > 3\nx := {"allowed": y}', {'allowed': True}),
    ('x if { 0 }\ndefault x := "no"', True),
    ('x if { "" }\ndefault x := "no"', True),
    ('x := {"a": 1, "b": y} if { y := 2 }', {'a': 1, 'b': 2}),
    ("x := {1,2} == {2,1}", True),
    ('x := {"a":1,"b":2} == {"b":2,"a":1}', True),
    ("x := [b | some b in [1 == 1, 1 == 2]]", [True, False]),
    ('fruit.apple.seeds := 12\nfruit.orange.color := "o"\nx := fruit', {'apple': {'seeds': 12}, 'orange': {'color': 'o'}}),
    ("roles[u] contains r if { some u, v in data.users; r := v.role }\nx := roles", {'u1': ['admin'], 'u2': ['dev']}),
    ("roles[u] contains r if { some u, v in data.users; r := v.role }\nx := roles.u1", ['admin']),
    ('roles[u] contains r if { some u, v in data.users; r := v.role }\nx if { "admin" in roles[input.user] }', True),
    ('roles[u] contains r if { some u, v in data.users; r := v.role }\nx if { roles[input.user]["admin"] }', True),
    ('roles[u] contains r if { some u, v in data.users; r := v.role }\nx if { roles["u1"]["admin"] }', True),
    ("ro[u] := v.role if { some u, v in data.users }\nx := ro[input.user]", 'admin'),
    ("y[k] := v if { some k, v in data.flags }\nx := y.b.on", True),
    ("x contains 1\nx contains 1", [1]),
    ('x := true if "a" == "a"', True),
    ('x := count(deny) == 0\ndeny contains "m" if not input.missing\ndeny contains "n" if input.n > 100', False),
    ('default x := false\nx if count(deny) == 0\ndeny contains msg if { not input.h.zz; msg := sprintf("missing %s", ["zz"]) }', False),
    ('x := 1 if { print("a", input.n, [1], {"a"}) }', 1),
    ('# héé\ny := "é" if to_number(input.s) == 1\nx := [to_number("5"), "é"] if not y', [5, 'é']),
    ("x := `a\n  b`", 'a\n  b'),
    ('x := {"a": 1, "a": 2}', {'a': 2}),
    ('k := "zz"\nx := {k: 1, input.user: 2}', {'u1': 2, 'zz': 1}),
    ('x := data.perm[0]["m"][0]', 'GET'),
    ('k := "users"\nx := data[k].u1.role', 'admin'),
    ('y := 4\nx := data.a[k].y if { k := "c" }', UNDEFINED),
    ("x := r.n if { r := input }", 5),
    ("x := [null == null, null == false]", [True, False]),
    ('x := "a\\"b\\\\c\\/d\\u0041"', 'a"b\\c/dA'),
    ('x := input["if"]', UNDEFINED),
    ("x contains upper(g) if some g in input.groups", ['G1', 'G2']),
    ("x[upper(k)] := v if some k, v in input.h", {'X-A': '1'}),
    ('x[0] := "a"', {'0': 'a'}),
    ('y[a][b] := 1 if { some a in ["p"]; some b in ["q"] }\nx := y.p.q', 1),
]  # fmt: skip

ITERATION: Cases = [
    ("x if { every g in input.e { g == 1 } }", True),
    ('x if { every k, v in input.h { startswith(k, "x-"); v == "1" } }', True),
    ('x if { every g in input.groups { g == "g1" } }\ndefault x := false', False),
    ('s contains g if some g in input.groups\nx if every g in s { startswith(g,"g") }', True),
    ("x if { every g in input.user { g == 1 } }", UNDEFINED),
    ('x := [k | some k; data.users[k].role == "admin"]', ['u1']),
    ('x := {k | data.users[k].role == "admin"}', ['u1']),
    ('x if { some p in data.perm; input.method in p.m; p.p == "/a" }', True),
    ('x if { data.perm[i].m[_] == input.method; data.perm[i].p == "/a" }', True),
    ('x := i if { some i; data.perm[i].p == "/b" }', 1),
    ("x := [i | data.list[i] = 2]", [1]),
    ("x := [c | some g in input.groups; c := [h | some h in input.groups; h != g]]", [['g2'], ['g1']]),
    ("x := sum([n | n := data.users[_].n])", 3),
    ('x := [[k, v] | some k, v in {"a","b"}]', [['a', 'a'], ['b', 'b']]),
    ("x := [v | some [1, v] in [[1,2],[3,4],[1,5]]]", [2, 5]),
    ('x if { some "a" in ["b","a"] }\ndefault x:=false', True),
    ('ro[u] := v.role if { some u, v in data.users }\nx := [u | ro[u] == "dev"]', ['u2']),
    ("x := [v | some v in input.missing]", []),
    ("x := [v | some v in input.n]", []),
    ("x := [v | some v in input.s]", []),
    ("x := [v | v := input.n[_]]", []),
    ('x if { every g in input.n { g == 1 } }\ndefault x := "no"', 'no'),
    ("x := [k | some k, v in input.n]", []),
    ("x := [v | some [_, v] in [[1,2,3],[1,2]]]", [2]),
    ('x := [o.a | some o in {{"a":1},{"a":2}}]', [1, 2]),
    ("x := 1 if { print(input.groups[_]) }", 1),
    ("x if { every a in [[1,2],[3]] { every b in a { b > 0 } } }", True),
    ("x if { some i, j; data.list[i] == 1; data.list[j] == 2; i < j }", True),
    ("default x := [1 | true]", [1]),
    ("x := [[a,b] | some a in [1,2]; some b in [3,4]; a + b > 4]", [[1, 4], [2, 3], [2, 4]]),
    ('x := {"k": v | some v in [1,2]}', FAILED),
    ("f(a) := a * 2\nx := [f(a) | some a in [1,2]]", [2, 4]),
]  # fmt: skip

UNDEFINED_VALUES: Cases = [
    ("x if { every g in input.missing { g == 1 } }", UNDEFINED),
    ("x if { every g in input.groups { data.flags[g] } }\ndefault x := false", False),
    ("x := [1, input.missing]", UNDEFINED),
    ("x if { [1, input.missing] }\ndefault x := false", False),
    ('x := {"a": input.missing}', UNDEFINED),
    ("y if input.z\nx := [1, y]", UNDEFINED),
    ("x if { [a, b] := [1, input.missing] }\ndefault x := false", False),
    ("x := count(input.missing)", UNDEFINED),
    ("f(v) := 1\nx := f(input.missing)", UNDEFINED),
    ("x := input.missing != 1", UNDEFINED),
    ("x if input.missing != 1\ndefault x := false", False),
    ("x := [input.missing | some g in input.groups]", []),
    ("x := {g: input.missing | some g in input.groups}", {}),
    ("x := input.missing if { true } else := 2", 2),
    ('f("a") := 1\nx := f("c")', UNDEFINED),
    ('x if { input.a1 == input.a2 }\ndefault x := "no"', 'no'),
    ("x := {1} - input.missing", UNDEFINED),
    ("x := f(1)\nf(v) := v if v > 5", UNDEFINED),
    ('x if { print("v", input.missing); true }', True),
    ("x := 1 if { print(input.missing) }", 1),
    ("x := 1 if { trace(input.missing) }", UNDEFINED),
    ("f(a) := a if a > 1\nx := [f(a) | some a in [1,2]]", [2]),
    ('x if { input.nope != "a" }\ndefault x := "d"', 'd'),
]  # fmt: skip

NEGATION: Cases = [
    ("x if { a := 1; not a = 2 }", True),
    ('x if { not input.user = "u2" }', True),
    ("x if { not input.missing }", True),
    ("x if { not input.missing == 1 }", True),
    ("f(v) if v == 1\nx if not f(2)", True),
    ('x if { not "g3" in input.groups }', True),
    ('x if { not count([g | some g in input.groups; g == "z"]) > 0}', True),
    ("x if { not input.s + 1 > 3 }", UNDEFINED),
    ("x if not to_number(input.s)", True),
    ('x if not startswith(input.missing, "a")', UNDEFINED),
    ("x if not input.missing == 1", True),
    ("x if not 1 == input.missing", True),
    ("x if not input.missing < 1", UNDEFINED),
    ("f(v) if v == 1\nx if not f(input.missing)", UNDEFINED),
    ('x if not startswith(lower(input.missing), "a")', UNDEFINED),
    ('x if not lower(input.missing) == "a"', UNDEFINED),
    ("x if not count(input.missing) > 0", UNDEFINED),
    ("x if not count([1 | input.missing]) > 0", True),
    ('x if not "a" in [input.missing]', UNDEFINED),
    ('x if not input.missing in ["a"]', UNDEFINED),
    ("x if not input.missing in data.list", UNDEFINED),
    ("x if not input.user in data.nope", UNDEFINED),
    ("y := input.zz\nx if not input.user in y", UNDEFINED),
    ("x if not input.missing + 1 == 2", UNDEFINED),
    ("x if not [input.missing] == [1]", UNDEFINED),
    ('x if not {"a": input.missing} == {"a":1}', UNDEFINED),
    ("x if not input.missing != 1", UNDEFINED),
    ('x if not data.users[input.missing].role == "a"', UNDEFINED),
    ("x if not data.users[input.missing]", UNDEFINED),
    ("x if not is_string(input.missing)", UNDEFINED),
    ('x if not regex.match("a", input.missing)', UNDEFINED),
    ('x if not io.jwt.verify_hs256(input.missing, "k")', UNDEFINED),
    ('x if not net.cidr_contains("10.0.0.0/8", input.missing)', UNDEFINED),
    ("f(v) if v == 1\nx if not data.a.b.f(input.missing)", UNDEFINED),
    ("x if { not f }\nf if every g in input.missing { g }", True),
    ("x if not input.missing = 1", True),
    ('y if input.n == 5\nx if not startswith(input.missing, "a") with input.n as 4', UNDEFINED),
    ('y if input.n == 5\nx := "yes" if { y; not y with input.n as 4 }', 'yes'),
    ("x if not (1 in [2])", True),
    ('x if { not not_allowed }\nnot_allowed if { not input.user == "u1" }', True),
    ("x if { not data.flags[input.user] }", True),
    ('x if { some k in ["a","zz"]; not data.flags[k] }', True),
    ("x if { not data.flags[input.nope] }", UNDEFINED),
    ("x if { not data.flags[input.nope].on == true }", UNDEFINED),
    ('x if { not input.nope != "a" }\ndefault x := "d"', 'd'),
]  # fmt: skip

MEMBERSHIP: Cases = [
    ('x if { "u" in input.user }\ndefault x := "no"', 'no'),
    ("x := {1, input.missing}", UNDEFINED),
    ("x := 1 in input.missing", UNDEFINED),
    ("x := 1 in null", False),
    ('x := "a" in input.missing', UNDEFINED),
    ("x := input.missing in {1}", UNDEFINED),
    ('x if not "a" in input.missing', UNDEFINED),
    ('x := ["a" in input.missing]', UNDEFINED),
    ('f(v) := v\nx := f("a" in input.missing)', UNDEFINED),
    ('x if ("a" in input.missing) == false\ndefault x := "no"', 'no'),
    ('x := "a" in input.n', False),
    ('x := "h" in input.s', False),
    ('x := (input.user in {"u1"})', True),
    ('x := {"a": input.user in ["u1"]}', {'a': True}),
    ('x := 1 if { false } else := input.user in ["u1"]', True),
    ('f(u) := u in ["u1"]\nx := f(input.user)', True),
    ('default x := "d"\nx := input.user in data.nope', 'd'),
    ('x if 1 in {"a":1}', True),
    ("x := 1 in [1] == true", False),
    ("x := [1 in [1,2], 1 + 1 in [2]]", [True, True]),
]  # fmt: skip

FUNCTIONS: Cases = [
    ("x := 1 if { input.n == 4 } else := 2 if { input.n == 5 } else := 3", 2),
    ("default f(_) := 9\nf(v) := 1 if v == 1\nx := [f(1), f(2)]", [1, 9]),
    ('f("a") := 1\nf("b") := 2\nx := [f("a"), f("b")]', [1, 2]),
    ("f([a, b]) := a + b\nx := f([1,2])", 3),
    ("f(a) := 1 if a > 0\nf(a) := 2 if a > 1\nx := f(2)", FAILED),
    ("f(a) := 1 if a > 0\nf(a) := 1 if a > 1\nx := f(2)", 1),
    ("f(a) := g(a) + 1\ng(a) := a * 2\nx := f(3)", 7),
    ("f([a, b]) := a\nx := f(input.arr)\n", UNDEFINED),
    ("f([a, b]) := a\nx := f(input.n)\n", UNDEFINED),
    ('f("GET", v) := v\nf("POST", v) := v + 1\nx := f(input.method, 1)\n', 1),
    ('f(n) := "a" if n < 1 else := "b" if n < 10 else := "c"\nx := [f(0), f(5), f(50)]', ['a', 'b', 'c']),
    ('default x := {"allowed": false}\nx := {"allowed": true} if input.n == 99', {'allowed': False}),
    ("f(i) := i.n\nx := f(input)", 5),
]  # fmt: skip

PATTERNS: Cases = [
    ("x := [a, b] if { [a, 2] = [1, b] }", [1, 2]),
    ('x := t if { [_, t] := split(input.s, "|") }\ndefault x := "no"', 'no'),
    ('x := t if { [_, t] := split(input.auth, " ") }', 'dXNlcjpwYXNz'),
    ('x := t if { [_, t] := input.n }\ndefault x := "no"', 'no'),
    ('x := t if { [_, t] = input.s }\ndefault x := "no"', 'no'),
]  # fmt: skip

OPERATORS: Cases = [
    ('x := [1 < 2, 1 == 1.0, "a" < "b", 1 < "a", null < 1, [1] < [2], {} < [], true > false]', [True, True, True, True, True, True, False, True]),
    ("x := [1 + 2, 5 % 3, 7 / 2, 2 * 3.5, -7 % 3, 1 - 5]", [3, 2, 3.5, 7, -1, -4]),
    ("x := 1 / 0", UNDEFINED),
    ("x := 5.5 % 2", UNDEFINED),
    ("x := [{1,2} | {3}, {1,2} & {2}, {1,2} - {1}]", [[1, 2, 3], [2], [2]]),
    ("x := [input.big, input.big + 1, input.big == 9007199254740992]", [9007199254740993, 9007199254740994, False]),
    ("x := {1} < {2}", True),
    ("x := input.s + 1", UNDEFINED),
    ("x if { input.s + 1 > 3 }\ndefault x := false", False),
    ("x if { input.s - 1 > 3 }\ndefault x := false", False),
    ("x if { count(input.arr - {1}) > 3 }\ndefault x := false", False),
    ("x if { count(input.arr | {1}) > 3 }\ndefault x := false", False),
    ("x if { count(input.arr & {1}) > 3 }\ndefault x := false", False),
    ("x if { input.nul * 2 == 0 }\ndefault x := false", False),
    ("x if { 1 / (input.n - 5) > 0 }\ndefault x := false", False),
    ("x if { 1 % (input.n - 5) > 0 }\ndefault x := false", False),
    ("x if { input.f % 1 > 0 }\ndefault x := false", False),
    ("x if { 0 - input.s > 0 }\ndefault x := false", False),
    ("x := [round(2.5), round(-2.5), round(3.5), ceil(1.2), floor(-1.2), abs(-3)]", [3, -3, 4, 2, -2, 3]),
    ('x := ["a" < "B", "é" > "z", "10" < "9"]', [False, True, True]),
    ("x := -5", -5),
    ("x := 1 - -5", 6),
    ("x := [-1, - 1, 3 -1, 3-1]", [-1, -1, 2, 2]),
    ("x := [1 == 1.0, 0 == -0]", [True, True]),
    ("x := input.big > 9007199254740992", True),
    ("x := [4/2, 5/2, 1/3]", [2, 2.5, 0.3333333333333333]),
    ("x := round(input.f)", 2),
    ("x := floor(1704164645000000000 / 1000000000)", 1704164645),
    ("x := 1704164645123456789 + 1", 1704164645123456790),
    ("x := 1704164645123456789 / 1000000000", 1704164645.1234567),
    ('x := [[1,2] < [1,3], [1] < [1,0], {"a":1} < {"a":2}]', [True, True, True]),
    ('x := {"a","b"} - {g | some g in input.groups}', ['a', 'b']),
]  # fmt: skip

WITH: Cases = [
    ("x if { input.n == 1 }\nx if { input.n == 5 }", True),
    ("f(a) := a + input.n\nx := f(1)", 6),
    ("y if input.n == 5\nx if not y with input.n as 4", True),
    ("ys contains input.n\nx := [v | some v in ys with input.n as 4]", [4]),
    ("ys contains input.n\nx := [[k,v] | some k, v in ys with input.n as 4]", [[4, 4]]),
    ("y if input.n == 5\nx if { every g in [1,2] { g > 0; y } }", True),
    ("default x := false\nx if { input.user in data.nope }", False),
    ("y := input.n\nx := [v | some i in [1,2]; v := y with input.n as i]", [1, 2]),
    ("y := input.n\nx := [a, b] if { a := y; b := y with input.n as 6 }", [5, 6]),
    ("f(v) := input.n + v\nx := [a, b] if { a := f(1); b := f(1) with input.n as 6 }", [6, 7]),
    ("ys contains input.n\nx := [a, b] if { a := ys; b := ys with input.n as 6 }", [[5], [6]]),
    ('y := data.users.u1.role\nx := [a,b] if { a := y; b := y with data.users.u1.role as "z"}', ['admin', 'z']),
    ("x if { every a in [1,2] { some b in [1,2,3]; b == a + 1 } }", True),
    ('y := data.users[input.user].role\nx := v if { v := y with input.user as "u2" }', 'dev'),
    ('y := data.users.u1.role\nx := v if { v := y with data.users.u1.role as "z" }', 'z'),
    ('y := data.users[k].role if { k := "u1" }\nx := v if { v := y with data.users.u1.role as "z" }', 'z'),
    ('y := data.users[k].role if { k := "u1" }\nx := v if { v := y with data.users as {"u1": {"role": "w"}} }', 'w'),
    ('y := input.user\nx := v if { v := y with input as {"user": "u2"} }', 'u2'),
    ("y := input.zz.q\nx := v if { v := y with input.zz.q as 1 }", 1),
    ('f(k) := data.users[k].role\nx := v if { v := f("u1") with data.users as {"u1": {"role": "m"}} }', 'm'),
    ("f(a) := a + input.n\nx := v if { v := f(1) with input.n as 10 }", 11),
    ("y := 1\nz := y + 1\nx := v if { v := z with data.a.b.y as 5 }", 6),
    ("f(v) := v\ng(_) := 10\nx := v if { v := f(1) with f as g }", 10),
    ("y := input.n\nz := v if { v := y with input.n as 6 }\nx := [z, y]", [6, 5]),
    ('y := input.groups[0]\nx := v if { v := y with input.groups as ["q"] }', 'q'),
    ("y := input.n\nx := v if { v := y with input.n as input.missing }", UNDEFINED),
    ("x := v if { v := count(data.users) with data.users as {} }", 0),
    ('y := 1\nx if { not y with input.a as y }', UNDEFINED),
    ('y := 1\nx := v if { v := y with input.a as y }', 1),
    ('y := 1\nf := y\nx := v if { v := f with input.a as [y] }', 1),
    ('y := 1\nx := v if { v := [input.user, y] with input.user as y with input.n as y + 1 }', [1, 1]),
    ('y := {"u": 1}\nx := [v | some k in ["u"]; v := y[k] with input.user as y[k]]', [1]),
    ('y := 1\nx if { "a" in ["a", y] with input.user as y }', True),
    ('f(v) := v\ng(_) := 7\nx := v if { v := f(1) with f as g }', 7),
    ('x := v if { v := input.user with input.user as data.users.u1.role }', 'admin'),
    ('x if { not input.user with input.user as input.missing }', UNDEFINED),
    ('x := v if { v := data.list with data.list as [q | some q in data.list] }', [1, 2, 3]),
    ('y if input.user == "z"\nx if { every u in ["z"] { y with input.user as u } }', True),
    ('y := 1\nx if not y with input.a as y', UNDEFINED),
    ('y := 1\nx := 5 if y == 1 with input.a as {"k": y}\nz := 1', 5),
    ('y := {"a"}\nx if "a" in y with input.a as y', True),
]  # fmt: skip

WALK: Cases = [
    ('x := [v | walk({"a": {"b": 1}}, [p, v]); p == ["a","b"]]', [1]),
    ('x := {concat("/", p) | walk({"a": {"b": "z"}}, [p, v]); is_string(v)}', ['a/b']),
    ('x := v if { walk({"a": {"b": "z"}}, [["a", "b"], v]) }', 'z'),
    ("x := y if { count([1,2], y) }", 2),
    ('x := p if { io.jwt.decode("eyJhbGciOiJub25lIn0.eyJhIjoxfQ.", [_, p, _]) }', {'a': 1}),
    ("f(a) := a + 1\nx := y if { f(2, y) }", 3),
    ('x := [p | [p, v] := walk({"a": {"b": "z"}})]', [[], ['a'], ['a', 'b']]),
    ('x := [v | [p, v] := walk({"a": {"b": "z"}})]', [{'a': {'b': 'z'}}, {'b': 'z'}, 'z']),
    ('x := [p | walk({"a": {"b": "z"}}, [p, v])]', [[], ['a'], ['a', 'b']]),
    ('x := {p | walk({"a": {"b": "z"}}, [p, v]); is_string(v)}', [['a', 'b']]),
    ("x := [v | [_, v] := walk(input.obj); is_number(v)]", [1, 2, 1]),
    ('x if { some [p, v] in [[1,2]]; walk({"a":1}, [["a"], 1]) }', True),
    ("x := {v | walk(input, [_, v]); is_string(v)}", ['1', '10.0.0.1', '2024-01-02T03:04:05Z', '5', 'Basic dXNlcjpwYXNz', 'GET', 'a', 'b', 'g1', 'g2', 'héllo wörld', 'u1']),
    ('x if { walk(input, [p, "g1"]); p[0] == "groups" }', True),
    ('x if { [p, "g1"] = walk(input); p[0] == "groups" }\ndefault x := "no"', True),
    ("x := [v | walk(input.missing, [_, v])]", []),
]  # fmt: skip

BUILTINS: Cases = [
    ('x := [sprintf("%s", [1]), sprintf("%d", ["a"]), sprintf("%s %s", ["a"]), sprintf("%s", ["a", "b"]), sprintf("%5d|%-5s|%05d", [1, "a", 2])]', ['%!s(int64=1)', '%!d(string=a)', 'a %!s(MISSING)', 'a%!(EXTRA string=b)', '    1|a    |00002']),
    ('x := [sprintf("%x", [255]), sprintf("%q", ["a\\n"]), sprintf("%.2f", [1.234]), sprintf("%t", [true]), sprintf("%", []), sprintf("%T %T", ["a", 1])]', ['ff', '"a\\n"', '1.23', '%!t(string=true)', '%!(NOVERB)', 'string int64']),
    ('x := [sprintf("%s", [["a"]]), sprintf("%s", [{"b": {1, null}, "a": set()}]), sprintf("%s", [null]), sprintf("%d", [1.5]), sprintf("%f", [1])]', ['["a"]', '{"a": set(), "b": {null, 1}}', 'null', '%!d(float64=1.5)', '%!f(int64=1)']),
    ('x := [sprintf("%v", [123456789.5]), sprintf("%v", [0.00001]), sprintf("%g", [100000.5]), sprintf("%e", [2.5])]', ['1.234567895e+08', '1e-05', '100000.5', '2.500000e+00']),
    ('deny contains sprintf("%d too many", [input.s]) if input.n > 1\nx := count(deny)', 1),
    ('x := sprintf("%v", [input.missing])', UNDEFINED),
    ('x := sprintf("%d %v", [9223372036854775808, 18446744073709551615])', "9223372036854775808 18446744073709551615"),
    ('x := sprintf(input.n, [])', UNDEFINED),
    ('x := sprintf("%v", input.n)', UNDEFINED),
    ('x := to_number(" 1")', UNDEFINED),
    ('x := to_number("1 ")', UNDEFINED),
    ('x := to_number("Infinity")', UNDEFINED),
    ('x := to_number("-nan")', UNDEFINED),
    ('x := to_number("1e3") == 1000', True),
    ('x := [to_number("5.") == 5, to_number(".5") == 0.5, to_number("+3") == 3, to_number("007") == 7]', [True, True, True, True]),
    ('x := to_number("1e999")', UNDEFINED),
    ('x := [urlquery.decode("a+b%20c%c3%a9"), urlquery.decode_object("a=1&a=2&b=&c&=d")]', ['a b cé', {'': ['d'], 'a': ['1', '2'], 'b': [''], 'c': ['']}]),
    ('x := urlquery.decode("%zz")', UNDEFINED),
    ('x := urlquery.decode_object("a=%zz")', UNDEFINED),
    ('x := urlquery.decode_object("a;b")', UNDEFINED),
    ('x := [net.cidr_contains("::ffff:10.0.0.0/104", "10.0.0.1"), net.cidr_contains("::ffff:10.0.0.0/104", "::ffff:11.0.0.1"), net.cidr_contains("::/64", "10.0.0.1"), net.cidr_contains("::ffff:0:0/90", "10.0.0.1")]', [True, False, False, False]),
    ('x := regex.match(`^/api/v\\d+$`, "/api/v1")', True),
    ('x := sprintf("%s-%d-%v", ["a", 3, [1,"b"]])', 'a-3-[1, "b"]'),
    ('x := object.get(input, ["h","zz"], "d")', 'd'),
    ('x := object.get(input, ["h","x-a"], "d")', '1'),
    ('x := object.get(input, "nul", "d")', None),
    ('x := contains("abc","b")', True),
    ('x := indexof("abc","c")', 2),
    ("x := array.concat([1], [2])", [1, 2]),
    ('x := json.patch({"a":1}, [{"op":"add","path":"/b","value":2}])', {'a': 1, 'b': 2}),
    ('x := [type_name(v) | some v in [1,"a",null,true,[],{}, set()]]', ['number', 'string', 'null', 'boolean', 'array', 'object', 'set']),
    ("x := input.s.foo", UNDEFINED),
    ("x := input.nul.foo", UNDEFINED),
    ('x := to_number("abc")', UNDEFINED),
    ("x if to_number(input.s) > 1\ndefault x := false", False),
    ('x := json.unmarshal("{")', UNDEFINED),
    ("default x := 1\nx := json.unmarshal(input.s)", 1),
    ('x := json.marshal({"a","b"})', '["a","b"]'),
    ("x := json.marshal(input.obj)", '{"a":[1,2],"b":1}'),
    ('x := time.parse_rfc3339_ns("garbage")', UNDEFINED),
    ('x := [time.parse_rfc3339_ns(input.ts), time.parse_rfc3339_ns("2024-01-02T03:04:05.123+02:00")]', [1704164645000000000, 1704157445123000000]),
    ('x := time.parse_ns("2006-01-02", "2024-05-06")', 1714953600000000000),
    ('x := [time.clock(1704164645000000000), time.date(1704164645000000000), time.weekday(1704164645000000000), time.clock([1704164645000000000, "Europe/Berlin"])]', [[3, 4, 5], [2024, 1, 2], 'Tuesday', [4, 4, 5]]),
    ("x := time.add_date(1704164645000000000, 0, 1, 1)", 1706929445000000000),
    ("x := time.diff(1704164645000000000, 1604164645000000000)", [3, 2, 1, 9, 46, 40]),
    ('x := [time.parse_duration_ns("1h30m"), time.parse_duration_ns("1.5s")]', [5400000000000, 1500000000]),
    ('x := time.parse_duration_ns("1parsec")', UNDEFINED),
    ('x := time.clock([1704164645000000000, "Nowhere/X"])', UNDEFINED),
    ('x := [regex.match("^a.*z$", "abcz"), regex.match("[[:alpha:]]+", "abc"), regex.match("\\\\bfoo\\\\b", "a foo b"), regex.match("(?i)ABC", "abc")]', [True, True, True, True]),
    ('x := regex.match("(", "a")', UNDEFINED),
    ('x if regex.match(input.s2, "a")\ndefault x := false', False),
    ('x := regex.match("a(?=b)", "ab")', UNDEFINED),
    ('x := regex.match("(a)\\\\1", "aa")', UNDEFINED),
    ('x := [regex.match("^a$", "a\\n"), regex.match("a.b", "a\\nb"), regex.match("(?s)a.b", "a\\nb"), regex.match("(?m)^b$", "a\\nb")]', [False, False, True, True]),
    ('x := [regex.find_n("[a-z]+", "ab cd ef", 2), regex.find_n("[a-z]+", "ab cd ef", -1), regex.find_n("z","ab",-1)]', [['ab', 'cd'], ['ab', 'cd', 'ef'], []]),
    ('x := regex.find_all_string_submatch_n("(\\\\w)(\\\\d)?", "a1 b", -1)', [['a1', 'a', '1'], ['b', 'b', '']]),
    ('x := [regex.replace("abc", "(b)", "[$1]"), regex.replace("abc", "(?P<x>b)", "${x}x"), regex.replace("abc","b","$$"), regex.replace("abc","(b)","$1x")]', ['a[b]c', 'abxc', 'a$c', 'ac']),
    ('x := [regex.template_match("urn:foo:{.*}", "urn:foo:bar:baz", "{", "}"), regex.template_match("/a/{[^/]+}/c", "/a/b/c", "{", "}")]', [True, True]),
    ('x := [regex.match("^[a&&b]$", "&"), regex.match("^[a~~b]$","~"), regex.match("^[[a]$", "["), regex.match("^[a--b]$", "-")]', UNDEFINED),
    ('x := [glob.match("*.github.com", [], "api.github.com"), glob.match("*.github.com", ["."], "api.x.github.com"), glob.match("**.github.com", ["."], "a.b.github.com"), glob.match("/api/*", ["/"], "/api/a/b"), glob.match("/api/*", null, "/api/a.b"), glob.match("/api/**", ["/"], "/api/a/b"), glob.match("[a-c]", [], "b"), glob.match("{a,b}", [], "b"), glob.match("?at", [], "cat"), glob.match("[!a]x", [], "bx")]', [True, False, True, False, True, True, True, True, True, True]),
    ('x := [glob.match("*:*", [":"], "a:b"), glob.match("a*", [], "a.b"), glob.match("a*", ["/"], "a.b"), glob.match("*", [], ""), glob.match("**", [], ""), glob.match("a?", [], "a"), glob.match("\\\\*", [], "*"), glob.match("{a*,b}c", [], "axc")]', [True, False, True, True, True, False, True, True]),
    ('x := glob.match("[", [], "a")', UNDEFINED),
    ('x := [net.cidr_contains("10.0.0.0/8", input.ip), net.cidr_contains("10.0.0.0/8", "10.1.0.0/16"), net.cidr_contains("::/0", "::1"), net.cidr_contains("10.0.0.0/8", "11.0.0.1"), net.cidr_contains("10.0.0.5/8", "10.0.0.1")]', [True, True, True, False, True]),
    ('x := net.cidr_contains("10.0.0.0/8", "::ffff:10.0.0.1")', True),
    ('x := net.cidr_contains("10.0.0.0/8", "garbage")', UNDEFINED),
    ('x := net.cidr_contains("garbage", "10.0.0.1")', UNDEFINED),
    ('x := net.cidr_contains("10.0.0.0/8", "010.0.0.1")', UNDEFINED),
    ('x := net.cidr_contains("fe80::/10", "fe80::1%eth0")', UNDEFINED),
    ('x := [net.cidr_is_valid(v) | some v in ["10.0.0.0/8","10.0.0.0","::/0","a/8","10.0.0.0/33", "10.0.0.1/8"]]', [True, False, True, False, False, True]),
    ('x := net.cidr_expand("10.0.0.0/30")', ['10.0.0.0', '10.0.0.1', '10.0.0.2', '10.0.0.3']),
    ('x := [base64.decode("dXNlcjpwYXNz"), base64.encode("é"), base64url.decode("w6k"), base64url.encode("é>?"), base64url.encode_no_pad("a"), base64.is_valid("a"), base64.is_valid("YQ==")]', ['user:pass', 'w6k=', 'é', 'w6k-Pw==', 'YQ', False, True]),
    ('x := base64.decode("!!!")', UNDEFINED),
    ('x := base64.decode("YQ")', UNDEFINED),
    ('x := [base64url.decode("YQ=="), base64url.decode("YQ")]', ['a', 'a']),
    ('x := base64.decode("/w==")', '�'),
    ('x := [hex.encode("a"), hex.decode("61")]', ['61', 'a']),
    ('x := hex.decode("zz")', UNDEFINED),
    ('x := [urlquery.encode("a b&c=é/"), urlquery.decode("a+b%20c"), urlquery.encode_object({"a":"b c","d":["e","f"]}), urlquery.decode_object("a=1&a=2&b=")]', ['a+b%26c%3D%C3%A9%2F', 'a b c', 'a=b+c&d=e&d=f', {'a': ['1', '2'], 'b': ['']}]),
    ('x := [substring("héllo", 1, 2), substring("abc", 1, -1), substring("abc", 5, 2), substring("abc", 1, 100)]', ['él', 'bc', '', 'bc']),
    ('x := substring("abc", -1, 2)', UNDEFINED),
    ('x := [indexof("héllo", "l"), indexof_n("banana", "an"), indexof("a","z")]', [2, [1, 3], -1]),
    ('x := [split("a/b//c", "/"), split("", "/"), split("abc", ""), split("héy","")]', [['a', 'b', '', 'c'], [''], ['a', 'b', 'c'], ['h', 'é', 'y']]),
    ('x := concat(",", {"b","a"})', 'a,b'),
    ('x := concat(",", input.arr)', UNDEFINED),
    ('x := [replace("aaa","a","b"), replace("abc","","-")]', ['bbb', '-a-b-c-']),
    ('x := [strings.reverse("héy"), strings.any_prefix_match(["a","b"], ["b"]), strings.any_suffix_match("abc", {"c"}), startswith("a",""), endswith("abc","bc"), contains("abc","")]', ['yéh', True, True, True, True, True]),
    ("x := [format_int(255,16), format_int(-5, 2), format_int(3.7, 10)]", ['ff', '-101', '3']),
    ('x := [count("héy"), count([1]), count({"a":1}), count({1,2})]', [3, 1, 1, 2]),
    ("x := count(input.n)", UNDEFINED),
    ('x := [sum([1,2.5]), sum({1,2}), product([2,3]), max([1,3,2]), min({4,2}), max(["a","b"])]', [3.5, 3, 6, 3, 2, 'b']),
    ("x := max([])", UNDEFINED),
    ('x := [sort([3,1,2]), sort(["b","a"]), sort({2,1}), sort([1,"a",null,true,[1],{"a":1}])]', [[1, 2, 3], ['a', 'b'], [1, 2], [None, True, 1, 'a', [1], {'a': 1}]]),
    ("x := [array.slice([1,2,3],1,2), array.slice([1,2,3],-1,9), array.slice([1,2,3],2,1), array.reverse([1,2])]", [[2], [1, 2, 3], [], [2, 1]]),
    ("x := [numbers.range(1,3), numbers.range(3,1), numbers.range_step(1,10,4)]", [[1, 2, 3], [3, 2, 1], [1, 5, 9]]),
    ('x := [object.remove({"a":1,"b":2},["a"]), object.filter({"a":1,"b":2},["a"]), object.union({"a":{"x":1}},{"a":{"y":2}}), object.keys({"a":1,"b":2}), object.subset({"a":1,"b":2},{"a":1}), object.union_n([{"a":1},{"a":2}])]', [{'b': 2}, {'a': 1}, {'a': {'x': 1, 'y': 2}}, ['a', 'b'], True, {'a': 2}]),
    ('x := object.get({"a":[{"b":5}]},["a",0,"b"],"d")', 5),
    ('x := [json.filter({"a":{"b":1,"c":2}},["a/b"]), json.remove({"a":{"b":1,"c":2}},["a/b"]), json.is_valid("{"), json.is_valid("1")]', [{'a': {'b': 1}}, {'a': {'c': 2}}, False, True]),
    ('x := json.patch({"a":1},[{"op":"remove","path":"/z"}])', UNDEFINED),
    ("x := [is_string(1), is_number(1), is_null(null), is_boolean(false), is_array([]), is_object({}), is_set(set())]", [False, True, True, True, True, True, True]),
    ("x := is_string(input.missing)", UNDEFINED),
    ('x := [semver.compare("1.2.3","1.2.4"), semver.is_valid("1.2"), semver.compare("1.0.0-rc1","1.0.0")]', [-1, False, -1]),
    ('x := semver.compare("a","1.0.0")', UNDEFINED),
    ('x := [units.parse("10K"), units.parse_bytes("10KiB"), units.parse("1.5M")]', [10000, 10240, 1500000]),
    ('x := units.parse_bytes("abc")', UNDEFINED),
    ("x := [bits.and(6,3), bits.or(6,3), bits.xor(6,3), bits.lsh(1,3), bits.rsh(8,1), bits.negate(1)]", [2, 7, 5, 8, 4, -2]),
    ('x := graph.reachable({"a":["b"],"b":["c"],"c":[]}, {"a"})', ['a', 'b', 'c']),
    ('x := yaml.unmarshal("a: [1, b]")', {'a': [1, 'b']}),
    ('x := [crypto.sha256("a"), crypto.md5("a"), crypto.sha1("a"), crypto.hmac.sha256("a","k"), crypto.hmac.equal("a","a")]', ['ca978112ca1bbdcafac231b39a23dc4da786eff8147c4e72b9807785afee48bb', '0cc175b9c0f1b6a831c399e269772661', '86f7e437faa5a7fce15d1ddcb9eaeaea377667b8', '78da91511e675587f5b9df78bedebaf5560da2abb88162ee875dcdf744951d9e', True]),
    ("x := crypto.sha256(input.n)", UNDEFINED),
    ("x := [intersection({{1,2},{2}}), union({{1},{2}})]", [[2], [1, 2]]),
    ('x := [sprintf("%v", [{"a":1,"b":[true,null]}]), sprintf("%v", [{"a"}]), sprintf("%s", ["x"]), sprintf("%d", [12]), sprintf("%v",[1.5]), sprintf("%v",["q"]), sprintf("%v",[["q"]]), sprintf("%v", [null]), sprintf("%v",[true]), sprintf("%%", [])]', ['{"a": 1, "b": [true, null]}', '{"a"}', 'x', '12', '1.5', 'q', '["q"]', 'null', 'true', '%']),
    ('x := sprintf("%v %s %d", [input.obj, input.method, input.n])', '{"a": [1, 2], "b": 1} GET 5'),
    ('x := count(uuid.rfc4122("a"))', 36),
    ('x := [trim("abcba", "ab"), trim("", "a")]', ['c', '']),
    ('x := "\\u00e9\\n\\t\\""', 'é\n\t"'),
    ('x := [glob.match("a.*", null, "a.b"), glob.match("a*", null, "a.b")]', [True, True]),
    ('x := to_number("0x10")', UNDEFINED),
    ('x := to_number("Inf")', UNDEFINED),
    ('x := to_number("")', UNDEFINED),
    ("x := to_number(true)", 1),
    ('x := min({"b","a"})', 'a'),
]  # fmt: skip

# Objects that take a value apart.
SHAPES: Cases = [
    ('x := v if { {"a": v} := {"a": 1} }', 1),
    ('x := v if { {"x-a": v} := input.h }', '1'),
    ('x := v if { {"b": v} := input.obj }', UNDEFINED),
    ('x := v if {"x-a": v} = input.h', '1'),
    ('x := v if input.h = {"x-a": v}', '1'),
    ('x := [v, w] if { {"b": v, "a": [_, w]} = input.obj }', [1, 2]),
    ('x := [v | some {"m": v, "p": _} in data.perm]', [['GET'], ['POST']]),
    ('x := [v | some {"m": v} in data.perm]', []),
    ('x := [[i, v] | some i, {"m": v, "p": "/b"} in data.perm]', [[1, ['POST']]]),
    ('x := [[k, v] | some k, {"role": "dev", "n": v} in data.users]', [['u2', 2]]),
    ('x := [[k, v] | some k, {"n": v} in data.users]', []),
    ('x := [[i, p] | {"m": ["POST"], "p": p} = data.perm[i]]', [[1, '/b']]),
    ('x := [[i, p] | {"p": p} = data.perm[i]]', []),
    ('f({"x-a": v}) := v if { true }\nx := f(input.h)', '1'),
    ('f({"b": v}) := v if { true }\nx := f(input.obj)', UNDEFINED),
    ('f({"b": v}, [{"c": w}, _]) := [v, w] if {\n  v == 1\n}\nx := [f({"b": 1}, [{"c": 2}, 3])]', [[1, 2]]),
    ('x := v if { o := input.obj; {"b": v} = o }', UNDEFINED),
    ('x := v if { o := input.h; {"x-a": v} = o }', '1'),
    ('x := o if { v := input.n; o = {"a": v} }', {'a': 5}),
    ('x := [v, w] if { {"a": v, "b": 2} = {"a": 1, "b": w} }', [1, 2]),
    ('x if { not {"b": 1} = input.obj }', True),
    ('x := v if { [{"a": v}, 2] = [json.unmarshal(`{"a": 1, "b": 2}`), 2] }', UNDEFINED),
    ('x := v if { [{"a": v}, 2] = [json.unmarshal(`{"a": 1}`), 2] }', 1),
    ('x := v if { {"a": v} = input.missing }', UNDEFINED),
    ('x := v if { {"a": v} = input.arr }', UNDEFINED),
    ('x := v if { {1: v, null: 2} = {1: "a", null: 2} }', 'a'),
    ('x if { every e in data.perm { {"m": _, "p": _} = e } }', True),
    ('x if { every e in data.perm { {"m": _} = e } }', UNDEFINED),
]  # fmt: skip

# Builtins that the embedded engine has from Mixer, and arithmetic, which is OPA's too.
SUPPLIED: Cases = [
    ('x := [units.parse("10m"), units.parse("1.5Ki"), units.parse("1e3"), units.parse("0.1"), units.parse("2E"), units.parse("1EI"), units.parse("\\"10Mi\\"")]', [0.01, 1536, 1000, 0.1, 2000000000000000000, 1152921504606846976, 10485760]),
    ('x := units.parse("10 K")', UNDEFINED),
    ('x := units.parse("K")', UNDEFINED),
    ('x := units.parse("1.2.3K")', UNDEFINED),
    ('x := [units.parse_bytes("1.5kb"), units.parse_bytes("1e3"), units.parse_bytes("10GiB"), units.parse_bytes("0.9"), units.parse_bytes("1TB")]', [1500, 1000, 10737418240, 0, 1000000000000]),
    ('x := units.parse_bytes("10Zb")', UNDEFINED),
    ('x := [semver.is_valid("v1.2.3"), semver.is_valid("1.02.3"), semver.is_valid("1.2.3-01"), semver.is_valid("1.2.3+b.1"), semver.is_valid("1.2.3-"), semver.is_valid("99999999999999999999.0.0")]', [True, False, False, True, False, False]),
    ('x := [semver.compare("1.0.0-alpha.1", "1.0.0-alpha.beta"), semver.compare("1.0.0-2", "1.0.0-11"), semver.compare("v1.0.0", "1.0.0+x"), semver.compare("1.0.0-a", "1.0.0-a.1")]', [-1, -1, 0, -1]),
    ('x := semver.is_valid(5)', False),
    ('x := [base64.is_valid("YQ"), base64.is_valid("Y\\nQ=="), base64.is_valid("YR=="), base64.decode("YR=="), base64.decode("Y\\r\\nQ==")]', [False, True, True, 'a', 'a']),
    ('x := base64url.decode("Y+")', UNDEFINED),
    ('x := base64url.decode("YQ=")', UNDEFINED),
    ('x := hex.decode("6")', UNDEFINED),
    ('x := [hex.decode("E9"), hex.decode("c3A9"), hex.decode("")]', ['�', 'é', '']),
    ('x := [json.is_valid("NaN"), json.is_valid("[1,]"), json.is_valid(" 1 "), json.is_valid("1 2"), json.is_valid("\\"\\\\ud800\\""), json.is_valid("\\"a\\tb\\""), json.is_valid("1e999"), json.is_valid("")]', [False, False, True, False, True, False, True, False]),
    ('x := [json.marshal({"b": "<", "a": [1, 1.5, {"x"}]}), json.marshal("é\\u2028"), json.marshal("\\u0007\\"\\\\/")]', ['{"a":[1,1.5,["x"]],"b":"\\u003c"}', '"é\\u2028"', '"\\u0007\\"\\\\/"']),
    ('x := json.marshal_with_options({"b": [1, {}], "a": []}, {"pretty": true})', '{\n\t"a": [],\n\t"b": [\n\t\t1,\n\t\t{}\n\t]\n}'),
    ('x := json.marshal_with_options({"b": [1, {}], "a": "<"}, {"prefix": "> ", "indent": "  "})', '> {\n>   "a": "\\u003c",\n>   "b": [\n>     1,\n>     {}\n>   ]\n> }'),
    ('x := json.marshal_with_options({"b": 1}, {})', '{"b":1}'),
    ('x := json.marshal_with_options({"b": 1}, {"pretty": false, "indent": " "})', '{"b":1}'),
    ('x := json.marshal_with_options({"b": 1}, {"other": 1})', UNDEFINED),
    ('x := [upper("ß"), upper("ǆ"), lower("İ"), lower("ΑΣ"), upper("ŉ"), upper("héé"), lower("ÀÉ"), upper("ﬁ"), lower("ẞ"), upper("ΰ"), upper("ᾳ")]', ['ß', 'Ǆ', 'i', 'ασ', 'ŉ', 'HÉÉ', 'àé', 'ﬁ', 'ß', 'ΰ', 'ᾼ']),
    ('x := [count("𝒳"), count("e\\u0301"), count(""), count("héé")]', [1, 2, 0, 3]),
    ('x := [ceil(-0.5), floor(-0.5), ceil(1.2), floor(1.7), ceil(-1.5), floor(-1.5), round(-0.5), round(2.5), ceil(5), floor(-3)]', [1, 0, 2, 1, -1, -2, -1, 3, 5, -3]),
    ('x := [object.subset({"a": {"b": 1}}, {"a": {}}), object.subset([1,2,3],[2,3]), object.subset([1,2,3],{3,1}), object.subset([], []), object.subset([1],[]), object.subset({1,2},{1})]', [True, True, True, True, True, True]),
    ('x := object.subset({"a": 1}, {1})', UNDEFINED),
    ('x := object.subset({1,2}, [1])', UNDEFINED),
    ('x := [array.flatten([1, [2, [3]], []]), array.flatten([])]', [[1, 2, [3]], []]),
    ('x := [regex.split(",", "a,b"), regex.split("", "abc"), regex.split("a*", "baac"), regex.split("", ""), regex.split("x*", "axbxc"), regex.split("b", ""), regex.split("$", "ab"), regex.split("^", "ab"), regex.split("(a)(b)", "xaby")]', [['a', 'b'], ['a', 'b', 'c'], ['b', 'c'], [], ['a', 'b', 'c'], [''], ['ab'], ['ab'], ['x', 'y']]),
    ('x := [glob.match("?", [], "é"), glob.match("{a,}b", [], "b"), glob.match("a\\\\*", [], "a*"), glob.match("[!a-c]", [], "d"), glob.match("{a{b,c},d}", [], "ac"), glob.match("a,b", [], "a,b"), glob.match("*.{com,org}", ["."], "x.org"), glob.match("}", [], "}"), glob.match("a.b", [], "axb"), glob.match("***", ["."], "a.b"), glob.match("[a]", [], "a"), glob.match("[abc]", ["b"], "b")]', [True, True, True, True, True, True, True, True, False, True, True, True]),
    ('x := glob.match("a{b", [], "ab")', UNDEFINED),
    ('x := glob.match("[]", [], "a")', UNDEFINED),
    ('x := glob.match("[c-a]", [], "b")', UNDEFINED),
    ('x := glob.match("a", ["ab"], "a")', UNDEFINED),
    ('x := glob.match("a\\\\", [], "a")', UNDEFINED),
    ('x := [glob.quote_meta("*.a?[b]{c}\\\\-!"), glob.quote_meta("é,")]', ['\\*.a\\?\\[b\\]\\{c\\}\\\\-!', 'é,']),
    ('x := [regex.template_match("a{[0-9]+}b", "a12b", "{", "}"), regex.template_match("a.{x}", "abx", "{", "}"), regex.template_match("<a><b>", "ab", "<", ">"), regex.template_match("{a{2}}", "aa", "{", "}")]', [True, False, True, True]),
    ('x := regex.template_match("a}", "a", "{", "}")', UNDEFINED),
    ('x := regex.template_match("a{", "a", "{", "}")', UNDEFINED),
    ('x := regex.template_match("a", "a", "{{", "}")', UNDEFINED),
    ('x := [0.1 + 0.2, 1.1 - 1, 0.1 * 3, 1 / 3, 10 / 4, 7 / 7, sum([0.1, 0.2, 0.3]), product([0.1, 3]), 5 - 0.1, 3 * 1.1]', [0.3, 0.1, 0.3, 0.3333333333333333, 2.5, 1, 0.6, 0.30000000000000004, 4.9, 3.3]),
    ('x := 1 / 0', UNDEFINED),
    ('x := input.f / 0', UNDEFINED),
    ('x := input.user + 1', UNDEFINED),
    ('x := {1, 2} - {2}', [1]),
    ('x := input.arr - {1}', UNDEFINED),
    ('x := [5 % 3, -5 % 3, 5 % -3]', [2, -2, 2]),
    ('x := [indexof("abc", "c"), indexof("𝒳b", "b"), indexof_n("a𝒳a", "a")]', [2, 1, [0, 2]]),
    ('x := indexof_n("a", "")', UNDEFINED),
    ('x := io.jwt.encode_sign({"typ": "JWT", "alg": "HS256"}, {"b": 1, "a": "<é>"}, {"kty": "oct", "k": "Zm9v"})', 'eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.eyJhIjoiXHUwMDNjw6lcdTAwM2UiLCJiIjoxfQ.NS40RZtUCo_zqjSnJXPT-qtXKEdlc-udSe9jhBbO34E'),
    ('x := io.jwt.encode_sign_raw(`{"typ":"JWT","alg":"HS256"}`, `{"a": 1}`, `{"kty":"oct","k":"Zm9v"}`)', 'eyJ0eXAiOiJKV1QiLCJhbGciOiJIUzI1NiJ9.eyJhIjogMX0.FCNrGUkvA-NcNvDmdJx9kwrZKU1wql7iGXDbBR0Ukh0'),
    ('x := io.jwt.encode_sign({"alg": "HS256"}, {}, {"keys": [{"kty": "oct", "k": "Zm9v"}]})', 'eyJhbGciOiJIUzI1NiJ9.e30.wFzc1AaKc-h2sBmMo-q5Btx4pthqj4E1uI9iieszJB4'),
    ('x := io.jwt.encode_sign({"alg": "none"}, {}, {"kty": "oct", "k": "Zm9v"})', UNDEFINED),
    ('x := io.jwt.encode_sign({"typ": "text", "alg": "HS512"}, {}, {"kty": "oct", "k": "Zm9v"})', 'eyJhbGciOiJIUzUxMiIsInR5cCI6InRleHQifQ.e30.1bx2vUkaV2hoELkWWzQbc97oncaYrLEiA3ce6XRHILFLPf7IlnfOImKldx9NjpNaizwjiZjBe4LixAl93VBCIQ'),
    ('x := io.jwt.encode_sign({"alg": "RS256"}, {}, {"kty": "oct", "k": "Zm9v"})', UNDEFINED),
    ('x := io.jwt.encode_sign_raw(`{"alg":"HS256"}`, `no json`, `{"kty":"oct","k":"Zm9v"}`)', UNDEFINED),
    ('x := [count(input.groups) > 1, count(input.missing) > 1]', UNDEFINED),
    ('p contains count(g) if some g in input.groups\nx := p', [2]),
    ('x := [0.3 - 0.1, 0.1 * 3 == 0.3, 2 / 3, 0.5 + 0.5]', [0.2, True, 0.6666666666666666, 1]),
    ('x := [to_number("9223372036854775808"), to_number("-9223372036854775808"), to_number("1e3")]', [9223372036854775808, -9223372036854775808, 1000.0]),
    ('x := [0.1 + 0.2 == 0.3, 1.1 + 2.2]', [True, 3.3]),
    ('x := regex.split("a*", "baac")', ['b', 'c']),
    ('x := json.marshal("<&>")', '"\\u003c\\u0026\\u003e"'),
    ('x := sum([0.1, 0.2])', 0.3),
    ('x := [("a", "a" in {"a"}), ("a", "b" in {"a", "b"}), (0, "a" in ["a"]), ("k", 1 in {"k": 1}), ("b", "b" in {"a"})]', [True, False, True, True, False]),
    ('x := ("a", input.missing in {"a"})', UNDEFINED),
    ('x if { not "a", "b" in {"a", "b"} }', True),
    ('x := [json.unmarshal(`{"a": 1e200000}`)]', UNDEFINED),
    ('x := json.unmarshal(input.user)', UNDEFINED),
    ('x := json.unmarshal(`{"a": [1, 2.5]}`)', {"a": [1, 2.5]}),
    ('x := providers.aws.sign_req({"method": "get", "url": "http://example.com:81/a%2Fb/c d?x=1&y"}, {"aws_access_key": "K", "aws_secret_access_key": "S", "aws_service": "s3", "aws_region": "r", "aws_session_token": "T"}, 1451311705000000000)', {'headers': {'Authorization': 'AWS4-HMAC-SHA256 Credential=K/20151228/r/s3/aws4_request,SignedHeaders=host;x-amz-content-sha256;x-amz-date;x-amz-security-token,Signature=489c12b6703bb6d0b5956b991651a849938f15fe1c01b624de16f768b7d263ce', 'host': 'example.com:81', 'x-amz-content-sha256': 'e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855', 'x-amz-date': '20151228T140825Z', 'x-amz-security-token': 'T'}, 'method': 'get', 'url': 'http://example.com:81/a%2Fb/c d?x=1&y'}),
    ('x := providers.aws.sign_req({"method": "POST", "url": "https://example.com/é%41", "body": {"b": [1, "<"], "a": null}, "headers": {"User-Agent": "u", "X-B": "2", "x-a": 1}}, {"aws_access_key": "K", "aws_secret_access_key": "S/x", "aws_service": "execute-api", "aws_region": "r"}, 1451311705999999999)', {'body': {'a': None, 'b': [1, '<']}, 'headers': {'Authorization': 'AWS4-HMAC-SHA256 Credential=K/20151228/r/execute-api/aws4_request,SignedHeaders=host;x-a;x-amz-date;x-b,Signature=0119cd4e9e47fbc9b0d19fa4f24b9522886545030a67ad329c854b0cf04bf167', 'User-Agent': 'u', 'X-B': '2', 'host': 'example.com', 'x-a': '', 'x-amz-date': '20151228T140825Z'}, 'method': 'POST', 'url': 'https://example.com/é%41'}),
    ('x := providers.aws.sign_req({"method": "POST", "url": "https://u:p@example.com", "raw_body": "abc", "body": 1, "timeout": "1s"}, {"aws_access_key": "K", "aws_secret_access_key": "S", "aws_service": "s3", "aws_region": "r", "disable_payload_signing": true}, 0)', {'body': 1, 'headers': {'Authorization': 'AWS4-HMAC-SHA256 Credential=K/19700101/r/s3/aws4_request,SignedHeaders=host;x-amz-content-sha256;x-amz-date,Signature=fe034cbda8cc91ecb8575d50364c3caee6c090250b45db0ba0528e8f153d6ae7', 'host': 'example.com', 'x-amz-content-sha256': 'UNSIGNED-PAYLOAD', 'x-amz-date': '19700101T000000Z'}, 'method': 'POST', 'raw_body': 'abc', 'timeout': '1s', 'url': 'https://u:p@example.com'}),
    ('x := providers.aws.sign_req({"method": "POST", "url": "https://example.com", "other": 1}, {"aws_access_key": "K", "aws_secret_access_key": "S", "aws_service": "s3", "aws_region": "r"}, 0)', UNDEFINED),
    ('x := providers.aws.sign_req({"method": "POST"}, {"aws_access_key": "K", "aws_secret_access_key": "S", "aws_service": "s3", "aws_region": "r"}, 0)', UNDEFINED),
    ('x := providers.aws.sign_req({"method": "POST", "url": ":"}, {"aws_access_key": "K", "aws_secret_access_key": "S", "aws_service": "s3", "aws_region": "r"}, 0)', UNDEFINED),
    ('x := providers.aws.sign_req({"method": "POST", "url": "https://example.com"}, {"aws_access_key": "K", "aws_service": "s3", "aws_region": "r"}, 0)', UNDEFINED),
    ('x := indexof("a", "")', UNDEFINED),
]  # fmt: skip

# What the embedded engine has of its own beside regorus: numbers of 64 bits, names above rules, constants of patterns.
MENDED: Cases = [
    ('x := [0.3 - 0.1 == 0.2, 0.3 - 0.1 > 0.2, (0.3 - 0.1) + 0.1 == 0.3, 1 / 3 == 0.3333333333333333, 1 / 3 * 3 == 1, 1 / 3 < 0.3333333333333334, 0.1 + 0.7 + 0.2 == 1, 2 / 3 == 4 / 6]', [False, True, True, False, True, True, True, True]),
    ('x := [2.0 == 2, 1e3 == 1000, 1e-3 == 0.001, 9007199254740993 == 9007199254740992.0, 9007199254740993 - 1, 18446744073709551615 - 1, 0.0 == -0.0]', [True, True, True, False, 9007199254740992, 18446744073709551614, True]),
    ('x := [floor(y), ceil(y), round(y), abs(0 - y) == y, max([y, 0.2]) == y, min([y, 0.2]), sort([0.3, y, 0.2])[1] == y, y in {0.2}, {y, 0.2} == {0.2}] if { y := 0.3 - 0.1 }', [0, 1, 0, True, True, 0.2, True, False, False]),
    ('x := [sprintf("%v %d", [1 / 3, 0.3 - 0.1]), json.marshal([1 / 3, input.f]), $"{1 / 3}"]', ['0.3333333333333333 %!d(float64=0.2)', '[0.33333333333333333334,1.5]', '0.33333333333333333334']),
    ('x := [sum([0.1, 0.2, 0.7]), product([0.1, 3]) == 0.3, sum([1 / 3, 1 / 3, 1 / 3]) == 1, sum({0.1, 0.2}), sum([]), product([]), sum([1, 2.0])]', [1, False, True, 0.3, 0, 1, 3]),
    ('x := [input.n / 3 * 3 == input.n, input.n * 0.1 == 0.5, input.n - 0.1, input.f * 2, input.n % 2, input.f + input.n]', [True, True, 4.9, 3, 1, 6.5]),
    ('x := [to_number("0.30000000000000000001") == 0.3, to_number("0.30") == 0.3, json.unmarshal("[0.30000000000000000001, 0.3]")[0] == 0.3, json.unmarshal(`{"a": 1234567890123456789}`).a]', [False, True, False, 1234567890123456789]),
    ('x := json.unmarshal(`["\\ud800", 1E2, -0]`)', ['�', 100.0, 0]),
    ('x := [count(d), count(l), count(split(input.s, "")), count(input.s), count(input.groups), count("𝒳"), count({1 | true})] if { l := [1, 2] }\nd contains 1 if input.zz', [0, 2, 11, 11, 2, 1, 1]),
    ('x := [count(d), 5 - count(d), count(d) * 2 / 3] if { d := input.groups }', [2, 3, 1.3333333333333333]),
    ('x := [glob.match("/a/*", ["/"], "/a/b"), glob.match(input.user, null, "u1"), glob.match("{a", [], "a"), glob.match("*.b", ["."], input.none)]', '<undefined>'),
    ('x if not glob.match("{a", [], "a")', True),
    ('x if not glob.match("a/*", ["/"], input.user)', True),
    ('r.a.b := 1 if input.zz\nr.c := 1\nx := [r, r.a]', [{'a': {}, 'c': 1}, {}]),
    ('r.a := 1 if input.zz\nx := r', {}),
    ('r.f(y) := y\nr.a[k].b := 1 if some k in input.zz\nx := [r, r.f(2)]', [{'a': {}}, 2]),
    ('r.a.b contains 1 if input.zz\nx if not r.a.b[1]', True),
    ('x := [regex.is_valid(input.n), regex.is_valid("["), regex.is_valid(input.user)]', [False, False, True]),
    ('x := [yaml.is_valid("a: [1"), yaml.is_valid("a: 1"), yaml.is_valid(input.n), yaml.is_valid("a: 1\\n---\\nb: {")]', [False, True, False, False]),
    ('x := [input.user + 1, 1]', '<undefined>'),
    ('x if not input.user - 1', True),
    ('x := input.arr - 1', '<undefined>'),
    ('x := [{1, 2} - {1}, {[1]} - {[2]}]', [[2], [[1]]]),
    ('x := [60 * 60 * 1000000000, 2 * 3 - 1, 7 % 4 + 1, 9223372036854775807 - 1, 4611686018427387904 * 2]', [3600000000000, 5, 4, 9223372036854775806, 9223372036854775808]),
]  # fmt: skip

# Several modules, and how they come to know each other.
LIBRARY = "package a.c\nimport rego.v1\nq := 5\nf(v) := v + 1"
MODULES: list[tuple[list[str], Any]] = [
    ([LIBRARY, "package a.b\nx := data.a.c.q"], 5),
    ([LIBRARY, "package a.b\nx := data.a.c.f(3)"], 4),
    ([LIBRARY, "package a.b\nimport data.a.c\nx := [c.q, c.f(2)]"], [5, 3]),
    ([LIBRARY, "package a.b\nimport data.a.c as lib\nx := [lib.q, lib.f(2)]"], [5, 3]),
    ([LIBRARY, "package a.b\nimport data.a.c.f\nx := f(2)"], 3),
    (["package a.b\nimport input.h as headers\nx := headers[\"x-a\"]"], "1"),
    (["package a.users\nu3 := 1", "package a.b\nx := data.a.users"], {"u3": 1}),
    (["package a.b\nimport future.keywords.if\nimport future.keywords.in\nx if { 1 in [1] }"], True),
    (["package a.b\nx if { 1 in [1] }\ny contains 1"], True),
    (["package a[\"b\"]\nx := 1"], 1),
    (["package a.b\r\n\r\nx if {\r\n  to_number(input.s)\r\n}\r\nx if input.n == 5\r\n"], True),
    (["package a.b\n# é, two bytes\ny := \"é\" if to_number(input.s) == 1\nx := [to_number(\"5\"), \"é\"] if not y"], [5, "é"]),
    (['package a.b\nx if not regex.match(data.nope, input.s)\nx := 1 if not regex.match("^\\\\d$", input.s)'], 1),
    # keywords as the first name of a rule
    (["package a.b\nif.ok := 1\nx if { if.ok == 1; data.a.b.if.ok == 1 }"], True),
    (['package a.b\nroles := {"u1": 5}\nnot.role := roles[input.user] if {\n\troles.u1\n} else := 7\nx if { not.role == 5 }'], True),
    (['package a.b\nimport input.h as h\ndefault in.f(_) := 1\nin.f(v) := h[v] # in.f\nx if { in.f("x-a") == "1"; in.f("y") == 1 }'], True),
    (["package a.b\nsome.y contains 1\nsome.y contains 2 if {\n\tinput.missing }\nx := y if {\n\tsome.y = y }"], [1]),
    (["package a.c\nwith.y := 1", "package a.b\nx := data.a.c"], {"with": {"y": 1}}),
    (['package a.b\nif.ok := "if.ok"\nx := $"{if.ok} not.ok"'], "if.ok not.ok"),
    # comments in the middle of what is rewritten
    (['package a.b\nx if {\n\tnot startswith( # ]) {\n\t\tinput.user, # "\n\t\t"z", # `\n\t)\n}'], True),
    (['package a.b\nx := ("u1" # (\n\tin # [\n\tinput.groups) if input.n + # 1\n\t1 == 6'], False),
    (["package a.b\nx := [v | [_, v] := walk( # |\n\tinput.h # ]\n)] # }"], [{"x-a": "1"}, "1"]),
    (["package a.b\r\nx if { # \r\n\tnot to_number( # (\r\n\t\tinput.s)\r\n}\r\n"], True),
    (["package a.b\nx := y if y := \"" + 5000 * "long" + "\""], 5000 * "long"),
]  # fmt: skip

TIMES: Cases = [
    ('x := [time.format([0, "UTC", layout]) | some layout in ["RFC1123", "RFC822", "RFC850", "UnixDate", "Kitchen", ""]]', ["Thu, 01 Jan 1970 00:00:00 UTC", "01 Jan 70 00:00 UTC", "Thursday, 01-Jan-70 00:00:00 UTC", "Thu Jan  1 00:00:00 UTC 1970", "Kitchen", "1970-01-01T00:00:00Z"]),
    ('x := [time.format([1720000000120000000, zone, "Jan _2 15:04:05.000 MST -0700 Z07:00 .999 002 pm"]) | some zone in ["", "America/New_York", "Asia/Kathmandu", "America/Sao_Paulo"]]', ["Jul  3 09:46:40.120 UTC +0000 Z .12 185 am", "Jul  3 05:46:40.120 EDT -0400 -04:00 .12 185 am", "Jul  3 15:31:40.120 +0545 +0545 +05:45 .12 185 pm", "Jul  3 06:46:40.120 -03 -0300 -03:00 .12 185 am"]),
    ('x := [v | some text in ["Tue, 02 Jan 2024 03:04:05 MST", "Mon, 02 Jan 2024 03:04:05 GMT+3"]; v := time.parse_ns("RFC1123", text)]', [1704164645000000000, 1704164645000000000]),
    ('x := [v | some p in [["2006", "2024"], ["06", "68"], ["2006-002", "2024-366"], ["2006-002", "2023-366"], ["Monday 2006", "Friday 2024"], ["RFC3339", "2024-01-02T03:04:60Z"], ["2006-01-02T15:04:05.000", "2024-01-02T03:04:05.123456"], ["3:04pm", "3:04PM"]]; v := time.parse_ns(p[0], p[1])]', [1704067200000000000, 3092601600000000000, 1735603200000000000, 1704067200000000000]),
    ('x := [v | some text in ["2024-01-02t03:04:05z", "2024-01-02 03:04:05Z", "2024-01-02T3:04:05Z", "2024-01-02T03:04:05,5Z", "2016-12-31T23:59:60Z", "2024-01-02T03:04:05+24:00", "2024-02-30T00:00:00Z"]; v := time.parse_rfc3339_ns(text)]', [1704164645000000000, 1704164645500000000, 1704078245000000000]),
    ('x := [v | some text in ["1d", "1w2h", "1.9d", "-1y", "1D", "-9223372036854775808ns", "106752d"]; v := time.parse_duration_ns(text)]', [86400000000000, 612000000000000, 164159999999999, -31536000000000000, -9223372036854775808]),
    ('x := [time.add_date(1706659200000000000, 0, 1, 0), time.add_date(951782400000000000, 1, 0, 0)]', [1709337600000000000, 983404800000000000]),
    ('x := [time.diff([1720000000000000000, "America/New_York"], 1704164645123456789), time.clock([9223372036854775807, "Europe/Berlin"]), time.date([-1, "UTC"]), time.weekday([0, "America/New_York"])]', [[0, 6, 1, 7, 42, 35], [1, 47, 16], [1969, 12, 31], "Wednesday"]),
    ('x := time.clock([0, "Nope/Zone"])', UNDEFINED),
    ("x := [v | some n in [1.5, 9223372036854775808, input.user]; v := time.clock(n)]", []),
]  # fmt: skip

# Where text is a position in data, and in data alone.
POSITIONS: Cases = [
    ("x := [v | some k in [\"0\", \"+1\", \"02\", \"3\", \"-1\", \"1e0\", \"a\", 1, true]; v := data.list[k]]", [1, 2, 3, 2]),
    ('x := [data.list[k], [v | v := list[k]]] if { k := "0"; list := data.list }', [1, []]),
    ('x if not data.list[input.str5]', True),
    ('x := data.perm[split("1.a", ".")[0]].p', "/b"),
    ('f(k) := data.list[k]\nx := f("1")', 2),
]  # fmt: skip

# Orders of sets beside objects, keys that are text last, positions that are none.
ORDERS: Cases = [
    ('x := [sort([1, "a", null]), max(["a", [1]]), min([{"a"}, "b"]), sort({{"a": 2}, {"a": 1}}), max({{"a": 2}, {"a": 1}}), sort([]), sort(set())]', [[None, 1, "a"], [1], "b", [{"a": 1}, {"a": 2}], {"a": 2}, [], []]),
    ("x := max([])", UNDEFINED),
    ("x := max(input.n)", UNDEFINED),
    ("f(a, b) := a < b\nx := [f(1, {1}), f({1}, input.user), f({1}, {2}), f([1], [2]), f({}, [])]", [True, False, True, True, False]),
    ('x := json.marshal({1: {"b": 1, "a": 2}, true: 3, "z": [{2: 1, "1": 2}], null: "a\\u0001<"})', '{"1":{"a":2,"b":1},"null":"a\\u0001\\u003c","true":3,"z":[{"1":2,"2":1}]}'),
    ("x := [v | some i in [1, 1.5]; v := substring(\"abc\", i, 1)]", ["b"]),
    ("x := -9223372036854775807 - 1", -9223372036854775808),
    ("x := [json.marshal(1 / 100000), json.marshal(1 / 8)]", ["1e-05", "0.125"]),
    ("y := 1e9\nx := {1e3 > y, 1.50 * 2}", [False, 3]),
]  # fmt: skip

# What the embedded engine has no answer to: an error.
ERRORS = [
    ("x := 1 / 3 == 1 - 2 / 3", False, "both are next to one double, which can stand for one of them"),
    ("x := 99999999999 * 99999999999", 9999999999800000000001, "regorus has no whole numbers beyond 64 bits"),
    ('x := sort([{"a": 1}, {1}])', [{"a": 1}, [1]], "regorus puts sets before objects"),
    ('f(a, b) := a < b\nx := f({"a": 1}, {1})', True, "regorus puts sets before objects"),
    ('x := max([[{"a": 1}], [{1}]])', [[1]], "regorus puts sets before objects"),
    ('x := json.marshal({1: 2, "1": 3})', '{"1":3}', "which of them is the last"),
    ('x := sprintf("%v", [json.unmarshal("1e6")])', "1e+06", "regorus keeps a number's value alone"),
    ('x := json.marshal(json.unmarshal("[1.50]"))', "[1.50]", "regorus keeps a number's value alone"),
    ('x := json.marshal({to_number("2.0")})', "[2.0]", "regorus keeps a number's value alone"),
    ('x := $"{json.unmarshal("2.0")}"', "2.0", "regorus keeps a number's value alone"),
    ('x := {json.unmarshal("2.0"): 1}', {"2.0": 1}, "regorus keeps a number's value alone"),
    ('x := substring("abc", json.unmarshal("1e0"), 1)', UNDEFINED, "regorus keeps a number's value alone"),
]  # fmt: skip

# What the embedded engine answers otherwise, knowingly.
GAPS = [
    ('x := [y | some y in {{"a": 1.5}, {1}}]', [{"a": 1.5}, [1]], "regorus puts sets before objects"),
    ('x := [k | some k; {"0": 1}[k]; data.list[k]]', ["0"], "what is bound elsewhere may be text, which is no position to regorus"),
]  # fmt: skip

# Patterns of RE2 that mean something else in Rust, or nothing; with the texts below.
RE2_PATTERNS = [
    r"^\w$", r"^\W$", r"^\d$", r"^\D$", r"^\s$", r"^\S$", r"a\b", r"\Bb", r"^[\w-]$", r"^[^\s\d]$", r"^[\D]$", r"(?i)^k$", r"(?i)^[k]$",
    r"\Qa.b\E", r"\Q*", r"a{,2}", r"{", r"^[a&&b]$", r"^[a~~b]$", r"^[[a]$", r"^[]a]$", r"^[a--b]$", r"\<", r"\_", r"\101", r"\x{e9}",
    r"^[[:word:]]$", r"^[[:^alpha:]]$", r"a**", r"a{1001}", r"(?x) a", r"\u0041", r"\1", r"\Z", r"[z-a]", r"(", r"a(?=b)", r"a\z", r"\pL",
]  # fmt: skip
TEXTS = [
    "a",
    "b",
    "ab",
    "aab",
    "a.b",
    "*",
    "é",
    "٣",
    "\u00a0",
    "_",
    "-",
    "K",
    "\u212a",
    "\n",
    "{",
    "a{,2}",
    "[",
    "]",
    "&",
    "~",
    "<",
    "A",
]


def decide(engine: PolicyEngine) -> Any:
    async def run() -> Any:
        await engine.start()
        try:
            answer = engine.evaluate(json.dumps(INPUT).encode(), None)
            evaluation = answer if isinstance(answer, Evaluation) else await answer
        except DecisionError as error:
            return {"undefined": UNDEFINED, "evaluation": FAILED}[error.reason]
        finally:
            await engine.close()
        return json.loads(evaluation.decision)

    return asyncio.run(run())


def by_embedded(folder: Path, modules: tuple[str, ...]) -> Any:
    for index, module in enumerate(modules):
        (folder / f"{index}.rego").write_bytes(module.encode())
    (folder / "data.json").write_text(json.dumps(DATA))
    return decide(EmbeddedEngine(config.Policy(paths=(folder,), decision="a/b/x")))


def by_opa(server: Opa, modules: tuple[str, ...]) -> Any:
    for index, module in enumerate(modules):
        status, problem = server.call("PUT", f"/v1/policies/{index}", module)
        assert status == 200, problem
    try:
        return decide(
            OpaEngine(config.Policy(engine="opa", opa=config.Opa(url=server.url), decision="a/b/x"))
        )
    finally:
        for index in range(1, len(modules)):  # the first is replaced by that of the next test
            server.call("DELETE", f"/v1/policies/{index}")


@pytest.fixture(scope="module")
def opa_with_data() -> Iterator[Opa]:
    with processes.opa() as server:
        assert server.call("PUT", "/v1/data", DATA)[0] == 204
        yield server


@pytest.fixture(params=["embedded", "opa"])
def answer(request: pytest.FixtureRequest, tmp_path: Path) -> Answer:
    """The decision of modules, by each engine."""
    if request.param == "embedded":
        return lambda *modules: by_embedded(tmp_path, modules)
    server: Opa = request.getfixturevalue("opa_with_data")
    return lambda *modules: by_opa(server, modules)


def exact(value: Any) -> str:
    """Text that tells true from 1; 1 and 1.0 are one number."""
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    if isinstance(value, dict):
        return str({name: exact(item) for name, item in sorted(value.items())})
    return str([exact(item) for item in value]) if isinstance(value, list) else repr(value)


TABLES = [
    RULES,
    ITERATION,
    UNDEFINED_VALUES,
    NEGATION,
    MEMBERSHIP,
    FUNCTIONS,
    PATTERNS,
    OPERATORS,
    WITH,
    WALK,
    BUILTINS,
    SUPPLIED,
    SHAPES,
    MENDED,
    TIMES,
    POSITIONS,
    ORDERS,
]


@pytest.mark.parametrize(
    ("snippet", "expected"), [pytest.param(*case, id=case[0]) for table in TABLES for case in table]
)
def test_snippet_has_opas_answer(answer: Answer, snippet: str, expected: Any) -> None:
    assert exact(answer(f"package a.b\n\n{snippet}")) == exact(expected)


@pytest.mark.parametrize(("modules", "expected"), MODULES)
def test_modules_together_have_opas_answer(answer: Answer, modules: list[str], expected: Any) -> None:
    assert exact(answer(*modules)) == exact(expected)


@pytest.mark.parametrize("constant", [True, False])
def test_pattern_matches_what_it_matches_in_re2(opa_with_data: Opa, tmp_path: Path, constant: bool) -> None:
    texts = json.dumps(TEXTS)
    if constant:
        rules = [
            f"x[{index}] := [regex.match({json.dumps(pattern)}, text) | some text in {texts}]"
            for index, pattern in enumerate(RE2_PATTERNS)
        ]
    else:
        rules = [
            f"x[index] := [regex.match(pattern, text) | some text in {texts}] if {{ some index, pattern in patterns }}",
            f"patterns := {json.dumps(RE2_PATTERNS)}",
        ]
    module = "package a.b\n\n" + "\n".join(rules)
    assert by_embedded(tmp_path, (module,)) == by_opa(opa_with_data, (module,))


@pytest.mark.parametrize(("snippet", "expected", "reason"), ERRORS)
def test_what_has_no_answer_is_an_error(
    request: pytest.FixtureRequest, answer: Answer, snippet: str, expected: Any, reason: str
) -> None:
    if "embedded" in request.node.name:
        expected = FAILED
    assert exact(answer(f"package a.b\n\n{snippet}")) == exact(expected), reason


@pytest.mark.parametrize(("snippet", "expected", "reason"), GAPS)
def test_known_gap(
    request: pytest.FixtureRequest, answer: Answer, snippet: str, expected: Any, reason: str
) -> None:
    if "embedded" in request.node.name:
        request.applymarker(pytest.mark.xfail(strict=True, reason=reason))
    assert exact(answer(f"package a.b\n\n{snippet}")) == exact(expected)
