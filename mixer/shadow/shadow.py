"""The shadow: takes decisions after they are made, has them made again by the candidate, and compares."""

import asyncio
from collections import deque
from dataclasses import replace
from typing import Literal, get_args

import structlog
from prometheus_client import Counter

from mixer import config
from mixer.authz.decided import Decided, Observer, Shadowed
from mixer.errors import LoadError, StartError
from mixer.log import Throttle
from mixer.metrics import Metrics
from mixer.shadow.candidate import Candidate, GoneError, Verdict
from mixer.shadow.frames import question

AT_ONCE, AT_ONCE_BYTES = 128, 256 * 1024  # requests that are handed over together
SLICE = 16  # verdicts between which answers have their turn: less than half a millisecond
LINGER = 0.005  # seconds that requests and verdicts wait for others: for one alone the loop wakes as for many
FIRST_WAIT, LONGEST_WAIT = 1.0, 60.0  # seconds before a candidate that broke down is started again

Outcome = Literal["agree", "would_allow", "would_deny", "error"]
Skipped = Literal["sampled", "overload", "undecided", "unavailable", "shutdown"]

log = structlog.get_logger()


class Shadow:
    """Compares each decision that it is told of with the candidate's, if that has one, then tells `observer` of both.

    `observe` only queues, and what it is told was decided before: no answer waits for the candidate, or can be changed
    by it. The queue is bounded; what does not fit is skipped. All that is skipped is counted by its reason, and told to
    `observer` at once, without the candidate's part. `candidate` is None where its policies have yet to come.
    """

    def __init__(
        self,
        settings: config.Shadow,
        candidate: Candidate | None,
        metrics: Metrics,
        observer: Observer | None,
    ) -> None:
        self._candidate = candidate
        self._observer = observer
        self._sample = settings.sample
        self._timeout = settings.timeout
        self._max_records = settings.buffer.max_records
        self._max_bytes = settings.buffer.max_bytes
        self._queue: deque[tuple[Decided, int]] = deque()
        self._bytes = 0
        self._judged: deque[Decided] = deque()  # handed over, without a verdict yet
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._away: Skipped | None = "unavailable"
        self._throttle = Throttle()
        self._metrics = metrics
        self._outcomes: dict[tuple[str, Outcome], Counter] = {}
        self._skipped: dict[tuple[str, Skipped], Counter] = {}
        metrics.shadow_waiting.set_function(lambda: len(self._queue) + len(self._judged))

    async def start(self) -> None:
        """Raises `PolicyError` for a candidate that cannot be used, `StartError` where its process does not start."""
        if self._candidate is not None:
            await self._candidate.start()
            self._begin(self._candidate)

    async def exchange(self, candidate: Candidate) -> None:
        """Go on with another candidate, which is started; it judges what waits."""
        try:
            await self._stop()
        except BaseException:
            await candidate.close()
            raise
        before, self._candidate = self._candidate, candidate
        for decided in reversed(self._judged):
            self._queue.appendleft((decided, decided.size))
            self._bytes += decided.size
        self._judged.clear()
        waiting = [*self._queue]
        self._queue.clear()
        for decided, size in waiting:
            if decided.path in candidate.decisions:
                self._queue.append((decided, size))
            else:
                self._bytes -= size
                self._skip("unavailable", decided)
        self._begin(candidate)
        if before is not None:
            await before.close()

    def _begin(self, candidate: Candidate) -> None:
        self._started(candidate)
        self._wake.set()
        self._task = asyncio.create_task(self._run(candidate))

    def _started(self, candidate: Candidate) -> None:
        for live in candidate.decisions:
            for outcome in get_args(Outcome):
                self._outcomes[live, outcome] = self._metrics.shadow_decisions.labels(live, outcome)
            for reason in get_args(Skipped):
                self._skipped[live, reason] = self._metrics.shadow_skipped.labels(live, reason)
        self._away = None

    def observe(self, decided: Decided) -> None:
        """See `mixer.authz.decided.Observer`."""
        if self._candidate is None or decided.path not in self._candidate.decisions:
            self._tell(decided)
        elif decided.allowed is None or decided.document is None:
            self._skip("undecided", decided)
        elif not decided.drawn(self._sample):
            self._skip("sampled", decided)
        elif self._away is not None:
            self._skip(self._away, decided)
        elif len(self._queue) + len(self._judged) >= self._max_records:
            self._skip("overload", decided)
        else:
            size = decided.size
            if self._bytes + size > self._max_bytes:
                self._skip("overload", decided)
                return
            self._bytes += size
            self._queue.append((decided, size))
            self._wake.set()

    def status(self) -> str:
        """ "ok", or why there are no comparisons now."""
        if self._candidate is None:
            return "the candidate has no policies yet"
        return "ok" if self._away is None else "the candidate broke down and is started again"

    async def close(self) -> None:
        """Skip what waits and end the candidate."""
        await self._stop()
        self._give_up("shutdown")
        if self._candidate is not None:
            await self._candidate.close()

    async def _stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})

    async def _run(self, candidate: Candidate) -> None:
        wait = FIRST_WAIT
        while True:
            try:
                while True:
                    await self._wake.wait()
                    self._wake.clear()
                    await asyncio.sleep(LINGER)
                    while self._queue:
                        await self._judge(candidate)
                        wait = FIRST_WAIT
            except TimeoutError:
                self._blame(candidate, f"the evaluation took longer than {self._timeout:g} s, and was ended")
            except GoneError as error:
                self._blame(candidate, str(error))
            except Exception as error:  # whatever it is, it must not end the comparisons
                log.error("shadow_failed", exc_info=error)
            self._give_up("unavailable")
            await candidate.close()
            while self._away is not None:
                await asyncio.sleep(wait)
                wait = min(2 * wait, LONGEST_WAIT)
                try:
                    await candidate.start()
                except (LoadError, StartError) as error:
                    log.error("shadow_away", error=str(error))
                else:
                    self._started(candidate)

    async def _judge(self, candidate: Candidate) -> None:
        """Some of the queue. Raises `GoneError` or `TimeoutError`, with the culprit, if any, first in `_judged`."""
        candidate.check()
        questions: list[bytes] = []
        taken = 0
        while self._queue and len(questions) < AT_ONCE and taken < AT_ONCE_BYTES:
            decided, size = self._queue.popleft()
            self._bytes -= size
            taken += size
            self._judged.append(decided)
            questions.append(question(decided.path, decided.request.SerializeToString()))
        candidate.send(questions)
        while self._judged:
            async with asyncio.timeout(self._timeout):
                verdicts = await candidate.verdicts()
            for number, verdict in enumerate(verdicts, 1):
                self._settle(candidate, self._judged.popleft(), verdict)
                if number % SLICE == 0:
                    await asyncio.sleep(0)
            await asyncio.sleep(LINGER)

    def _blame(self, candidate: Candidate, error: str) -> None:
        if self._judged:
            self._settle(candidate, self._judged.popleft(), Verdict(None, None, error))

    def _settle(self, candidate: Candidate, decided: Decided, verdict: Verdict) -> None:
        outcome: Outcome
        if verdict.allowed is None:
            outcome = "error"
        elif verdict.allowed == decided.allowed:
            outcome = "agree"
        else:
            outcome = "would_allow" if verdict.allowed else "would_deny"
        self._outcomes[decided.path, outcome].inc()
        if outcome != "agree" and (held := self._throttle(outcome)) is not None:
            log.info(
                "shadow_differs",
                decision=decided.path,
                decision_id=decided.decision_id,
                outcome=outcome,
                error=verdict.error,
                held_back=held,
            )
        path = candidate.decisions[decided.path]
        shadowed = Shadowed(path, candidate.revision, outcome, verdict.result, verdict.error)
        self._tell(replace(decided, shadow=shadowed))

    def _skip(self, reason: Skipped, decided: Decided) -> None:
        self._skipped[decided.path, reason].inc()
        self._tell(decided)

    def _give_up(self, reason: Skipped) -> None:
        """Skip what waits, and what comes."""
        self._away = reason
        for decided in [*self._judged, *(decided for decided, _ in self._queue)]:
            self._skip(reason, decided)
        self._judged.clear()
        self._queue.clear()
        self._bytes = 0

    def _tell(self, decided: Decided) -> None:
        if self._observer is not None:
            self._observer(decided)
