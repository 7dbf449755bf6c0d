"""What decisions of an OPA server read of their input, and whether that still holds.

Only what the policies can read is sent. That is sound only while the policies are those that were looked at, and an OPA
server may change them at any moment. So each batch of decisions is confirmed before it counts:

1. A witness, a path below data that only this process knows, is asked for. OPA keeps the compiled query of each path
   until its store changes (policies or data, by whatever way: REST, bundles, files, a restart), and its metrics say of
   each answer whether the compiled query was still there (`counter_server_query_cache_hit`).
2. The policies are listed, and what the decisions read is derived from them.
3. After each batch, and sent together with it (`opa_lanes`), the witness is asked for again. A hit: nothing has been
   committed since 1, so the policies that decided are those of 2. A miss: the decisions do not count. They are asked
   for again with the whole input, which needs no such promise, until the policies have been read anew.

A witness is asked for by one request at a time, so each lane has its own, and it is given up when an answer to it is
lost: else a request that OPA gets to late could bring its query back after a change, and hide it. A new one vouches for
nothing until one that is older than the policies that were read, and that has been asked for after it, is still there:
for that, one more is kept. All of it holds for one server: behind a load balancer, set `policy.opa.input: all`.
"""

import asyncio
import contextlib
import time
import uuid
from typing import Final

import orjson
import structlog

from mixer.errors import DecisionError, MixerError, PolicyError, StartError
from mixer.policy.deps import IN_OPA, foreign
from mixer.policy.engine import WHOLE_INPUT, References
from mixer.policy.opa_lanes import Answer, Lane, LostError, Request
from mixer.policy.opa_push import MARKER, Marker, Push
from mixer.policy.opa_server import AwayError, OpaServer, RefusedError, modules
from mixer.policy.program import referenced
from mixer.policy.sources import Module

log = structlog.get_logger()

_WITNESS: Final = "mixer_witness"  # the document below data that witnesses stand in, though there is none
_CHANGING: Final = "the OPA server may change its policies at any time"
_BEAT: Final = 1.0  # seconds from one look at the server to the next where no check asks
_QUIET: Final = 5.0  # seconds; policies that change again within them are read with a growing pause
_LONGEST: Final = 60.0  # seconds between two attempts
_WAIT: Final = 0.05  # seconds between two looks at another's push


