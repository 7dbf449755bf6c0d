"""The embedded engine: microsoft/regorus in this process, on the event loop's thread.

An engine of regorus belongs to the thread that made it, so it is made in `start`. What regorus lacks is supplied
(`builtins`, `jwt`); a policy that uses what it lacks or has wrong is refused at load, never decided otherwise.
"""

import os
import re
import time
from collections.abc import Callable, Iterator

import orjson
import structlog

os.environ["RUST_LIB_BACKTRACE"] = (
    "0"  # regorus captures a backtrace with each error; 50 µs, and no use to anyone
)
import regorus

from mixer import config
from mixer.errors import DecisionError, PolicyError, Problem
from mixer.policy import sources
from mixer.policy.builtins import DIFFERENT, NATIVE, NONDETERMINISTIC, SUPPLIED
from mixer.policy.engine import Evaluation, References
from mixer.policy.guard import add_guards, guarded_modules
from mixer.policy.jwt import Jwt
from mixer.policy.references import Uses, analyse
from mixer.policy.sources import Module, Sources

log = structlog.get_logger()

_UNDEFINED = '"<undefined>"'
_WHERE = re.compile(r"--> (?P<file>.+):(?P<line>\d+):(?P<column>\d+)\n")
_WHAT = re.compile(r"error: (?P<what>.+)")
_QUOTED = re.compile(r"`[^`]*`|\"[^\"]*\"")  # values of the request, which may be secret
_ENTRY = "mixer_entry"  # package of the rule that names the decision where that is no single rule
_OPA_RUNS_IT = "engine: opa runs it"


class EmbeddedEngine:
    """See `PolicyEngine`. One evaluation takes 5 to 50 µs, on the loop."""

    name = "embedded"

    def __init__(self, settings: config.Policy, clock: Callable[[], float] = time.time) -> None:
        self._settings = settings
        self._jwt = Jwt(clock)
        self._supplied = SUPPLIED | self._jwt.builtins()
        self.decision = settings.decision
        self._rule = "data." + settings.decision.replace("/", ".")
        self.revision = ""
        self.references = References(frozenset())

    async def start(self) -> None:
        loaded = sources.load(self._settings.paths)
        uses = self._analyse(loaded)
        modules = list(loaded.modules)
        if self.decision not in uses.rules:
            modules.append(Module(f"<{_ENTRY}>", f"package {_ENTRY}\ndecision := {self._rule}"))
            self._rule = f"data.{_ENTRY}.decision"
        base = regorus.Engine()
        base.add_data_json(orjson.dumps(loaded.data).decode())
        for name, (arity, function) in self._supplied.items():
            base.add_extension(name, arity, function)
        self._engine = base.clone()
        for module in modules:
            self._engine.add_policy(module.file, module.source)
        self._guarded = base.clone()
        add_guards(self._guarded, uses.calls, self._supplied)
        for module in guarded_modules(modules, uses.calls):
            self._guarded.add_policy(module.file, module.source)
        for engine in (self._engine, self._guarded):
            engine.set_gather_prints(True)
        self._prints = any(call.name == "print" for call in uses.calls)
        self._compile()
        self.revision = loaded.revision
        clocks = [
            f"{call.name} ({call.file}:{call.line})" for call in uses.calls if call.name in NONDETERMINISTIC
        ]
        self.references = References(frozenset(uses.paths), tuple(clocks))

    def _analyse(self, loaded: Sources) -> Uses:
        """Parse each module by itself, so that all mistakes are named at once, and check what they use."""
        problems: list[Problem] = []
        asts = []
        for module in loaded.modules:
            engine = regorus.Engine()
            try:
                engine.add_policy(module.file, module.source)
            except RuntimeError as error:
                problems.append(_problem(module.file, str(error)))
                continue
            asts += orjson.loads(engine.get_ast_as_json())
        if problems:
            raise PolicyError(problems)
        uses = analyse(asts)
        if problems := list(self._unusable(uses)):
            raise PolicyError(problems)
        return uses

    def _unusable(self, uses: Uses) -> Iterator[Problem]:
        """What the modules use and this engine has not, or has wrong."""
        for call in uses.calls:
            where, name = f"line {call.line}", call.name
            if name in DIFFERENT:
                yield Problem(
                    call.file, where, f"the embedded engine answers {name} otherwise than OPA; {_OPA_RUNS_IT}"
                )
            elif name not in NATIVE and name not in self._supplied:
                yield Problem(
                    call.file,
                    where,
                    f"the embedded engine has no function {name}; if OPA has it, {_OPA_RUNS_IT}",
                )
        for call in uses.functions:
            if call.name not in uses.rules:
                name = "data." + call.name.replace("/", ".")
                yield Problem(call.file, f"line {call.line}", f"no module defines the function {name}")
        if not any(rule == self.decision or rule.startswith(self.decision + "/") for rule in uses.rules):
            package = self.decision.rpartition("/")[0]
            near = sorted(rule for rule in uses.rules if rule.startswith(package + "/")) or sorted(uses.rules)
            files = ", ".join(str(path) for path in self._settings.paths)
            there = ", ".join(near[:8])
            yield Problem(files, "", f'no rule gives the decision "{self.decision}"; rules there: {there}')

    def _compile(self) -> None:
        """regorus compiles at the first evaluation; what that finds is a mistake of the policy, not of a request."""
        for engine in (self._engine, self._guarded):
            engine.set_input_json("{}")
        try:
            self._guarded.eval_rule_as_json(self._rule)
        except RuntimeError as error:
            if "is unsafe" in str(error) or "could not find function" in str(error):
                raise PolicyError([_problem(self._settings.paths[0].name, str(error))]) from None

    async def evaluate(self, document: bytes, timeout: float | None) -> Evaluation:
        text = document.decode()
        self._jwt.reset()
        try:
            self._engine.set_input_json(text)
            decision = self._engine.eval_rule_as_json(self._rule)
        except RuntimeError:
            decision = self._evaluate_guarded(text)
        if self._prints:
            for line in self._engine.take_prints():
                log.info("policy_print", text=line)
        if decision == _UNDEFINED:
            raise DecisionError("undefined", f"decision {self.decision} is undefined for this request")
        return Evaluation(decision, self._jwt.valid_until)

    def _evaluate_guarded(self, text: str) -> str:
        try:
            self._guarded.set_input_json(text)
            return self._guarded.eval_rule_as_json(self._rule)  # type: ignore[no-any-return]
        except RuntimeError as error:
            raise DecisionError("evaluation", str(_problem(self.decision, str(error)))) from None
        finally:
            self._guarded.take_prints()

    async def ready(self) -> str | None:
        return None

    async def close(self) -> None:
        pass


def _problem(file: str, message: str) -> Problem:
    """regorus' message as ours: where, and what; no value of the request."""
    where, what = _WHERE.search(message), _WHAT.search(message)
    text = _QUOTED.sub("…", what["what"] if what else message.partition("\n")[0])
    if where is None:
        return Problem(file, "", text)
    return Problem(where["file"], f"line {where['line']}, column {where['column']}", text)
