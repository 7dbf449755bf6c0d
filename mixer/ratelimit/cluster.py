"""Counters in a Redis cluster: each on the server that has its slot, and a lane for each server.

A script call has the counters of one slot, and the script calls to a server go out together. Where the slots are is
asked again when a server says so or fails, and now and then.
"""

import asyncio
import random
from collections.abc import Sequence
from typing import cast

import structlog

from mixer import config
from mixer.errors import CounterError, StartError
from mixer.metrics import Metrics
from mixer.pending import Pending
from mixer.ratelimit import keys, scripts
from mixer.ratelimit.batch import Answer, Batch, key_of
from mixer.ratelimit.counters import Hit, Outcomes
from mixer.ratelimit.endpoint import Endpoint
from mixer.ratelimit.lane import PROBE, Lane
from mixer.ratelimit.link import Reply
from mixer.ratelimit.local import Local
from mixer.ratelimit.scripts import RELEASE
from mixer.ratelimit.slots import SLOTS, Address, Part, Whole, parse_redirect, parse_slots, slot_of

LOOK = 10.0  # seconds between looks where the slots are, if nothing fails
LOOK_SOON = (0.1, 1.0)  # and if something does: the first pause, and the longest
MAX_REDIRECTS = 5  # of a call; more only while the cluster does not know itself
MAX_TRIES = 4096  # to find a key in a server's slots
PATIENCE = 0.02  # seconds until a counter in a slot that moves is asked for again

_log = structlog.get_logger()


