"""Modules and data made ready for regorus, and one decision evaluated over them.

What regorus lacks is supplied (`builtins`); a policy that uses what it lacks or has wrong is refused at load,
never decided otherwise. An engine of regorus belongs to the thread that made it, and so does a program.
"""

import copy
import os
import re
import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator
from typing import TYPE_CHECKING, Any

import orjson
import structlog

os.environ["RUST_LIB_BACKTRACE"] = (
    "0"  # regorus captures a backtrace with each error; 50 µs, and no use to anyone
)
import regorus

from mixer.errors import DecisionError, PolicyError, Problem
from mixer.policy.annotations import CALLS, Metadata
from mixer.policy.budget import WATCH, Budget, CutOffError, tick
from mixer.policy.builtins import Builtin, UnsupportedError, supplied
from mixer.policy.builtins.catalog import ARITY, HOLDING, MODULES, NATIVE, NETWORK, NONDETERMINISTIC, REFUSED
from mixer.policy.builtins.operands import string
from mixer.policy.compiled import Compiled, UnsupportedRuleError, UnsureError, read
from mixer.policy.dialect import known
from mixer.policy.engine import References
from mixer.policy.guard import add_guards, guarded_modules, is_panic
from mixer.policy.keywords import split
from mixer.policy.library import AS_PATTERN, DIRECT, FUNCTIONS, SOUND, WRAPPED, library
from mixer.policy.literals import Exposure, exposure
from mixer.policy.nesting import nested
from mixer.policy.patterns import rust
from mixer.policy.positions import Arrays, texts
from mixer.policy.prefixes import fillers
from mixer.policy.recursion import circles
from mixer.policy.references import Uses, analyse, documents, references
from mixer.policy.rewrite import PATTERN, AsOpa
from mixer.policy.sources import Module, Sources
from mixer.policy.syntax import Node, Pattern, functions, replaced, share_names
from mixer.policy.ticks import TICK, ticked
from mixer.policy.unfit import OPA_RUNS_IT, conflicts, unfit

if TYPE_CHECKING:
    from mixer.policy.builtins.numbers import Held
    from mixer.policy.jwt import Jwt
    from mixer.policy.network import Network

log = structlog.get_logger()

_UNDEFINED = '"<undefined>"'
_WHERE = re.compile(r"--> (?P<file>.+):(?P<line>\d+):(?P<column>\d+)\n")
_WHAT = re.compile(r"error: (?P<what>.+)")
_QUOTED = re.compile(r"`[^`]*`|\"[^\"]*\"")  # values of the request, which may be secret
_LONGEST = 64 * 1024 * 1024  # bytes of one module
# What regorus says of a policy that OPA's compiler would refuse; other errors may be those of the empty input.
_OF_THE_POLICY = ("is unsafe", "could not find function", "used before definition", "in default value")
_OFTEN = 100  # evaluations begun in vain
_ENTRY = "mixer_entry"  # package of the rule that names the decision where that is no single rule


# By thread, what programs of it left that the garbage collector found on another. An engine of regorus may only be
# freed by the thread that made it (else it complains, and is never freed), and the collector runs on any.
_LEFT: dict[int, list[dict[str, Any]]] = {}


