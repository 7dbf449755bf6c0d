"""The embedded engine: microsoft/regorus in this process, on the event loop's thread; see `policy.program`."""

import copy
import time
from collections.abc import Awaitable, Callable, Sequence

import structlog

from mixer import config
from mixer.errors import DecisionError
from mixer.policy.budget import budget_of
from mixer.policy.engine import Evaluation, References
from mixer.policy.network import Network
from mixer.policy.program import Program, new_engine
from mixer.policy.slices import fill
from mixer.policy.sources import Sources, sources_of

log = structlog.get_logger()


class EmbeddedEngine:
    """See `PolicyEngine`. One evaluation takes 2 to 50 µs, on the loop; what waits for replies gives way meanwhile."""

    name = "embedded"

    def __init__(
        self,
        settings: config.Policy,
        clock: Callable[[], float] = time.time,
        *,
        loaded: Sources | None = None,
        network: Network | None = None,
        others: Sequence[str] = (),
    ) -> None:
        """`loaded`: the policies and data; else they are those of `settings`. `network`: one that outlives this engine;
        else it has its own. `others`: what `of` will be asked for beside `policy.decisions`."""
        self._settings = settings
        self._own_network = network is None
        self._network = network or Network(settings.http)
        self._others = others
        self._loaded = loaded
        self._clock = clock
        self.decision = settings.decision
        self.revision = ""
        self.references = References(frozenset())

    async def start(self) -> None:
        loaded, self._loaded = self._loaded or sources_of(self._settings), None
        base = new_engine()
        others = (*self._settings.decisions.values(), *self._others)
        try:
            await fill(base, loaded.data)
            program = Program(
                loaded,
                self.decision,
                others=others,
                clock=self._clock,
                base=base,
                network=self._network,
                budget=budget_of(self._settings),
            )
        finally:
            del base  # see `Program`
        self._ask(program)
        self.revision = loaded.revision

    def _ask(self, program: Program) -> None:
        self._program = program
        self.references = program.references

    @property
    def interpreted(self) -> str | None:
        """Why evaluations need the interpreter ("authz.rego:12: with"), None where they do not."""
        return self._program.interpreted

    def of(self, decision: str) -> "EmbeddedEngine":
        other = copy.copy(self)
        other.decision = decision
        other._ask(self._program.of(decision))
        return other

    def evaluate(
        self, document: bytes, timeout: float | None, value: object = None
    ) -> Evaluation | Awaitable[Evaluation]:
        if self._program.waits:
            return self._network.decide(lambda: self._evaluate(document, value), timeout)
        return self._evaluate(document, value)

    def _evaluate(self, document: bytes, value: object) -> Evaluation:
        try:
            decision = self._program.evaluate(document, value)
        except DecisionError:
            self._program.take_prints()
            raise
        for line in self._program.take_prints():
            log.info("policy_print", text=line)
        if decision is None:
            raise DecisionError("undefined", f"decision {self.decision} is undefined for this request")
        return Evaluation(decision, self._program.valid_until)

    async def ready(self) -> str | None:
        return None

    async def close(self) -> None:
        if self._own_network:
            await self._network.close()