class Reading:
    """Of one server, for all of its decisions. With `push`, the policies are ours, and are put back where they are
    missing; nothing decides meanwhile."""

    def __init__(self, server: OpaServer, push: Push | None, *, narrow: bool) -> None:
        self._server = server
        self._push = push
        self._narrow = narrow
        self._whole = References(WHOLE_INPUT, (_CHANGING,))
        self._references: dict[str, References] = {}
        self._known: tuple[tuple[Module, ...], str | None] | None = None  # see `_read`
        self._witness: str | None = None  # while the policies are known
        self._lost: dict[
            int, str | None
        ] = {}  # by lane: the witness in place of one that was lost, None until then
        self._sparing = asyncio.Lock()
        self._epoch = 0
        self._lock = asyncio.Lock()
        self._learning: asyncio.Task[None] | None = None
        self._keeper: asyncio.Task[None] | None = None
        self._wake = asyncio.Event()
        self._learned_at = self._confirmed_at = self._not_before = 0.0
        self._pause = 0.0
        self._trouble: str | None = None
        self._told: dict[str, str] = {}

    def add(self, decision: str) -> None:
        if decision not in self._references:
            self._references[decision] = self._whole if self._known is None else self._read(decision)

    def of(self, decision: str) -> References:
        """A new object where anything may be otherwise than before."""
        return self._references[decision]

    @property
    def trouble(self) -> str | None:
        """Why pushed policies are not in place, or None."""
        return self._trouble if self._push is not None and self._witness is None else None

    async def start(self) -> None:
        """Read once, and go on by the clock. Raises `PolicyError` for policies that OPA refuses, `StartError` for a
        server that takes none; one that is away does not fail the start."""
        if self._push is not None or self._narrow:
            try:
                await self._learn()
            except AwayError as error:
                self._trouble = str(error)
            except RefusedError as error:
                if self._push is not None:
                    raise StartError(str(error)) from None
            self._keeper = asyncio.create_task(self._keep())

    async def close(self) -> None:
        tasks = [task for task in (self._keeper, self._learning) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def ready(self, decision: str, lane: Lane) -> int | None:
        """What `holds` is to be asked with after an evaluation; None: the evaluation needs no confirmation. Waits for
        policies to be pushed; raises `DecisionError` where they cannot be."""
        while (epoch := await self._standing_now(decision)) is not None:
            if self._lost.get(lane.number, "") is not None:
                break
            await self._renew(lane)
        return epoch

    async def _standing_now(self, decision: str) -> int | None:
        if self._push is None:
            return None if self._references[decision].paths == WHOLE_INPUT else self._epoch
        if self._witness is None:
            if time.monotonic() < self._not_before:
                raise DecisionError("unavailable", self._trouble or "policies are not pushed yet")
            try:
                await asyncio.shield(self._learn_once())
            except MixerError as error:
                raise DecisionError("unavailable", str(error)) from None
        return self._epoch

    def witness(self, lane: Lane) -> Request:
        """What is to be asked for on a lane, after an evaluation there."""
        return _asked(self._lost.get(lane.number) or f"{self._witness}-{lane.number}")

    async def _renew(self, lane: Lane) -> None:
        """Another witness for a lane that has lost its own, if nothing has changed meanwhile."""
        async with self._sparing:
            epoch, witness = self._epoch, uuid.uuid4().hex
            if self._witness is None or self._lost.get(lane.number, "") is not None:
                return
            try:
                spare = f"{self._witness}-{self._server.lanes.count}"
                _, answer = await self._server.exchange(lane, [_asked(witness), _asked(spare)])
            except (DecisionError, LostError, asyncio.CancelledError) as error:
                if epoch == self._epoch:
                    self._forget(str(error) or "nobody waits for the answer")
                if isinstance(error, asyncio.CancelledError):
                    raise
                return
            if self.holds(epoch, answer):
                self._lost[lane.number] = witness

    def holds(self, epoch: int, answer: Answer) -> bool:
        """Whether nothing has changed in the server since `ready`, by the answer to `witness`."""
        if epoch != self._epoch or self._witness is None:
            return False
        try:
            if _is_hit(self._server.answer(answer)):
                self._confirmed_at = time.monotonic()
                return True
        except (DecisionError, RefusedError) as error:
            self._forget(str(error))
            return False
        self._forget("policies or data have changed")
        return False

    def lost(self, epoch: int, lane: Lane) -> None:
        """The answer to `witness` will not be seen."""
        if epoch == self._epoch:
            self._lost[lane.number] = None

    async def still_holds(self, epoch: int, lane: Lane) -> bool:
        """`holds`, after asking."""
        if epoch != self._epoch or self._witness is None:
            return False
        if self._lost.get(lane.number, "") is None:
            await self._renew(lane)
            return epoch == self._epoch
        try:
            (answer,) = await self._server.exchange(lane, [self.witness(lane)])
        except (DecisionError, LostError, asyncio.CancelledError) as error:
            self.lost(epoch, lane)
            if isinstance(error, asyncio.CancelledError):
                raise
            return False
        return self.holds(epoch, answer)

    def _forget(self, why: str) -> None:
        log.info("opa_changed", url=self._server.url, reason=why)
        self._epoch += 1
        self._witness = self._known = None
        self._lost.clear()
        now = time.monotonic()
        if self._push is None:
            self._references = dict.fromkeys(self._references, self._whole)
            self._pause = min(2 * self._pause or 0.5, _LONGEST) if now - self._learned_at < _QUIET else 0.0
            self._not_before = now + self._pause
        self._wake.set()

    def _learn_once(self) -> "asyncio.Task[None]":
        """One attempt at a time, whoever waits for it."""
        if self._learning is None or self._learning.done():
            self._learning = asyncio.create_task(self._learn())
            self._learning.add_done_callback(_retrieved)
        return self._learning

    async def _learn(self) -> None:
        """Raises `AwayError`, `RefusedError`, and `PolicyError` for what cannot be pushed."""
        async with self._lock:
            if self._witness is not None:
                return
            try:
                await self._standing()
            except (PolicyError, RefusedError) as error:
                self._failed(error)
                raise
            except AwayError as error:
                self._trouble = str(error)
                raise

    async def _standing(self) -> None:
        """The witness before the policies, or a change between the two would not be seen."""
        while True:
            witness = uuid.uuid4().hex
            try:
                for number in range(self._server.lanes.count + 1):
                    _is_hit(await self._server.evaluate(*_asked(f"{witness}-{number}")))
            except DecisionError as error:
                raise AwayError(str(error)) from None
            policies = await self._server.policies()
            if self._push is None:
                break
            marker = Marker.read(await self._server.document(MARKER))
            stands = self._push.stands(policies, marker)
            if stands in ("ours", "others"):
                break
            if stands == "under way":
                await asyncio.sleep(_WAIT)
            else:
                await self._push.put(policies, marker)
        self._known = modules(policies), await self._compiled()
        self._references = {decision: self._read(decision) for decision in self._references}
        self._epoch += 1
        self._witness = witness
        self._lost.clear()
        self._learned_at = self._confirmed_at = time.monotonic()
        self._not_before, self._trouble = 0.0, None
        if self._push is not None:
            self._pause = 0.0

    async def _compiled(self) -> str | None:
        """A bundle with rules in WebAssembly, which are not among the policies."""
        bundles = await self._server.document("system/bundles")
        for name, bundle in (bundles if isinstance(bundles, dict) else {}).items():
            manifest = bundle.get("manifest") if isinstance(bundle, dict) else None
            if isinstance(bundle, dict) and (
                bundle.get("wasm") or (isinstance(manifest, dict) and manifest.get("wasm"))
            ):
                return str(name)
        return None

    def _read(self, decision: str) -> References:
        """What a decision reads by the modules known; all of the input where that cannot be told."""
        assert self._known is not None  # noqa: S101 (for the type checker)
        given, compiled = self._known
        try:
            found = referenced(given, decision, IN_OPA)
            others = foreign(given, decision, self._push.data) if self._push is not None else ()
            why = f"bundle {compiled} has rules in WebAssembly" if compiled is not None else None
        except PolicyError as error:
            found, others, why = References(WHOLE_INPUT), (), f"{error.problems[0]}"
        if why is not None and self._narrow and self._told.get(decision) != why:
            log.warning("opa_input_whole", decision=decision, reason=why)
        self._told[decision] = why or ""
        paths = found.paths if self._narrow and why is None else WHOLE_INPUT
        if self._push is None:
            return References(paths, (_CHANGING,))
        return References(paths, (*found.uncacheable, *others, *(() if why is None else (why,))))

    def _failed(self, error: MixerError) -> None:
        """Not again at once: each attempt has OPA compile all of its policies."""
        self._trouble = str(error)
        self._pause = min(2 * self._pause or 1.0, _LONGEST)
        self._not_before = time.monotonic() + self._pause
        log.warning("opa_policies_unread", url=self._server.url, error=self._trouble, again_in=self._pause)

    async def _keep(self) -> None:
        """Look at the server where no check does, so that a change is seen within a second."""
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_BEAT):  # Python 3.11's wait_for may lose a cancellation
                    await self._wake.wait()
            self._wake.clear()
            now = time.monotonic()
            try:
                if self._witness is not None:
                    if now - self._confirmed_at >= _BEAT:
                        async with self._server.lanes.take() as lane:
                            await self.still_holds(self._epoch, lane)
                elif now >= self._not_before:
                    await asyncio.shield(self._learn_once())
            except MixerError:
                pass  # told already
            except Exception as error:  # whatever it is, the next look may go well
                log.error("opa_reading_failed", url=self._server.url, exc_info=error)


def _asked(witness: str) -> Request:
    return f"data/{_WITNESS}/{witness}?metrics=true", b'{"input":0}'


def _is_hit(answer: bytes) -> bool:
    """Whether the server still had the witness' query. Raises `RefusedError`."""
    try:
        return int(orjson.loads(answer)["metrics"]["counter_server_query_cache_hit"]) == 1
    except (ValueError, KeyError, TypeError):
        raise RefusedError(200, "to tell its metrics", None) from None


def _retrieved(task: "asyncio.Task[None]") -> None:
    """Nobody may be left who waits for it."""
    if not task.cancelled():
        task.exception()
