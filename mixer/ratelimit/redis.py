"""Counters in Redis, shared by all who use it: one atomic script, and one round trip for many calls.

While a round trip is under way, the calls that arrive meanwhile gather and form the next batch; a call that
arrives when nothing is under way goes out in the same turn of the loop. So batches grow with load and nothing
waits without it. Within a batch, hits on the same counter go out as one, and each call gets the count as if
they had come one by one.
"""

import asyncio
import random
import re
from collections import deque
from collections.abc import Sequence
from functools import partial
from hashlib import sha1
from importlib.resources import files

import structlog

from mixer import config
from mixer.errors import CounterError
from mixer.metrics import Metrics
from mixer.ratelimit.counters import Hit
from mixer.ratelimit.link import Endpoint, Link, Reply, pack

MAX_WAITING = 8192  # calls; at 20,000 a second as long as the default timeout, so that more would only expire
MAX_BATCH_COUNTERS = 1024  # Redis does nothing else during the script, about 3 µs a counter
TTL_SLACK = 5.0  # seconds that a counter outlives its window, for processes whose clocks differ
TTL_JITTER = 25.0  # expiries of one window spread over this many seconds, or Redis stalls at each minute
BACKOFF = (0.05, 1.0)  # seconds between attempts to connect: the first, and the most

_SCRIPT = files("mixer.ratelimit").joinpath("hit.lua").read_bytes()
_SHA = sha1(_SCRIPT, usedforsecurity=False).hexdigest().encode()
_log = structlog.get_logger()

# Replies that mean "not this server, or not now", and no fault of the script.
_NOT_NOW = frozenset(("LOADING", "READONLY", "MASTERDOWN", "CLUSTERDOWN", "NOAUTH"))
_CODE = re.compile(
    r"(?:@\w+: \d+: -)?([A-Z]+)"
)  # Redis 6 puts the script's line before some errors within it

Answer = asyncio.Future[list[int]]