class Program:
    """One decision of a set of modules. Raises `PolicyError` for modules that cannot be used.

    `decision`: a path, "envoy/authz/allow"; `others`: what `of` will be asked for. `strict_errors`: a builtin's error
    fails the evaluation; else its call is undefined. `base`: a `new_engine` that has the data already. `network`: for
    what waits for replies, where `evaluate` is called by `Network.decide`; None: such policies are refused.
    """

    def __init__(
        self,
        loaded: Sources,
        decision: str,
        *,
        others: Iterable[str] = (),
        strict_errors: bool = False,
        clock: Callable[[], float] = time.time,
        base: regorus.Engine | None = None,
        network: "Network | None" = None,
        budget: Budget | None = None,
    ) -> None:
        self._budget = budget if budget is not None and WATCH.start() else None
        self._thread = threading.get_ident()
        _LEFT.pop(self._thread, None)
        # No frame has an engine: an error could keep the frame, and another thread take it away with the error.
        has_data = base is not None
        self._base = base or new_engine()
        del base
        self._decision = decision
        self._strict_errors = strict_errors
        self._files = ", ".join(module.file for module in loaded.modules)
        self._rules = {path: "data." + path.replace("/", ".") for path in (decision, *others)}
        self._supplied: dict[str, Builtin] = {PATTERN: (1, _pattern)}
        self._jwt: Jwt | None = None
        self._network = network
        self._held: Held | None = None
        self._exposure = Exposure()
        self._holds = False  # whether more than the input can have numbers that `Held` must know of
        self.waits = False
        asts = _parsed(_readable(loaded.modules))
        self.uses = self._analyse(asts, loaded, clock)
        modules = self._rewritten(asts, loaded.data, clock)
        # Where a decision is no single rule, regorus must be asked for another that names it.
        entries = [path for path in self._rules if path not in self.uses.rules - self.uses.partial]
        for number, path in enumerate(entries):
            rule = f"package {_ENTRY}\ndecision_{number} := {self._rules[path]}"
            modules.append(Module(f"<{_ENTRY}_{number}>", rule))
            self._rules[path] = f"data.{_ENTRY}.decision_{number}"
        self._rule = self._rules[decision]
        rewritten = _parsed(modules)
        if self._budget is not None and (interruptible := ticked(rewritten)) is not None:
            modules, rewritten = interruptible, _parsed(interruptible)
        self._modules_guarded, guards = guarded_modules(rewritten)
        failing = self._supplied.keys() - SOUND
        self._modules = modules if strict_errors else guarded_modules(rewritten, only=failing)[0]
        if not has_data:
            self._base.add_data_json(orjson.dumps(loaded.data).decode())
        for name, builtin in self._supplied.items():
            self._base.add_extension(name, *builtin)
        self._base.add_extension(TICK, 0, tick)
        add_guards(self._base, guards, self._supplied)
        self._make_engines()
        self._prints = any(call.name == "print" for call in self.uses.calls)
        self._compile()
        self._references = {path: references(asts, path) for path in self._rules}
        self._left = 0  # evaluations left to the interpreter, beyond those that were not
        self._compiled = {} if strict_errors else self._all_compiled(asts, loaded.data, clock)

    @property
    def references(self) -> References:
        """What the decision can read."""
        return self._references[self._decision]

    def _all_compiled(
        self, asts: list[Node], data: dict[str, Any], clock: Callable[[], float]
    ) -> dict[str, "Compiled | UnsupportedRuleError"]:
        """Each decision that can be decided without the interpreter, or why it cannot."""
        jwt = {} if self._jwt is None else {name: call for name, (_, call) in self._jwt.builtins().items()}
        found: dict[str, Compiled | UnsupportedRuleError] = {}
        for path in self._references:
            try:
                found[path] = Compiled(asts, data, tuple(path.split("/")), jwt, clock)
            except UnsupportedRuleError as error:
                found[path] = error.with_traceback(None)
        return found

    def _make_engines(self) -> None:
        self._engine = _loaded(self._base, self._modules)
        self._guarded = _loaded(self._base, self._modules_guarded)

    def _analyse(self, asts: list[Node], loaded: Sources, clock: Callable[[], float]) -> Uses:
        """Check what the modules use, so that all mistakes are named at once."""
        uses, data = analyse(asts), loaded.data
        self._exposure, unusual = exposure(asts, uses, data, loaded.unusual)
        if self._exposure.any:
            from mixer.policy.builtins.numbers import HELD

            self._held = HELD
            calls = {call.name for call in uses.calls}
            self._holds = bool(self._exposure.kept) or any(name.startswith("io.jwt.") for name in calls)
        self._supply({call.name for call in uses.calls}, clock)
        if problems := [
            *self._unusable(uses, {"/".join(path) for path in functions(asts)}),
            *unfit(asts),
            *circles(asts),
            *conflicts(asts, data),
            *texts(asts, data),
            *unusual,
        ]:
            raise PolicyError(problems)
        return uses

    def _rewritten(self, asts: list[Node], data: dict[str, Any], clock: Callable[[], float]) -> list[Module]:
        by_with, own, arrays = replaced(asts), functions(asts), Arrays(data)
        metadata = Metadata(asts) if any(call.name in CALLS for call in self.uses.calls) else None
        editors = [AsOpa(ast, by_with, own, metadata, arrays) for ast in asts]
        modules = [Module(editor.file, editor.rewritten()) for editor in editors]
        used = {name for editor in editors for name in editor.used}
        patterns = {maker for name, (maker, *_) in AS_PATTERN.items() if name in used}
        self._supply({DIRECT.get(name, WRAPPED.get(name, name)) for name in used} | patterns, clock)
        modules += fillers(asts)
        needed = list(library(used))
        self._supply({call.name for call in analyse(_parsed(needed)).calls}, clock)
        modules += needed
        return modules

    def _supply(self, names: set[str], clock: Callable[[], float]) -> None:
        if any(name.startswith("io.jwt.") and name not in MODULES for name in names):
            from mixer.policy.jwt import Jwt  # and cryptography with it, which takes memory

            self._jwt = Jwt(clock)
            table = self._jwt.builtins()
            self._supplied |= {name: table[name] for name in names & table.keys()}
        if self._network is not None and names & NETWORK:
            self.waits = self._holds = True
            self._supplied |= self._network.builtins()
        for name in names:
            if (builtin := supplied(name)) is not None:
                self._supplied[name] = builtin
        if names & HOLDING:
            from mixer.policy.builtins.numbers import HELD

            self._held, self._holds = HELD, True

    def _unusable(self, uses: Uses, own: set[str]) -> Iterator[Problem]:
        """What the modules use and this engine has not, or has wrong."""
        there = (NATIVE | FUNCTIONS | CALLS | self._supplied.keys()) - (set() if self.waits else NETWORK)
        for call in uses.calls:
            if call.name not in there:
                if call.name in ARITY:
                    reason = f" ({REFUSED[call.name]})" if call.name in REFUSED else ""
                    what = f"the embedded engine has no {call.name}{reason}; {OPA_RUNS_IT}"
                else:
                    what = f"there is no function {call.name}"
                yield Problem(call.file, f"line {call.line}", what)
        for call in uses.functions:
            if call.name not in own:
                name = "data." + call.name.replace("/", ".")
                yield Problem(call.file, f"line {call.line}", f"no module defines the function {name}")
        for path in self._rules:
            yield from _not_given(path, uses, self._files)

    def _compile(self) -> None:
        """regorus compiles at the first evaluation; what that finds is a mistake of the policy, not of a request."""
        if self._budget is not None:
            WATCH.number += 1
            WATCH.running = self._budget.loading()
        try:
            self._guarded.eval_rule_as_json(self._rule)
        except RuntimeError as error:
            if self._budget is not None and (cut := WATCH.cut):
                raise PolicyError(
                    [Problem(self._files, "", f"{self._rule} over an empty input {cut}")]
                ) from None
            if any(words in str(error) for words in _OF_THE_POLICY):
                raise PolicyError([_problem(self._files, str(error))]) from None
        except BaseException as error:
            if not is_panic(error):
                raise
            self._make_engines()  # the empty input's fault, perhaps
        finally:
            if self._budget is not None:
                WATCH.running = None

    def __del__(self) -> None:
        if self._thread != threading.get_ident():
            _LEFT.setdefault(self._thread, []).append(self.__dict__)

    def of(self, decision: str) -> "Program":
        """Another decision of the same modules and data, which are not loaded again: clones of an engine share them.
        `decision` is one of `others`. Both belong to one thread."""
        other = copy.copy(self)
        other._decision, other._rule = decision, self._rules[decision]
        other._engine, other._guarded = self._engine.clone(), self._guarded.clone()
        other._engine.set_gather_prints(True)
        other._guarded.set_gather_prints(True)
        other._compile()
        return other

    @property
    def interpreted(self) -> str | None:
        """Why the decision needs the interpreter, None where it does not."""
        compiled = self._compiled.get(self._decision)
        return None if isinstance(compiled, Compiled) else str(compiled or "strict errors")

    def evaluate(self, document: bytes | None, value: object = None) -> str | None:
        """The decision over an input (JSON text; None: no input), as JSON text; None where no rule gives a value.

        `value`: what the text says, where that is at hand and no number in it is written in an unusual way
        (`policy.written`). Raises `DecisionError` for an evaluation that failed.
        """
        if (budget := self._budget) is not None:
            watch = WATCH
            watch.number += 1
            watch.running = budget
        try:
            if self._jwt is not None:
                self._jwt.reset()
            if isinstance(compiled := self._compiled.get(self._decision), Compiled):
                try:
                    decision = compiled.evaluate(read(document) if value is None else value)
                except UnsureError as error:
                    self._leave(error)
                    if self._jwt is not None:
                        self._jwt.reset()
                else:
                    self._left -= self._left > 0
                    return decision
            return self._interpreted(None if document is None else document.decode(), usual=value is not None)
        except CutOffError as error:
            raise DecisionError("limit", f"{self._decision} {error}") from None
        finally:
            if budget is not None:
                watch.running = None

    def _leave(self, error: UnsureError) -> None:
        """The interpreter decides once more; where it has to so often, it is not tried without it any longer."""
        self._left += 1
        if self._left == _OFTEN:
            log.info("policy_interpreted", decision=self._decision, because=str(error))
            self._compiled = {**self._compiled, self._decision: UnsupportedRuleError(str(error))}

    def _interpreted(self, document: str | None, *, usual: bool = False) -> str | None:
        """`usual`: all numbers of the document are written as usual."""
        held = self._held
        if held is None or (usual and not self._holds):
            return self._asked(document)
        try:
            held.begin(document, self._exposure)
            if document is not None and not usual:
                held.watch(document)
            decision = self._asked(document)
            return None if decision is None else held.checked(held.written(decision))
        except UnsupportedError as error:
            raise DecisionError("evaluation", f"{self._decision}: {error}") from None
        finally:
            held.end()

    def _asked(self, document: str | None) -> str | None:
        try:
            if document is not None:
                self._engine.set_input_json(document)
            decision: str = self._engine.eval_rule_as_json(self._rule)
        except RuntimeError as error:
            self._go_on()
            if self._strict_errors:
                raise DecisionError("evaluation", _failure(self._decision, str(error))) from None
            decision = self._evaluate_guarded(document)
        except BaseException as error:
            raise self._recovered(error) from None
        return None if decision == _UNDEFINED and not self._is_text(document) else decision

    def _is_text(self, document: str | None) -> bool:
        """Whether the last decision is not undefined but the text that regorus tells it by."""
        if not self._supplied.keys() & {"mixer.template", "strings.render_template"}:
            return False
        if document is not None:
            self._guarded.set_input_json(document)
        return "result" in orjson.loads(self._guarded.eval_query_as_json(self._rule))

    def _evaluate_guarded(self, document: str | None) -> str:
        try:
            if document is not None:
                self._guarded.set_input_json(document)
            return self._guarded.eval_rule_as_json(self._rule)  # type: ignore[no-any-return]
        except RuntimeError as error:
            self._go_on()
            raise DecisionError("evaluation", _failure(self._decision, str(error))) from None
        except BaseException as error:
            raise self._recovered(error) from None
        finally:
            self._guarded.take_prints()

    def _go_on(self) -> None:
        """Raises `CutOffError` where that is what regorus was ended by."""
        if self._budget is not None and (cut := WATCH.cut):
            raise CutOffError(cut)

    def _recovered(self, error: BaseException) -> BaseException:
        """What to raise for an error; for a panic one of ours. Its engine would keep failing, so there are new ones."""
        if not is_panic(error):
            return error
        self._make_engines()
        return DecisionError("evaluation", f"{self._decision}: the embedded engine panicked")

    @property
    def valid_until(self) -> float | None:
        """Until when the last decision holds for an equal input (Unix seconds), or None."""
        return self._jwt.valid_until if self._jwt is not None else None

    def take_prints(self) -> list[str]:
        """What the last evaluation printed."""
        return self._engine.take_prints() if self._prints else []


