"""Policies that the embedded engine refuses at load, and what it says of evaluations that fail."""

import asyncio
import gc
import json
import threading
from pathlib import Path

import jwt
import pytest

from mixer import config
from mixer.errors import DecisionError, PolicyError
from mixer.policy.engine import Evaluation
from mixer.policy.regorus import EmbeddedEngine

SECRET = 32 * "k"


def started(folder: Path, decision: str = "p/allow") -> EmbeddedEngine:
    engine = EmbeddedEngine(config.Policy(paths=(folder,), decision=decision))
    asyncio.run(engine.start())
    return engine


def refusals(folder: Path, policy: str, decision: str = "p/allow") -> list[str]:
    (folder / "p.rego").write_text(policy)
    with pytest.raises(PolicyError) as caught:
        started(folder, decision)
    return [line.removeprefix(f"{folder}/") for line in str(caught.value).splitlines()]


def test_syntax_error_says_file_line_and_column(tmp_path: Path) -> None:
    assert refusals(tmp_path, "package p\n\nallow {\n}\n")[0].startswith("p.rego: line 3, column 7: ")


def test_unsafe_variable(tmp_path: Path) -> None:
    [refusal] = refusals(tmp_path, "package p\n\nallow if x == y\n")
    assert refusal.startswith("p.rego: line 3")
    assert "unsafe" in refusal


def test_builtin_that_opa_has_and_the_engine_lacks_names_the_way_out(tmp_path: Path) -> None:
    [refusal] = refusals(tmp_path, "package p\n\nallow := graphql.is_valid(1, 2)\n")
    assert refusal.startswith("p.rego: line 3: the embedded engine has no graphql.is_valid")
    assert refusal.endswith("engine: opa runs it")


def test_function_that_nobody_has(tmp_path: Path) -> None:
    assert refusals(tmp_path, "package p\n\nallow := foo.bar(1)\n") == [
        "p.rego: line 3: there is no function foo.bar"
    ]


def test_function_of_a_module_that_is_not_there(tmp_path: Path) -> None:
    assert refusals(tmp_path, "package p\n\nallow := data.lib.f(1)\n") == [
        "p.rego: line 3: no module defines the function data.lib.f"
    ]


@pytest.mark.parametrize("rule", ["time := 1", "time(x) := x", "time.now_ns := 1", "time.zone(x) := x"])
def test_name_of_a_rule_hides_the_builtins_below_it(tmp_path: Path, rule: str) -> None:
    """As for OPA. The engine would call the builtin, which nobody would know of."""
    assert refusals(tmp_path, f"package p\n\nallow := time.now_ns()\n{rule}\n") == [
        "p.rego: line 3: no module defines the function data.p.time.now_ns"
    ]


def test_rule_of_several_names_may_have_any(tmp_path: Path) -> None:
    rules = "allow := k.b.c + v.a\nv.a := 1\nk[x] := 2 if some x in [3]\nk.b.c := 4\n"
    (tmp_path / "p.rego").write_text(f"package p\n\n{rules}")
    assert started(tmp_path).evaluate(b"{}", None) == Evaluation("5")


def test_function_may_have_a_default_alone(tmp_path: Path) -> None:
    (tmp_path / "p.rego").write_text("package p\n\nallow := f(1)\ndefault f(_) := 2\n")
    assert started(tmp_path).evaluate(b"{}", None) == Evaluation("2")


def test_decision_that_no_rule_gives_names_those_that_are_there(tmp_path: Path) -> None:
    [refusal] = refusals(tmp_path, "package p\n\nalow := 1\n")
    assert 'no rule gives the decision "p/allow"; rules there: p/alow' in refusal


def test_mistakes_of_several_modules_are_named_at_once(tmp_path: Path) -> None:
    (tmp_path / "a.rego").write_text("package a\n\nx := \n")
    assert len(refusals(tmp_path, "package p\n\nallow {\n}\n")) == 2


def test_message_of_a_failed_evaluation_says_where_and_shows_no_value(tmp_path: Path) -> None:
    (tmp_path / "p.rego").write_text("package p\n\nallow := 1 if input.a\nallow := input.b if input.b\n")
    engine = started(tmp_path)
    with pytest.raises(DecisionError) as caught:
        engine.evaluate(b'{"a": 1, "b": "hunter2"}', None)
    assert caught.value.reason == "evaluation"
    assert f"{tmp_path}/p.rego: line 4" in str(caught.value)
    assert "hunter2" not in str(caught.value)


