"""`system.log.drop` and `system.log.mask`: which events the operator's policies leave out, and what they mask."""

import re
import time
from collections.abc import Callable

import orjson
import regorus
import structlog

from mixer.decisions.mask import Mask, masks
from mixer.policy.budget import Budget
from mixer.policy.dialect import known
from mixer.policy.nesting import nested
from mixer.policy.program import Program, rules_of
from mixer.policy.sources import Module, Sources

log = structlog.get_logger()

PACKAGE = "system/log"

_DATA = re.compile(r"\bdata\b")


class LogPolicy:
    """The rules of the package `system.log` in a set of policies, evaluated by the embedded engine.

    Raises `PolicyError` for rules that it cannot use. It belongs to the thread that makes it.
    """

    def __init__(
        self, loaded: Sources, clock: Callable[[], float] = time.time, budget: Budget | None = None
    ) -> None:
        self.rules: tuple[str, ...] = ()
        self._programs: dict[str, Program] = {}
        if (own := needed(loaded, "system.log")) is None:
            return
        there = rules_of(own.modules)
        rules = {name: f"{PACKAGE}/{name}" for name in ("drop", "mask")}
        self.rules = tuple(
            name for name, rule in rules.items() if any(f"{other}/".startswith(f"{rule}/") for other in there)
        )
        if self.rules:
            paths = [rules[name] for name in self.rules]
            program = Program(own, paths[0], others=paths[1:], clock=clock, budget=budget)
            self._programs = {name: program.of(rules[name]) for name in self.rules}

    def drops(self, event: str) -> bool:
        """Whether the event (JSON text) is left out. Raises `DecisionError` where the rule fails."""
        return self._value("drop", event) == "true"

    def masks(self, event: str) -> list[Mask]:
        """What is to be masked. Raises `DecisionError` where the rule fails, `MaskError` for what OPA refuses."""
        value = self._value("mask", event)
        return [] if value is None else masks(orjson.loads(value))

    def _value(self, rule: str, event: str) -> str | None:
        if (program := self._programs.get(rule)) is None:
            return None
        value = program.evaluate(event.encode())
        for line in program.take_prints():
            log.info("policy_print", text=line)
        return value


def needed(loaded: Sources, package: str) -> Sources | None:
    """What the rules of a package ("system.log") can reach: their own modules, and all policies and data where one of
    them says `data`; None where there are no such rules. Data may be large, and each program keeps its own."""
    own = tuple(module for module in loaded.modules if _is_of(module, package))
    if not own:
        return None
    if any(_DATA.search(module.source) for module in own):
        return loaded
    return Sources(own, {}, loaded.revision)


def _is_of(module: Module, package: str) -> bool:
    if package.partition(".")[0] not in module.source:
        return False
    if any(nested([module])):
        return True
    try:
        return str(regorus.Engine().add_policy(module.file, known(module.source))) == f"data.{package}"
    except RuntimeError:
        return True  # the program says what is wrong with it