def rules_of(modules: Iterable[Module]) -> set[str]:
    """The rules and functions that modules define, "envoy/authz/allow". Raises `PolicyError` for what is no Rego."""
    return analyse(_parsed(Module(module.file, known(module.source)) for module in _parsable(modules))).rules


def referenced(
    modules: Iterable[Module], decision: str, unstable: Collection[str] = NONDETERMINISTIC
) -> References:
    """`references` of modules that need not be fit for regorus, only for its parser. Raises `PolicyError`."""
    modules = tuple(modules)
    asts = _parsed(_readable(modules))
    if problems := list(_not_given(decision, analyse(asts), ", ".join(module.file for module in modules))):
        raise PolicyError(problems)
    return references(asts, decision, unstable)


def documents_read(modules: Iterable[Module], decision: str) -> frozenset[Pattern]:
    """`documents` of modules that `referenced` takes."""
    return documents(_parsed(_readable(modules)), decision)


def _not_given(decision: str, uses: Uses, files: str) -> Iterator[Problem]:
    """A problem where no rule gives the decision."""
    if not any(rule == decision or rule.startswith(decision + "/") for rule in uses.rules):
        package = decision.rpartition("/")[0]
        near = sorted(rule for rule in uses.rules if rule.startswith(package + "/"))
        there = ", ".join((near or sorted(uses.rules))[:8])
        yield Problem(files, "", f'no rule gives the decision "{decision}"; rules there: {there}')


