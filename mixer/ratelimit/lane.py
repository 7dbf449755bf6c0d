"""The calls to one Redis server: one connection, and one round trip for many calls.

While a round trip is under way, the calls that arrive meanwhile gather and form the next one; a call that arrives
when nothing is under way goes out in the same turn of the loop. So round trips carry more as load grows, and nothing
waits without it. Once `ENOUGH` have gathered they do not wait for the trip before theirs, so that Redis and this
process work at the same time. One connection is enough for that: Redis runs one script at a time.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from math import inf

import structlog

from mixer import config
from mixer.errors import CounterError
from mixer.metrics import Metrics
from mixer.outflow import Outflow
from mixer.ratelimit import keys, scripts
from mixer.ratelimit.batch import Batch, Call, Window
from mixer.ratelimit.breaker import Breaker
from mixer.ratelimit.endpoint import Endpoint
from mixer.ratelimit.link import Link, Reply
from mixer.ratelimit.local import Local
from mixer.ratelimit.scripts import HIT, Script

ENOUGH = 16  # calls; a script call's own price is small beside theirs then
MAX_TRIPS = 2  # under way at once
MAX_WAITING = 8192  # calls; at 20,000 a second as long as the default timeout, so that more would only expire
PROBE = "probe"  # key of the counter that probes count on, after the prefix

Find = Callable[[], Awaitable[Endpoint]]
Redirect = Callable[["Lane", Batch, Reply], None]

_log = structlog.get_logger()


class _Trip:
    """One round trip: the batches that went out together, one for each group of calls."""

    __slots__ = ("batches", "failed", "guard", "left")

    def __init__(self, batches: list[Batch]) -> None:
        self.batches = batches
        self.left = len(batches)  # whose reply is still to come
        self.failed = 0  # whose reply says that the server is of no use
        self.guard: asyncio.TimerHandle


class Lane:
    """Connects by itself, again and again while the server is away. `settings.redis.timeout` bounds a round trip; a
    call that must wait for another one, or for the connection, first waits twice as long at most. After a timeout
    the connection is given up, since Redis may still be busy with what it was sent.

    A new connection is proved by a script call that counts, before calls go there. It is the probe of the breaker;
    while that is open, calls fail at once.
    """

    def __init__(
        self,
        name: str,
        find: Find,
        settings: config.RateLimits,
        local: Local,
        metrics: Metrics,
        *,
        probe_key: Callable[[], str | None],
        on_trouble: Callable[[], None] = lambda: None,
        redirect: Redirect | None = None,
    ) -> None:
        """`find`: where the server is, asked before each attempt to connect; raises OSError. `probe_key`: a counter
        that the server has; None: it has none. `on_trouble`: called when the server is found to fail.
        `redirect`: what to do with a batch that another server of a cluster should have had."""
        redis = settings.redis
        self.name = name
        self.endpoint: Endpoint | None = None  # where it was last connected to
        self._find = find
        self._timeout, self._connect_timeout = redis.timeout, redis.connect_timeout
        self._max_batch = redis.max_batch
        windows: dict[int, Window] = {}
        self._make_batch = partial(Batch, redis.key_prefix, keys.FORMATS[settings.key_format], local, windows)
        self._probe_key = probe_key
        self._on_trouble = on_trouble
        self._redirect = redirect
        self._breaker = Breaker(redis.breaker, metrics)
        self._errors = metrics.counter_errors
        self._batch_size = metrics.counter_batch.labels("redis")
        self._waiting: deque[Call] = deque()
        self._outflow = Outflow()
        self._trips: list[_Trip] = []  # under way
        self._expiry: asyncio.TimerHandle | None = None
        self._expiry_at = inf
        self._flush_is_due = False
        self._is_closed = False
        self._link: Link | None = None
        self._why_away = "not connected yet"
        self._lost = asyncio.Event()
        self._attempted = asyncio.Event()
        self._connecting: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._connecting = self._loop.create_task(self._stay_connected())

    async def attempted(self) -> None:
        """Wait until the first attempt to connect has an end."""
        await self._attempted.wait()

    async def close(self) -> None:
        self._is_closed, self._why_away = True, "closed"
        if self._connecting is not None:
            self._connecting.cancel()
            await asyncio.wait((self._connecting,))
        if self._link is not None:
            self._link.abort()
            self._link = None
        self._breaker.discard()
        self._give_up(CounterError("unavailable", "the counters were closed"))
        self._fail_waiting()
        if self._expiry is not None:
            self._expiry.cancel()

    def problem(self) -> str | None:
        """Why the server cannot be asked now; None if it can."""
        return None if self._link is not None else f"redis at {self.name}: {self._why_away}"

    def is_idle(self) -> bool:
        """Whether no call waits for it, or for its reply."""
        return not self._trips and not self._waiting

    def put(self, call: Call, deadline: float = inf) -> None:
        """Take a call, to be settled or failed later. `deadline`: by the loop's clock.

        Raises:
            CounterError: it cannot be taken.
        """
        if self._link is None and (self._breaker.is_open or self._is_closed):
            raise self._away()
        if len(self._waiting) >= MAX_WAITING:
            raise self.failure("overload", f"{MAX_WAITING} calls wait for Redis already")
        waiting = self._waiting
        if len(waiting) >= ENOUGH:
            self._look(call, deadline)
        waiting.append(call)
        if len(waiting) >= ENOUGH:
            if len(self._trips) < MAX_TRIPS:
                self._flush()
            else:
                self._outflow.put(call.arrived)
        elif not self._trips and not self._flush_is_due:
            self._flush_is_due = True
            self._loop.call_soon(self._flush_due)  # after what else arrived in this turn
        if self._link is None:
            deadline = min(deadline, call.arrived + self._timeout)
        if deadline < inf:
            call.deadline = deadline
            if self._expiry is None or deadline < self._expiry_at:
                self._expire_at(deadline)

    def _look(self, call: Call, deadline: float) -> None:
        """Whether one more may wait. Raises `CounterError` where it could not be counted in its time."""
        waiting = self._waiting
        while waiting and waiting[0].is_done():  # cancelled, or out of time
            waiting.popleft()
        left = min(deadline - call.arrived, self._timeout)
        if waiting and self._link is not None and self._outflow.is_late(len(waiting), left, call.arrived):
            message = f"{len(waiting)} calls wait for Redis at {self.name}, too many to count one more in {left:g} s"
            raise self.failure("overload", message)

    def failure(self, reason: str, message: str) -> CounterError:
        """An error for a call, counted."""
        self._errors.labels("redis", reason).inc()
        return CounterError(reason, message)

    def failed(self, reply: Reply | CounterError) -> CounterError:
        """The error for a reply that is none of the script's."""
        if isinstance(reply, CounterError):
            return self.failure(reply.reason, str(reply))
        is_away = isinstance(reply, OSError) or scripts.code(reply) in scripts.NOT_NOW
        return self.failure("unavailable" if is_away else "script", f"Redis at {self.name}: {reply}".rstrip())

    async def run(
        self, script: Script, arguments: Sequence[str | int], timeout: float | None, asking: bool = False
    ) -> Reply:
        """The reply to a script call of its own.

        Raises:
            CounterError: there is none.
        """
        if self._link is None:
            raise self._away()
        seconds = self._timeout if timeout is None else min(timeout, self._timeout)
        try:
            async with asyncio.timeout(seconds):
                return await scripts.run(self._link, script, arguments, asking)
        except TimeoutError:
            raise self.failure("timeout", f"Redis at {self.name}: no reply in {seconds:g} s") from None

    async def ask(self, *command: str) -> Reply:
        """The reply to a command. Raises OSError where there is none, TimeoutError among them."""
        if self._link is None:
            raise ConnectionError(self._why_away)
        async with asyncio.timeout(self._connect_timeout):
            return await self._link.ask(*command)

    # Round trips

    def _flush_due(self) -> None:
        self._flush_is_due = False
        self._flush()

    def _flush(self) -> None:
        """Send the next round trip, if there is one to send and it is to wait for none."""
        if self._link is None or self._link.is_lost:
            return
        if self._trips and (len(self._trips) >= MAX_TRIPS or len(self._waiting) < ENOUGH):
            return
        now = self._loop.time()
        waiting, most, oldest = self._waiting, self._max_batch, now - self._timeout
        groups: dict[object, Batch] = {}
        group: Batch | None = None
        last: object = None  # whose batch `group` is
        calls = 0
        while waiting and calls < most and (group is None or group.has_room()):
            call = waiting.popleft()
            if call.is_done():
                continue  # cancelled, or out of time: not counted
            if call.arrived < oldest or call.deadline <= now:
                self._expire(call, min(self._timeout, call.deadline - call.arrived))
                continue
            if group is None or call.group is not last:
                last = call.group
                if (group := groups.get(last)) is None:
                    group = groups[last] = self._make_batch()
            group.add(call)
            calls += 1
        if waiting:
            self._outflow.took(calls, now)
        else:
            self._outflow.emptied()
        if calls:
            self._batch_size.observe(calls)
            trip = _Trip(list(groups.values()))
            self._trips.append(trip)
            trip.guard = self._loop.call_later(self._timeout, self._stalled, trip)
            for group in trip.batches:
                self._send(self._link, trip, group, b"EVALSHA", HIT.sha)

    def _send(self, link: Link, trip: _Trip, group: Batch, command: bytes, script: bytes) -> None:
        if group.calls[0].asking:
            scripts.ask_for_moved(link)
        link.send(group.pack(command, script), partial(self._on_reply, trip, group))

    def _on_reply(self, trip: _Trip, group: Batch, reply: Reply) -> None:
        if trip not in self._trips:
            return  # it ran out of time, and this is its connection's end
        if isinstance(reply, list) and group.fits(reply):
            self._answer(trip, group, reply)
        elif (code := scripts.code(reply)) == "NOSCRIPT" and self._link is not None:
            # Redis was restarted or flushed its scripts. Nothing was counted; EVAL also makes it known again.
            self._send(self._link, trip, group, b"EVAL", HIT.text)
            return
        elif self._redirect is not None and (code in scripts.REDIRECTS or code == "TRYAGAIN"):
            self._redirect(self, group, reply)  # nothing was counted
            group.discard()
            group.calls = []  # they are elsewhere now
        else:
            group.discard()
            if isinstance(reply, OSError) or code in scripts.OF_SERVER:
                self._note(trip, reply)
            if code in scripts.LEAVE:
                self.leave(str(reply))
            for call in group.calls:
                if not call.is_done():
                    call.fail(self.failed(reply))
        trip.left -= 1
        if not trip.left:
            self._end(trip)

    def _answer(self, trip: _Trip, group: Batch, reply: list[Reply]) -> None:
        failed = group.answer(reply)
        if not failed:
            return
        for call, text in failed:
            call.fail(self.failed(text))
        texts = {scripts.code(text): text for _, text in failed}
        if len(failed) == len(group.calls) and texts.keys() <= scripts.OF_SERVER:
            self._note(trip, failed[0][1])
        for code in texts.keys() & scripts.LEAVE:
            self.leave(texts[code])

    def _note(self, trip: _Trip, reply: Reply) -> None:
        """A batch to which the server gave no useful reply."""
        trip.failed += 1
        self._why_away = str(reply).rstrip()

    def _end(self, trip: _Trip) -> None:
        trip.guard.cancel()
        self._trips.remove(trip)
        if trip.failed < len(trip.batches):
            self._breaker.called()
        elif not self._trips:  # those that fail together are one failure
            self._failed()
        if self._waiting:
            self._flush()

    def _stalled(self, trip: _Trip) -> None:
        """No reply in time."""
        if trip in self._trips:
            message = f"no reply in {self._timeout:g} s"
            self._give_up(CounterError("timeout", f"Redis at {self.name}: {message}"))
            self.leave(message)
            self._failed()

    def _give_up(self, error: CounterError) -> None:
        """All that is under way."""
        trips, self._trips = self._trips, []
        for trip in trips:
            trip.guard.cancel()
            for group in trip.batches:
                group.discard()
                for call in group.calls:
                    if not call.is_done():
                        call.fail(self.failed(error))

    # Time and errors of calls

    def _expire_at(self, deadline: float) -> None:
        """Look for calls that are out of time then. One timer for all: most have the same time."""
        if self._expiry is not None:
            self._expiry.cancel()
        self._expiry, self._expiry_at = self._loop.call_at(deadline, self._expire_due), deadline

    def _expire_due(self) -> None:
        self._expiry = None
        now, left = self._loop.time(), inf
        under_way = [call for trip in self._trips for group in trip.batches for call in group.calls]
        for call in (*under_way, *self._waiting):
            if call.is_done():
                continue
            if call.deadline <= now:
                self._expire(call, call.deadline - call.arrived)
            elif call.deadline < left:
                left = call.deadline
        if left < inf:
            self._expire_at(left)

    def _expire(self, call: Call, timeout: float) -> None:
        call.fail(self.failure("timeout", f"Redis at {self.name}: no reply in {timeout:g} s"))

    def _fail_waiting(self) -> None:
        while self._waiting:
            call = self._waiting.popleft()
            if not call.is_done():
                call.fail(self._away())

    def _away(self) -> CounterError:
        return self.failure("unavailable", f"Redis at {self.name}: {self._why_away}")

    # The connection

    async def _stay_connected(self) -> None:
        while True:
            self._breaker.probe()
            try:
                link = await self._connect()
            except Exception as error:  # whatever it is, calls must not wait for ever
                self._why_away = str(error) or repr(error)
                self._failed()
                self._attempted.set()
                await asyncio.sleep(self._breaker.pause())
                continue
            self._link = link
            self._lost.clear()
            self._attempted.set()
            if self._breaker.probed():
                _log.info("redis_back", endpoint=self.name)
            if link.is_lost:
                self._on_lost(link)
            else:
                self._flush()
            await self._lost.wait()
            if self._breaker.is_open:
                await asyncio.sleep(self._breaker.pause())

    async def _connect(self) -> Link:
        """A connection on which scripts can count. Raises OSError."""
        endpoint = await self._find()
        self.name = str(endpoint)
        try:
            async with asyncio.timeout(self._connect_timeout):
                link = await endpoint.connect(self._on_lost)
                try:
                    if not await scripts.prove(link, self._probe_key(), self._redirect is not None):
                        self._on_trouble()  # it lives; where its slots have gone is for the cluster to find out
                except BaseException:
                    link.abort()
                    raise
        except TimeoutError as error:
            if str(error):
                raise  # of the system
            raise TimeoutError(f"no connection in {self._connect_timeout:g} s") from None
        self.endpoint = endpoint
        return link

    def _failed(self) -> None:
        """The server failed: a whole round trip, or an attempt to connect."""
        if self._breaker.failed():
            _log.warning("redis_away", endpoint=self.name, error=self._why_away)
        if self._breaker.is_open:
            self.leave(self._why_away)
            self._fail_waiting()
        self._on_trouble()

    def leave(self, why: str) -> None:
        """Give the connection up, look for the server anew, and make a new one."""
        if self._link is not None:
            self._link.abort()
            self._on_lost(self._link)
            self._why_away = why

    def _on_lost(self, link: Link) -> None:
        if link is not self._link:
            return
        self._link, self._why_away = None, "the connection was lost"
        self._lost.set()
        self._on_trouble()
        if self._waiting:
            for call in self._waiting:
                call.deadline = min(call.deadline, call.arrived + 2 * self._timeout)
            self._expire_at(self._loop.time())  # when each of them is looked at