class RedisCounters:
    """See `Counters`. Connects by itself, again and again while Redis is away; calls fail meanwhile.

    `settings.timeout` bounds a round trip; a call that must wait for another one first waits twice as long at
    most. After a timeout the connection is given up, since Redis may still be busy with what it was sent.
    """

    def __init__(self, settings: config.Redis, metrics: Metrics) -> None:
        """Raises `StartError` if the URL cannot be used."""
        self._endpoint = Endpoint(settings.url.get_secret_value())
        self._timeout = settings.timeout
        self._prefix = settings.key_prefix
        self._max_batch = settings.max_batch
        self._errors = metrics.counter_errors
        self._batch_size = metrics.counter_batch.labels("redis")
        self._waiting: deque[tuple[Sequence[Hit], Answer, float]] = deque()  # with the time of arrival
        self._in_flight: _Batch | None = None
        self._flush_is_due = False
        self._link: Link | None = None
        self._is_connecting = True
        self._why_away = "not connected yet"
        self._lost = asyncio.Event()
        self._attempted = asyncio.Event()
        self._connecting: asyncio.Task[None] | None = None

    async def start(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._connecting = self._loop.create_task(self._stay_connected())
        await self._attempted.wait()

    async def close(self) -> None:
        if self._connecting is not None:
            self._connecting.cancel()
            await asyncio.wait((self._connecting,))
        self._give_up_link()
        self._is_connecting, self._why_away = False, "closed"
        if self._in_flight is not None:
            self._finish(self._in_flight, CounterError("unavailable", "the counters were closed"))
        self._fail_waiting()

    def ready(self) -> str | None:
        return None if self._link is not None else f"redis at {self._endpoint}: {self._why_away}"

    async def hit(self, hits: Sequence[Hit], timeout: float | None = None) -> list[int]:
        if not hits:
            return []
        if self._link is None and not self._is_connecting:
            raise self._away()
        if len(self._waiting) >= MAX_WAITING:
            raise self._failure("overload", f"{MAX_WAITING} calls wait for Redis already")
        answer: Answer = self._loop.create_future()
        self._waiting.append((hits, answer, self._loop.time()))
        if self._in_flight is None and not self._flush_is_due:
            self._flush_is_due = True
            self._loop.call_soon(self._flush)  # after what else arrived in this turn
        if timeout is None or timeout >= self._timeout:
            return await answer
        timer = self._loop.call_later(timeout, self._expire, answer, timeout)
        try:
            return await answer
        finally:
            timer.cancel()

    def _flush(self) -> None:
        """Send the next batch, if there is one to send and nothing under way."""
        self._flush_is_due = False
        if self._in_flight is not None or self._link is None:
            return
        batch = _Batch(self._prefix)
        oldest = self._loop.time() - self._timeout
        while self._waiting and len(batch.answers) < self._max_batch and batch.has_room():
            hits, answer, arrived = self._waiting.popleft()
            if answer.done():
                continue  # cancelled, or out of time: not counted
            if arrived < oldest:
                self._expire(answer, self._timeout)
            else:
                batch.add(hits, answer)
        if batch.answers:
            self._in_flight = batch
            self._batch_size.observe(len(batch.answers))
            self._send(self._link, batch, b"EVALSHA", _SHA)

    def _send(self, link: Link, batch: "_Batch", command: bytes, script: bytes) -> None:
        batch.guard = self._loop.call_later(self._timeout, self._stalled, batch)
        link.send(batch.pack(command, script), partial(self._on_reply, batch))

    def _on_reply(self, batch: "_Batch", reply: Reply) -> None:
        if batch is not self._in_flight:
            return  # it ran out of time, and this is its connection's end
        batch.guard.cancel()
        if isinstance(reply, list) and batch.fits(reply):
            self._finish(batch, reply)
            return
        text = str(reply)
        if _code(text) == "NOSCRIPT" and self._link is not None:
            # Redis was restarted or flushed its scripts. Nothing was counted; EVAL also makes it known again.
            self._send(self._link, batch, b"EVAL", _SCRIPT)
        else:
            reason = "unavailable" if isinstance(reply, OSError) or _code(text) in _NOT_NOW else "script"
            self._finish(batch, CounterError(reason, f"Redis at {self._endpoint}: {text}"))

    def _stalled(self, batch: "_Batch") -> None:
        """No reply in time."""
        if batch is self._in_flight:
            self._give_up_link()
            self._finish(
                batch, CounterError("timeout", f"Redis at {self._endpoint}: no reply in {self._timeout:g} s")
            )

    def _finish(self, batch: "_Batch", outcome: list[int | bytes] | CounterError) -> None:
        self._in_flight = None
        if isinstance(outcome, list):
            failed = batch.answer(outcome)
            for answer, text in failed:
                reason = "unavailable" if _code(text) in _NOT_NOW else "script"
                answer.set_exception(self._failure(reason, f"Redis at {self._endpoint}: {text}"))
            if any(_code(text) == "READONLY" for _, text in failed):
                self._give_up_link()  # a replica now; the name may lead to the new primary
        else:
            for answer in batch.answers:
                if not answer.done():
                    answer.set_exception(self._failure(outcome.reason, str(outcome)))
        if self._waiting:
            self._flush()

    def _expire(self, answer: Answer, timeout: float) -> None:
        if not answer.done():
            answer.set_exception(self._failure("timeout", f"no reply of Redis in {timeout:g} s"))

    def _fail_waiting(self) -> None:
        while self._waiting:
            _, answer, _ = self._waiting.popleft()
            if not answer.done():
                answer.set_exception(self._away())

    def _away(self) -> CounterError:
        return self._failure("unavailable", f"Redis at {self._endpoint}: {self._why_away}")

    def _failure(self, reason: str, message: str) -> CounterError:
        self._errors.labels("redis", reason).inc()
        return CounterError(reason, message)

    async def _stay_connected(self) -> None:
        pause, most = BACKOFF
        was_away = False
        while True:
            self._is_connecting = True
            try:
                async with asyncio.timeout(self._timeout):
                    link = await self._endpoint.connect(self._on_lost)
            except Exception as error:  # whatever it is, calls must not wait for ever
                self._is_connecting = False
                timed_out = isinstance(error, TimeoutError) and not str(error)
                self._why_away = (
                    f"no connection in {self._timeout:g} s" if timed_out else str(error) or repr(error)
                )
                self._attempted.set()
                self._fail_waiting()
                if not was_away:
                    was_away = True
                    _log.warning("redis_away", endpoint=str(self._endpoint), error=self._why_away)
                await asyncio.sleep(pause * random.uniform(0.5, 1))  # noqa: S311 (so that not all come at once)
                pause = min(2 * pause, most)
                continue
            pause, self._link, self._is_connecting = BACKOFF[0], link, False
            self._lost.clear()
            self._attempted.set()
            if was_away:
                was_away = False
                _log.info("redis_back", endpoint=str(self._endpoint))
            self._flush()
            await self._lost.wait()

    def _give_up_link(self) -> None:
        if self._link is not None:
            self._link.abort()
            self._on_lost(self._link)

    def _on_lost(self, link: Link) -> None:
        if link is self._link:
            self._link, self._why_away = None, "the connection was lost"
            self._is_connecting = True  # at once, see `_stay_connected`
            self._lost.set()


def _code(text: str) -> str:
    """The first word of an error, by which Redis says what kind it is."""
    match = _CODE.match(text)
    return match[1] if match else ""


class _Batch:
    """The calls of one round trip, and the counters that they hit, each once."""

    __slots__ = ("_keys", "_places", "_prefix", "_seconds", "_totals", "answers", "guard")

    def __init__(self, prefix: str) -> None:
        self.answers: list[Answer] = []
        self.guard: asyncio.TimerHandle
        self._prefix = prefix
        self._keys: dict[str, int] = {}  # to their position in the lists
        self._totals: list[int] = []  # hits of the whole batch
        self._seconds: list[int] = []  # of its window
        self._places: list[list[tuple[int, int]]] = []  # of each call: positions, and the totals after it

    def has_room(self) -> bool:
        return len(self._totals) < MAX_BATCH_COUNTERS

    def add(self, hits: Sequence[Hit], answer: Answer) -> None:
        places = []
        for name, seconds, start, count in hits:
            key = f"{self._prefix}{seconds}|{start}|{name}"
            position = self._keys.get(key)
            if position is None:
                self._keys[key] = position = len(self._totals)
                self._totals.append(count)
                self._seconds.append(seconds)
                places.append((position, count))
            else:
                self._totals[position] = total = self._totals[position] + count
                places.append((position, total))
        self.answers.append(answer)
        self._places.append(places)

    def pack(self, command: bytes, script: bytes) -> bytes:
        slack = TTL_SLACK + TTL_JITTER * random.random()  # noqa: S311
        arguments: list[bytes | str | int] = [command, script, len(self._keys), *self._keys]
        for total, seconds in zip(self._totals, self._seconds, strict=True):
            arguments += (total, int((seconds + slack) * 1000))
        return pack(arguments)

    def fits(self, counts: list[Reply]) -> bool:
        """Whether this can be the script's answer: for each counter its count, or the text of an error."""
        return len(counts) == len(self._totals) and all(type(count) in (int, bytes) for count in counts)

    def answer(self, counts: list[int | bytes]) -> list[tuple[Answer, str]]:
        """Answer the calls with the counters' values; the calls that got an error instead are returned with it."""
        failed = []
        totals = self._totals
        for answer, places in zip(self.answers, self._places, strict=True):
            if answer.done():
                continue
            results = []
            for position, total in places:
                count = counts[position]
                if isinstance(count, bytes):
                    failed.append((answer, count.decode(errors="replace")))
                    break
                results.append(count - totals[position] + total)
            else:
                answer.set_result(results)
        return failed
