"""Counters in Redis, shared by all who use it: one atomic script, and one round trip for many calls.

While a round trip is under way, the calls that arrive meanwhile gather and form the next batch; a call that
arrives when nothing is under way goes out in the same turn of the loop. So batches grow with load and nothing
waits without it.
"""

import asyncio
import random
import re
from collections import deque
from collections.abc import Awaitable, Sequence
from functools import partial
from hashlib import sha1
from importlib.resources import files
from math import inf
from typing import cast

import structlog

from mixer import config
from mixer.errors import CounterError
from mixer.metrics import Metrics
from mixer.ratelimit import keys
from mixer.ratelimit.batch import Batch, Call
from mixer.ratelimit.counters import Hit, Outcomes
from mixer.ratelimit.link import Endpoint, Link, Reply
from mixer.ratelimit.local import Local

MAX_WAITING = 8192  # calls; at 20,000 a second as long as the default timeout, so that more would only expire
BACKOFF = (0.05, 1.0)  # seconds between attempts to connect: the first, and the most


class _Script:
    def __init__(self, name: str) -> None:
        self.text = files("mixer.ratelimit").joinpath(name).read_bytes()
        self.sha = sha1(self.text, usedforsecurity=False).hexdigest().encode()


_HIT, _RELEASE = _Script("hit.lua"), _Script("release.lua")
_log = structlog.get_logger()

# Replies that mean "not this server, or not now", and no fault of the script.
_NOT_NOW = frozenset(("LOADING", "READONLY", "MASTERDOWN", "CLUSTERDOWN", "NOAUTH"))
_CODE = re.compile(
    r"(?:@\w+: \d+: -)?([A-Z]+)"
)  # Redis 6 puts the script's line before some errors within it