def new_engine() -> regorus.Engine:
    """An engine without modules and data."""
    engine = regorus.Engine()
    # A token or a certificate in a policy is longer than the 1,024 columns that regorus allows by itself.
    engine.set_policy_length_config(max_col=_LONGEST, max_file_bytes=_LONGEST, max_lines=_LONGEST)
    return engine


def _loaded(base: regorus.Engine, modules: Iterable[Module]) -> regorus.Engine:
    engine = base.clone()
    try:
        engine.set_gather_prints(True)
        for module in modules:
            engine.add_policy(module.file, module.source)
        return engine
    finally:
        del base, engine


def _parsable(modules: Iterable[Module]) -> tuple[Module, ...]:
    modules = tuple(modules)
    if problems := list(nested(modules)):
        raise PolicyError(problems)
    return modules


def _readable(modules: Iterable[Module]) -> Iterator[Module]:
    """The modules in the Rego that regorus' parser knows. Raises `PolicyError` for what it would not be done with."""
    for module in _parsable(modules):
        for text in split(known(module.source)):
            yield Module(module.file, text)


def _parsed(modules: Iterable[Module]) -> list[Node]:
    """The modules' syntax trees, each parsed by itself, so that all mistakes are named at once."""
    problems: list[Problem] = []
    asts: list[Node] = []
    for module in modules:
        parsed = _parse(module)
        if isinstance(parsed, Problem):
            problems.append(parsed)
        else:
            asts += parsed
    if problems:
        raise PolicyError(problems)
    share_names(asts)
    return asts


def _parse(module: Module) -> list[Node] | Problem:
    engine = new_engine()
    try:
        engine.add_policy(module.file, module.source)
        found: list[Node] = orjson.loads(engine.get_ast_as_json())
    except RuntimeError as error:
        return _problem(module.file, str(error))
    return found


def _pattern(operand: object) -> str:
    return rust(string(operand))


def _failure(file: str, message: str) -> str:
    """regorus' message on an evaluation as ours; no value of the request."""
    return _QUOTED.sub("…", str(_problem(file, message)))


def _problem(file: str, message: str) -> Problem:
    """regorus' message as ours: where, and what."""
    where, what = _WHERE.search(message), _WHAT.search(message)
    text = what["what"] if what else message.partition("\n")[0]
    text = text.partition(" (path [")[0]  # what follows shows data
    if where is None:
        return Problem(file, "", text)
    return Problem(where["file"], f"line {where['line']}, column {where['column']}", text)