def test_decision_by_token_ends_with_the_token(tmp_path: Path) -> None:
    (tmp_path / "p.rego").write_text(
        'package p\n\nallow := io.jwt.decode_verify(input.t, {"secret": "k"})[0]\n'
    )
    # HS256 with the secret "k": exp 4000000000, nbf 3000000000
    token = (
        "eyJhbGciOiJIUzI1NiJ9.eyJleHAiOjQwMDAwMDAwMDAsIm5iZiI6MzAwMDAwMDAwMH0."
        "tpDRykgic7Z1Op3kRWnmEeOCwxNMcQ89OlqDSDQ9nLM"
    )
    times = iter((2_000_000_000.0, 3_500_000_000.0, 5_000_000_000.0))
    engine = EmbeddedEngine(config.Policy(paths=(tmp_path,), decision="p/allow"), clock=lambda: next(times))
    asyncio.run(engine.start())
    answers = [engine.evaluate(b'{"t": "%s"}' % token.encode(), None) for _ in range(3)]
    assert answers == [
        Evaluation("false", 3_000_000_000),
        Evaluation("true", 4_000_000_000),
        Evaluation("false", None),
    ]


def test_claim_that_is_no_time_matters_only_until_the_token_ends(tmp_path: Path) -> None:
    (tmp_path / "p.rego").write_text(
        f'package p\n\nallow := [valid | [valid, _, _] := io.jwt.decode_verify(input, {{"secret": "{SECRET}"}})]\n'
    )
    token = jwt.encode({"exp": 2000, "nbf": "x"}, SECRET, "HS256")
    times = iter((1000.0, 3000.0))
    engine = EmbeddedEngine(config.Policy(paths=(tmp_path,), decision="p/allow"), clock=lambda: next(times))
    asyncio.run(engine.start())
    answers = [engine.evaluate(json.dumps(token).encode(), None) for _ in range(2)]
    assert answers == [Evaluation("[]", 2000), Evaluation("[false]", None)]


def test_deep_input_is_refused_and_no_crash(tmp_path: Path) -> None:
    (tmp_path / "p.rego").write_text("package p\n\nallow := input.a\n")
    engine = started(tmp_path)
    with pytest.raises(DecisionError):
        engine.evaluate(b'{"a": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", None)


@pytest.mark.parametrize("before", ["", "not negative; "])  # what raises is evaluated again, guarded
def test_panic_of_the_engine_is_an_error_of_one_evaluation(tmp_path: Path, before: str) -> None:
    (tmp_path / "p.rego").write_text(
        "package p\n\n"
        f"allow := within if {{ {before}within := object.subset(input.all, input.some) }}\n"
        "negative if abs(input.n) != input.n\n"
        # What is replaced somewhere keeps its name everywhere, and so is regorus' own.
        "replaced if allow with object.subset as other\n"
        "other(_, _) := true\n"
    )
    engine = started(tmp_path)
    for _ in range(2):
        with pytest.raises(DecisionError, match="p/allow: the embedded engine panicked"):
            engine.evaluate(b'{"all": [1], "some": [], "n": "x"}', None)
        good = engine.evaluate(b'{"all": [1, 2], "some": [2], "n": 1}', None)
        assert good == Evaluation("true", None)


def test_rules_and_functions_of_a_package_in_several_files(tmp_path: Path) -> None:
    (tmp_path / "a.rego").write_text('package p\n\nallow := f(input.x) == "A" if contains(1, known)\n')
    (tmp_path / "b.rego").write_text(
        "package p\n\nf(x) := upper(x)\ncontains(a, b) if a < b\nknown := 2 if to_number(input.n) == 1\n"
    )
    engine = started(tmp_path)
    assert engine.evaluate(b'{"x": "a", "n": "1"}', None) == Evaluation("true")
    with pytest.raises(DecisionError) as caught:  # upper(1) fails, so the call is undefined
        engine.evaluate(b'{"x": 1, "n": "1"}', None)
    assert caught.value.reason == "undefined"


def test_engine_whose_last_user_is_another_thread_is_freed_by_its_own(tmp_path: Path) -> None:
    # regorus complains of an engine that is dropped elsewhere, which fails a test here.
    (tmp_path / "p.rego").write_text("package p\n\nallow := true\n")
    engines = [started(tmp_path)]
    thread = threading.Thread(target=engines.clear)
    thread.start()
    thread.join()
    assert started(tmp_path).evaluate(b"{}", None) == Evaluation("true")


@pytest.mark.parametrize("rules", ["x :=", "x := nosuch(1)", "x := y\n\ny := x", "x := json.marshal(1.50)"])
def test_mistake_may_be_thrown_away_by_any_thread(rules: str, tmp_path: Path) -> None:
    """A start that fails leaves no engine in its error's traceback: as above."""
    (tmp_path / "p.rego").write_text(f"package p\n\n{rules}\n")

    def fail() -> None:
        with pytest.raises(PolicyError) as caught:
            asyncio.run(EmbeddedEngine(config.Policy(paths=(tmp_path,), decision="p/x")).start())
        kept: list[object] = [caught]
        kept.append(kept)  # a circle, which is collected, not counted

    gc.collect()  # what others have left
    gc.disable()
    try:
        fail()
        thread = threading.Thread(target=gc.collect)
        thread.start()
        thread.join()
    finally:
        gc.enable()