class RedisCounters:
    """See `Counters`. Connects by itself, again and again while Redis is away; calls fail meanwhile.

    `settings.redis.timeout` bounds a round trip; a call that must wait for another one first waits twice as long at
    most. After a timeout the connection is given up, since Redis may still be busy with what it was sent.
    """

    def __init__(self, settings: config.RateLimits, metrics: Metrics) -> None:
        """Raises `StartError` if the URL cannot be used."""
        redis = settings.redis
        self._endpoint = Endpoint(redis.url.get_secret_value())
        self._timeout = redis.timeout
        self._prefix = redis.key_prefix
        self._format = keys.FORMATS[settings.key_format]
        self._max_batch = redis.max_batch
        self._local = Local(settings.local_cache)
        self._errors = metrics.counter_errors
        self._batch_size = metrics.counter_batch.labels("redis")
        self._waiting: deque[Call] = deque()
        self._in_flight: Batch | None = None
        self._expiry: asyncio.TimerHandle | None = None
        self._expiry_at = inf
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
        if self._expiry is not None:
            self._expiry.cancel()

    def ready(self) -> str | None:
        return None if self._link is not None else f"redis at {self._endpoint}: {self._why_away}"

    def hit(
        self, hits: Sequence[Hit], now: int, timeout: float | None = None
    ) -> Outcomes | Awaitable[Outcomes]:
        known = self._local.answer(hits, now)
        if not hits or (known is not None and None not in known):
            return cast(Outcomes, known or [])
        if self._link is None and not self._is_connecting:
            raise self._away()
        if len(self._waiting) >= MAX_WAITING:
            raise self._failure("overload", f"{MAX_WAITING} calls wait for Redis already")
        answer: asyncio.Future[Outcomes] = self._loop.create_future()
        call = Call(hits, now, answer, self._loop.time())
        call.known = known
        self._waiting.append(call)
        if self._in_flight is None and not self._flush_is_due:
            self._flush_is_due = True
            self._loop.call_soon(self._flush)  # after what else arrived in this turn
        if timeout is not None and timeout < self._timeout:
            call.deadline = deadline = call.arrived + timeout
            if self._expiry is None or deadline < self._expiry_at:
                self._expire_at(deadline)
        return answer

    async def release(self, holders: Sequence[str], now: int, timeout: float | None = None) -> int:
        if not holders:
            return 0
        if self._link is None:
            raise self._away()
        held = (keys.of_holder(self._prefix, holder) for holder in holders)
        arguments: list[str | int] = [len(holders), *held, now, *holders]
        seconds = self._timeout if timeout is None else min(timeout, self._timeout)
        try:
            async with asyncio.timeout(seconds):
                reply = await self._link.ask("EVALSHA", _RELEASE.sha, *arguments)
                if _code(str(reply)) == "NOSCRIPT" and self._link is not None:
                    reply = await self._link.ask("EVAL", _RELEASE.text, *arguments)
        except TimeoutError:
            raise self._failure("timeout", f"no reply of Redis in {seconds:g} s") from None
        if type(reply) is not int:
            raise self._failed(reply)
        return reply

    def _flush(self) -> None:
        """Send the next batch, if there is one to send and nothing under way."""
        self._flush_is_due = False
        if self._in_flight is not None or self._link is None:
            return
        batch = Batch(self._prefix, self._format, self._local)
        oldest = self._loop.time() - self._timeout
        while self._waiting and len(batch.calls) < self._max_batch and batch.has_room():
            call = self._waiting.popleft()
            if call.answer.done():
                continue  # cancelled, or out of time: not counted
            if call.arrived < oldest:
                self._expire(call, self._timeout)
            else:
                batch.add(call)
        if batch.calls:
            self._in_flight = batch
            self._batch_size.observe(len(batch.calls))
            self._send(self._link, batch, b"EVALSHA", _HIT.sha)

    def _send(self, link: Link, batch: Batch, command: bytes, script: bytes) -> None:
        batch.guard = self._loop.call_later(self._timeout, self._stalled, batch)
        link.send(batch.pack(command, script), partial(self._on_reply, batch))

    def _on_reply(self, batch: Batch, reply: Reply) -> None:
        if batch is not self._in_flight:
            return  # it ran out of time, and this is its connection's end
        batch.guard.cancel()
        is_error = isinstance(reply, Exception)
        if is_error and _code(str(reply)) == "NOSCRIPT" and self._link is not None:
            # Redis was restarted or flushed its scripts. Nothing was counted; EVAL also makes it known again.
            self._send(self._link, batch, b"EVAL", _HIT.text)
        else:
            self._finish(batch, reply)

    def _stalled(self, batch: Batch) -> None:
        """No reply in time."""
        if batch is self._in_flight:
            self._give_up_link()
            self._finish(
                batch, CounterError("timeout", f"Redis at {self._endpoint}: no reply in {self._timeout:g} s")
            )

    def _finish(self, batch: Batch, outcome: Reply | CounterError) -> None:
        self._in_flight = None
        if isinstance(outcome, list) and batch.fits(outcome):
            failed = batch.answer(outcome)
            for call, text in failed:
                call.answer.set_exception(self._failed(text))
            if any(_code(text) == "READONLY" for _, text in failed):
                self._give_up_link()  # a replica now; the name may lead to the new primary
        else:
            for call in batch.calls:
                if not call.answer.done():
                    call.answer.set_exception(self._failed(outcome))
        if self._waiting:
            self._flush()

    def _expire_at(self, deadline: float) -> None:
        """Look for calls that are out of time then. One timer for all: most have the same time."""
        if self._expiry is not None:
            self._expiry.cancel()
        self._expiry, self._expiry_at = self._loop.call_at(deadline, self._expire_due), deadline

    def _expire_due(self) -> None:
        self._expiry = None
        now = self._loop.time()
        in_flight = self._in_flight.calls if self._in_flight is not None else ()
        left = inf
        for call in (*in_flight, *self._waiting):
            if call.answer.done():
                continue
            if call.deadline <= now:
                self._expire(call, call.deadline - call.arrived)
            elif call.deadline < left:
                left = call.deadline
        if left < inf:
            self._expire_at(left)

    def _expire(self, call: Call, timeout: float) -> None:
        call.answer.set_exception(self._failure("timeout", f"no reply of Redis in {timeout:g} s"))

    def _fail_waiting(self) -> None:
        while self._waiting:
            call = self._waiting.popleft()
            if not call.answer.done():
                call.answer.set_exception(self._away())

    def _away(self) -> CounterError:
        return self._failure("unavailable", f"Redis at {self._endpoint}: {self._why_away}")

    def _failed(self, reply: Reply | CounterError) -> CounterError:
        """The error for a reply that is none of the script's."""
        if isinstance(reply, CounterError):
            return self._failure(reply.reason, str(reply))
        is_away = isinstance(reply, OSError) or _code(str(reply)) in _NOT_NOW
        return self._failure("unavailable" if is_away else "script", f"Redis at {self._endpoint}: {reply}")

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
