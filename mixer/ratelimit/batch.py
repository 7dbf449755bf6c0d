"""The calls of one round trip to Redis: what the script is told, and what its answers mean."""

import asyncio
import random
from collections.abc import Sequence

from mixer.ratelimit import algorithms
from mixer.ratelimit.algorithms import Bucket, Sliding
from mixer.ratelimit.counters import SECOND, Hit, Outcome, Outcomes
from mixer.ratelimit.link import Reply, pack

MAX_COUNTERS = 1024  # Redis does nothing else during the script, about 3 µs a counter
SLACK = 5.0  # seconds that a counter outlives its end, for processes whose clocks differ
JITTER = 25.0  # expiries of one window spread over this many seconds, or Redis stalls at each minute

Answer = asyncio.Future[Outcomes]


class Call:
    """Hits that wait to be done, and who waits for them."""

    __slots__ = ("answer", "arrived", "deadline", "hits", "now")

    def __init__(
        self, hits: Sequence[Hit], now: int, answer: Answer, arrived: float, deadline: float
    ) -> None:
        self.hits = hits
        self.now = now
        self.answer = answer
        self.arrived = arrived  # these two by the loop's clock
        self.deadline = deadline


class Keys:
    """Where counters lie in Redis: `<prefix><seconds>|<window's start>|<name>` for a fixed window, with `s`, `b` and
    `c` before the first `|` for the others, and `<prefix>h|<holder>` for the counters in which a holder has slots."""

    def __init__(self, prefix: str) -> None:
        self.prefix = prefix

    def of_window(self, name: str, seconds: int, start: int) -> str:
        return f"{self.prefix}{seconds}|{start}|{name}"

    def of_state(self, kind: str, name: str, seconds: int) -> str:
        return f"{self.prefix}{kind}{seconds}|{name}"

    def of_holder(self, holder: str) -> str:
        return f"{self.prefix}h|{holder}"


class Batch:
    """Hits that count whatever happens (plain ones) on the same counter go out as one, and each call gets the count as
    if they had come one by one. Other hits are an operation each."""

    def __init__(self, keys: Keys) -> None:
        self.calls: list[Call] = []
        self.guard: asyncio.TimerHandle
        self._keys = keys
        self._window_key = keys.of_window
        self._plain: dict[str, int] = {}  # keys, to their position in the next two lists
        self._totals: list[int] = []  # hits of the whole batch
        self._seconds: list[int] = []  # of its window
        self._operated: list[str] = []  # a key for each operation
        self._operations: list[str | int] = []
        # Of each call and hit the position in the script's answer, and for a plain counter the total after the hit.
        # An operation counts from the end of the plain ones, as a number below 0.
        self._places: list[list[tuple[int, int]]] = []
        self._slack = int((SLACK + JITTER * random.random()) * 1000)  # noqa: S311

    def has_room(self) -> bool:
        return len(self._totals) + len(self._operated) < MAX_COUNTERS

    def add(self, call: Call) -> None:
        places = []
        now = call.now // SECOND
        plain, totals, window_key = self._plain, self._totals, self._window_key
        for hit in call.hits:
            name, rule, hits, _ = hit
            if rule.algorithm != "fixed_window":
                places.append(self._operate(hit, call.now))
                continue
            seconds = rule.seconds
            key = window_key(name, seconds, now - now % seconds)
            position = plain.get(key)
            if not rule.counts_over or hits < 0 or (self._operated and key in self._operated):
                places.append(self._fixed(key, hit))
            elif position is None:
                plain[key] = position = len(totals)
                totals.append(hits)
                self._seconds.append(seconds)
                places.append((position, hits))
            else:
                totals[position] = total = totals[position] + hits
                places.append((position, total))
        self.calls.append(call)
        self._places.append(places)

    def _operation(self, key: str, *words: str | int) -> tuple[int, int]:
        self._operated.append(key)
        self._operations += words
        return -len(self._operated), 0

    def _fixed(self, key: str, hit: Hit) -> tuple[int, int]:
        rule = hit.rule
        kind = "over" if rule.counts_over else "none"
        ttl = rule.seconds * 1000 + self._slack
        return self._operation(key, "fixed", hit.hits, rule.limit, kind, ttl)

    def _operate(self, hit: Hit, now: int) -> tuple[int, int]:
        name, rule, hits, holder = hit
        common = (hits, now, self._slack)
        over = int(rule.counts_over)
        if rule.algorithm == "sliding_window":
            key = self._keys.of_state("s", name, rule.seconds)
            slices, each = algorithms.sliding_slices(rule)
            return self._operation(key, "sliding", *common, rule.limit, over, rule.window, slices, each)
        if rule.algorithm == "token_bucket":
            key = self._keys.of_state("b", name, rule.seconds)
            return self._operation(key, "bucket", *common, rule.size, over, rule.cost, rule.rate)
        key, index = self._keys.of_state("c", name, rule.seconds), self._keys.of_holder(holder)
        return self._operation(key, "slot", *common, rule.limit, rule.window, holder, index)

    def pack(self, command: bytes, script: bytes) -> bytes:
        slack = self._slack
        keys = [*self._plain, *self._operated]
        arguments: list[bytes | str | int] = [command, script, len(keys), *keys, len(self._totals)]
        for total, seconds in zip(self._totals, self._seconds, strict=True):
            arguments += (total, seconds * 1000 + slack)
        arguments += self._operations
        return pack(arguments)

    def fits(self, replies: list[Reply]) -> bool:
        """Whether this can be the script's answer: for each counter its count or a list, or the text of an error."""
        plain = len(self._totals)
        return (
            len(replies) == plain + len(self._operated)
            and all(type(count) in (int, bytes) for count in replies[:plain])
            and all(
                type(state) is bytes or (type(state) is list and all(type(n) is int for n in state))
                for state in replies[plain:]
            )
        )

    def answer(self, replies: list[Reply]) -> list[tuple[Call, str]]:
        """Answer the calls; those with a counter that failed are returned with its error."""
        failed = []
        totals, plain = self._totals, len(self._totals)
        for call, places in zip(self.calls, self._places, strict=True):
            if call.answer.done():
                continue
            outcomes = []
            for hit, (position, total) in zip(call.hits, places, strict=True):
                reply = replies[position] if position >= 0 else replies[plain - 1 - position]
                if type(reply) is bytes:
                    failed.append((call, reply.decode(errors="replace")))
                    break
                if position >= 0:
                    count = reply - totals[position] + total
                    outcomes.append(
                        algorithms.fixed_outcome(hit.rule, count, count <= hit.rule.limit, call.now)
                    )
                else:
                    outcomes.append(_outcome(hit, reply, call.now))
            else:
                call.answer.set_result(outcomes)
        return failed


def _outcome(hit: Hit, reply: list[int], now: int) -> Outcome:
    """What an operation's answer means."""
    rule = hit.rule
    passes = reply[0] == 1
    if rule.algorithm == "fixed_window":
        return algorithms.fixed_outcome(rule, reply[1], passes, now)
    if rule.algorithm == "sliding_window":
        return algorithms.sliding_outcome(rule, Sliding(*reply[1:]), passes, hit.hits, now)
    if rule.algorithm == "token_bucket":
        return algorithms.bucket_outcome(rule, Bucket(*reply[1:]), passes, hit.hits)
    _, used, first, last = reply
    return algorithms.concurrency_outcome(rule, used, (first, last), passes, now)
