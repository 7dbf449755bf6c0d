"""The decision log: an observer of Check that makes, masks and hands on an event for each decision, afterwards."""

import asyncio
import json
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, get_args

import orjson
import structlog
from envoy.service.auth.v3.external_auth_pb2 import CheckRequest

from mixer import config
from mixer.authz.decided import Decided
from mixer.decisions.differences import differences
from mixer.decisions.event import SCHEMA, DecisionRecord, event_of, outcome_of
from mixer.decisions.mask import Event, Mask, MaskError
from mixer.decisions.policy import LogPolicy
from mixer.decisions.secrets import Secrets
from mixer.errors import DecisionError
from mixer.log import Throttle
from mixer.metrics import Metrics
from mixer.telemetry.sink import Sink

log = structlog.get_logger()

LINGER = 0.01  # seconds that decisions wait: answers go out first, and events come in batches
# Seconds for events, then seconds for answers, in which the loop may be idle: without a pause of its own, the thread of
# the front that brings the next calls would get Python's lock only every 5 ms.
SLICE = PAUSE = 0.001

NO_BUNDLES: Mapping[str, str] = {}

Reason = Literal["sampled", "policy", "drop_failed", "mask_failed", "failed", "buffer_full", "shutdown"]


class DecisionLog:
    """Takes decisions from Check and writes their events to every sink.

    `observe` only queues. The queue is bounded by decisions and by bytes; what does not fit, and every other event that
    is not written, is counted by its reason in `mixer_decision_log_dropped`. An event whose drop or mask rule fails is
    not written, least of all unmasked.

    `policy` is `system.log` of the policies in use (None: there is none), `bundles` the revisions of the bundles that
    these came in, by name. Both may be exchanged with the policies: an event is made by what they were at its decision.
    `build` makes the whole input of a request that was read before; None: events show what the decision was made from.
    """

    def __init__(
        self,
        settings: config.DecisionLog,
        sinks: Sequence[Sink[DecisionRecord]],
        labels: Mapping[str, str],
        metrics: Metrics,
        *,
        policy: LogPolicy | None,
        build: Callable[[CheckRequest], Any] | None,
        bundles: Mapping[str, str] = NO_BUNDLES,
    ) -> None:
        self.policy = policy
        self.bundles = bundles
        self.sinks = tuple(sinks)
        self._labels = labels
        self._build = build
        self._secrets = Secrets(settings.secret_headers)
        self._shares = {"allowed": settings.sample.allowed, "denied": settings.sample.denied, "error": 1.0}
        self._max_records = settings.buffer.max_records
        self._max_bytes = settings.buffer.max_bytes
        self._queue: deque[tuple[Decided, LogPolicy | None, Mapping[str, str], int]] = deque()
        self._bytes = 0
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._closing = False
        self._throttle = Throttle()
        self._dropped = {reason: metrics.decision_log_dropped.labels(reason) for reason in get_args(Reason)}
        metrics.decision_log_waiting.set_function(lambda: len(self._queue))

    async def start(self) -> None:
        """Raises `SinkError` as the sinks do."""
        for sink in self.sinks:
            await sink.start()
        self._task = asyncio.create_task(self._run())

    def observe(self, decided: Decided) -> None:
        """See `mixer.authz.decided.Observer`."""
        if not decided.drawn(self._share(decided)):
            self._dropped["sampled"].inc()
            return
        if self._closing:
            self._dropped["shutdown"].inc()
            return
        size = decided.size
        if len(self._queue) >= self._max_records or self._bytes + size > self._max_bytes:
            self._lose("buffer_full")
            return
        self._bytes += size
        self._queue.append((decided, self.policy, self.bundles, size))
        self._wake.set()

    async def close(self, timeout: float) -> None:
        """Write what waits and close the sinks, for `timeout` seconds at most; count the rest as dropped."""
        end = time.monotonic() + timeout
        self._closing = True
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})
        while self._queue and time.monotonic() < end:
            self._write_slice()
            await asyncio.sleep(0)
        self._dropped["shutdown"].inc(len(self._queue))
        self._queue.clear()
        await asyncio.gather(*(sink.close(max(0.1, end - time.monotonic())) for sink in self.sinks))

    def _share(self, decided: Decided) -> float:
        """Of the decisions like this one, how many are logged: all where a shadow differs, since those are few and are
        what a shadow is there for."""
        if decided.shadow is not None and decided.shadow.outcome != "agree":
            return 1.0
        return self._shares[outcome_of(decided)]

    async def _run(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            await asyncio.sleep(LINGER)
            while self._queue:
                for sink in self.sinks:
                    await sink.room()  # decisions wait in the queue, and are dropped there
                self._write_slice()
                await asyncio.sleep(PAUSE)

    def _write_slice(self) -> None:
        until = time.perf_counter() + SLICE
        records: list[DecisionRecord] = []
        while self._queue and time.perf_counter() < until:
            decided, policy, bundles, size = self._queue.popleft()
            self._bytes -= size
            try:
                if (record := self._record(decided, policy, bundles)) is not None:
                    records.append(record)
            except Exception as error:  # no event may end the log of those that follow
                self._lose("failed", decided, type(error).__name__)
        if records:
            for sink in self.sinks:
                sink.write(records)

    def _record(
        self, decided: Decided, policy: LogPolicy | None, bundles: Mapping[str, str]
    ) -> DecisionRecord | None:
        """The masked event, or None where there is none to be written."""
        event = event_of(decided, self._document(decided), self._labels, self._share(decided), bundles)
        masks: list[Mask] = []
        if policy is not None and policy.rules:
            seen = orjson.dumps(event).decode()
            try:
                if policy.drops(seen):
                    self._dropped["policy"].inc()
                    return None
            except DecisionError as error:
                self._lose("drop_failed", decided, str(error))
                return None
            try:
                masks = policy.masks(seen)
            except (DecisionError, MaskError) as error:
                self._lose("mask_failed", decided, str(error))
                return None
        self._mask(event, masks)
        if (shadow := event["custom"].get("shadow")) is not None:
            self._mask(shadow, [mask for mask in masks if mask.parts[0] == "result"])
            if "result" in event and "result" in shadow:  # what is masked shows in no difference either
                shadow["diff"] = differences(event["result"], shadow["result"])
        event["type"] = SCHEMA  # as in OPA's console logs; its policies do not see it
        return DecisionRecord(event)

    def _document(self, decided: Decided) -> Any:
        if decided.document is None:
            return None
        if self._build is not None:
            return self._build(decided.request)
        try:
            return orjson.loads(decided.document)
        except orjson.JSONDecodeError:
            # A body with a number that only the OPA server could take. As text it is there all the same.
            document = json.loads(decided.document)
            document.pop("parsed_body", None)
            return document

    def _mask(self, event: Event, masks: Sequence[Mask]) -> None:
        erased: list[str] = []
        masked: list[str] = []
        upserted: set[tuple[str, ...]] = set()
        for mask in masks:
            if mask.apply(event):
                (masked if mask.upsert else erased).append(mask.name)
                if mask.upsert:
                    upserted.add(mask.parts)
        erased += self._secrets.erase(event, upserted)
        if erased:
            event["erased"] = erased
        if masked:
            event["masked"] = masked

    def _lose(self, reason: Reason, decided: Decided | None = None, error: str | None = None) -> None:
        self._dropped[reason].inc()
        if (held := self._throttle(reason)) is not None:
            told = {} if decided is None else {"decision_id": decided.decision_id}
            log.warning("decision_not_logged", reason=reason, error=error, held_back=held, **told)