class ClusterCounters:
    """See `Counters`, and `Lane` for each of the servers. Hits of a call on different counters have no order.

    While a server is away and nobody took its slots yet, hits on those alone fail. What it had acknowledged and not yet
    sent to its replicas is lost with it, as in `RedisCounters`.
    """

    def __init__(self, settings: config.RateLimits, metrics: Metrics) -> None:
        """Raises `StartError` if a URL cannot be used."""
        redis = settings.redis
        self._endpoint = Endpoint(redis.url.get_secret_value())
        if self._endpoint.path or self._endpoint.database:
            raise StartError("rate_limits.redis.url: a cluster is reached over TCP, and has database 0 alone")
        self._seeds = [self._endpoint, *(self._endpoint.at(*_address(node)) for node in redis.nodes)]
        self._settings, self._metrics = settings, metrics
        self._timeout, self._connect_timeout = redis.timeout, redis.connect_timeout
        self._prefix, self._format = redis.key_prefix, keys.FORMATS[settings.key_format]
        self._local = Local(settings.local_cache)
        self._lanes: dict[Address, Lane] = {}
        self._slots: list[Lane | None] = [None] * SLOTS
        self._probe_keys: dict[Lane, str] = {}
        self._used: set[Lane] = set()  # by redirects since the last look
        self._closing: set[asyncio.Task[None]] = set()
        self._is_stale = asyncio.Event()
        self._why_unknown = "not asked yet"
        self._looking: asyncio.Task[None] | None = None

    async def start(self) -> None:
        self._loop = asyncio.get_running_loop()
        await self._look()
        self._looking = self._loop.create_task(self._keep_looking())
        await asyncio.gather(*(lane.attempted() for lane in list(self._lanes.values())))

    async def close(self) -> None:
        if self._looking is not None:
            self._looking.cancel()
            await asyncio.wait((self._looking,))
        lanes, self._lanes = self._lanes, {}
        self._slots, self._why_unknown = [None] * SLOTS, "closed"
        await asyncio.gather(*(lane.close() for lane in lanes.values()), *self._closing)

    def ready(self) -> str | None:
        serving = set(self._slots) - {None}
        if not serving:
            return f"redis cluster at {self._endpoint}: {self._why_unknown}"
        problems = [cast(Lane, lane).problem() for lane in serving]
        return None if None in problems else problems[0]

    def problems(self) -> list[str]:
        lanes = dict.fromkeys(lane for lane in self._slots if lane is not None)
        problems = [problem for lane in lanes if (problem := lane.problem()) is not None]
        if missing := self._slots.count(None):
            problems.append(f"redis cluster at {self._endpoint}: {missing} slots are nobody's")
        return problems

    def hit(
        self, hits: Sequence[Hit], now: int, timeout: float | None = None
    ) -> Outcomes | Pending[Outcomes]:
        known = self._local.answer(hits, now)
        if not hits or (known is not None and None not in known):
            return cast(Outcomes, known or [])
        answer = Answer(self._loop)
        whole = Whole(answer, known, len(hits))
        arrived = self._loop.time()
        parts: dict[str, Part] = {}
        for place, hit in enumerate(hits):
            if known is None or known[place] is None:
                key = key_of(self._prefix, self._format, hit, now)
                if (part := parts.get(key)) is None:
                    part = parts[key] = Part(whole, key, now, arrived)
                part.add(place, hit)
        whole.expect(len(parts))
        deadline = arrived + min(2 * self._timeout, timeout if timeout is not None else 2 * self._timeout)
        for part in parts.values():
            part.deadline = deadline
            self._put_in_slot(part)
        return answer

    async def release(self, holders: Sequence[str], now: int, timeout: float | None = None) -> int:
        if not holders:
            return 0
        held = [keys.of_holder(self._prefix, holder) for holder in holders]  # all of one slot
        slot = slot_of(held[0])
        lane, asking = self._slots[slot], False
        for _ in range(MAX_REDIRECTS):
            if lane is None:
                raise self._nobody(slot)
            reply = await lane.run(RELEASE, (len(holders), *held, now, *holders), timeout, asking)
            if scripts.code(reply) not in scripts.REDIRECTS:
                break
            lane, asking = self._led(lane, str(reply)), scripts.code(reply) == "ASK"
        if type(reply) is not int:
            raise cast(Lane, lane).failed(reply)
        return reply

    # The way of a call

    def _put(self, part: Part, lane: Lane | None) -> None:
        try:
            if lane is None:
                raise self._nobody(part.slot)
            lane.put(part, part.deadline)
        except CounterError as error:
            part.fail(error)

    def _put_in_slot(self, part: Part) -> None:
        self._put(part, self._slots[part.slot])

    def _nobody(self, slot: int) -> CounterError:
        self._is_stale.set()
        why = f"slot {slot} is nobody's" if any(self._slots) else self._why_unknown
        self._metrics.counter_errors.labels("redis", "unavailable").inc()
        return CounterError("unavailable", f"Redis cluster at {self._endpoint}: {why}")

    def _redirect(self, lane: Lane, batch: Batch, reply: Reply) -> None:
        """Take the calls of a batch where they belong. Nothing of it was counted."""
        code = scripts.code(reply)
        for part in cast(list[Part], batch.calls):
            if code != "MOVED" and part.group == part.slot:
                # The slot is on its way to another server, and of several counters one may be here and one there.
                part.alone(asking=False)
                self._put(part, lane)
            elif code == "TRYAGAIN":
                part.redirects = 0
                part.alone(asking=False)
                self._loop.call_later(PATIENCE, self._put_in_slot, part)
            else:
                self._follow(lane, part, code, reply)

    def _follow(self, lane: Lane, part: Part, code: str, reply: Reply) -> None:
        part.redirects += 1
        try:
            if part.redirects > MAX_REDIRECTS:
                raise lane.failed(reply)
            target = self._led(lane, str(reply))
        except CounterError as error:
            part.fail(error)
            return
        if code == "ASK":
            part.alone(asking=True)
        else:
            part.asking, part.group = False, part.slot
        self._put(part, target)

    def _led(self, lane: Lane, reply: str) -> Lane:
        """The server that a redirect names. Raises `CounterError` where it names none."""
        host = lane.endpoint.host if lane.endpoint is not None else self._endpoint.host
        try:
            target = self._lane(parse_redirect(reply, host))
            slot = int(reply.split(" ")[1])
            if not 0 <= slot < SLOTS:
                raise ValueError(slot)
        except ValueError:
            raise lane.failed(reply) from None
        self._used.add(target)
        if reply.startswith("MOVED"):
            self._slots[slot] = target
            self._is_stale.set()
        return target

    # Where the slots are

    def _lane(self, address: Address) -> Lane:
        if (known := self._lanes.get(address)) is not None:
            return known
        endpoint = self._endpoint.at(*address)

        async def find() -> Endpoint:
            return endpoint

        lane: Lane = Lane(
            str(endpoint),
            find,
            self._settings,
            self._local,
            self._metrics,
            probe_key=lambda: self._probe_key(lane),
            on_trouble=self._is_stale.set,
            redirect=self._redirect,
        )
        self._lanes[address] = lane
        lane.start()
        return lane

    def _probe_key(self, lane: Lane) -> str | None:
        """A key in a slot of the server."""
        if lane not in self._slots:
            return None
        key = self._probe_keys.get(lane, "")
        number = 0
        while not key or self._slots[slot_of(key)] is not lane:
            key = f"{self._prefix}{PROBE}{number}"
            number += 1
            if number > MAX_TRIES:  # it has next to no slots
                return None
        self._probe_keys[lane] = key
        return key

    async def _keep_looking(self) -> None:
        pause, most = LOOK_SOON
        while True:
            try:
                async with asyncio.timeout(LOOK * random.uniform(0.5, 1)):  # noqa: S311
                    await self._is_stale.wait()
            except TimeoutError:
                pass
            self._is_stale.clear()
            await self._look()
            await asyncio.sleep(pause * random.uniform(0.5, 1))  # noqa: S311
            if self.problems():
                self._is_stale.set()
                pause = min(2 * pause, most)
            else:
                pause = LOOK_SOON[0]

    async def _look(self) -> None:
        """Ask where the slots are: the servers that are connected, then those that the settings name."""
        connected = [lane for lane in self._lanes.values() if lane.problem() is None]
        random.shuffle(connected)
        reasons = []
        for lane in connected:
            try:
                if (endpoint := lane.endpoint) is not None:
                    self._learn(await lane.ask("CLUSTER", "SLOTS"), endpoint.host)
                    return
            except (OSError, ValueError) as error:
                reasons.append(f"{lane.name}: {_told(error)}")
        for seed in self._seeds:
            try:
                async with asyncio.timeout(self._connect_timeout):
                    reply = await seed.asked("CLUSTER", "SLOTS")
                self._learn(reply, seed.host)
                return
            except (OSError, ValueError) as error:
                reasons.append(f"{seed}: {_told(error)}")
        why = "; ".join(reasons)
        if why != self._why_unknown:
            self._why_unknown = why
            _log.warning("redis_cluster_unknown", endpoint=str(self._endpoint), error=why)

    def _learn(self, reply: Reply, host: str) -> None:
        """Raises ValueError where that is no answer, OSError where it is an error."""
        if isinstance(reply, Exception):
            raise reply if isinstance(reply, OSError) else ConnectionRefusedError(str(reply))
        slots: list[Lane | None] = [None] * SLOTS
        for numbers, address in list(parse_slots(reply, host)):
            lane = self._lane(address)
            slots[numbers.start : numbers.stop] = [lane] * len(numbers)
        self._slots = slots
        self._why_unknown = "no slot is anybody's"
        serving = set(slots)
        for address, lane in list(self._lanes.items()):
            if lane not in serving and lane not in self._used and lane.is_idle():
                del self._lanes[address]
                self._probe_keys.pop(lane, None)
                closing = self._loop.create_task(lane.close())
                self._closing.add(closing)
                closing.add_done_callback(self._closing.discard)
        self._used.clear()


def _address(node: str) -> Address:
    host, _, port = node.rpartition(":")
    return host.strip("[]"), int(port)


def _told(error: Exception) -> str:
    return str(error) or repr(error)
