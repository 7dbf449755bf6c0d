"""The calls of one round trip to Redis: what the script is told, and what its answers mean."""

import random
from collections.abc import Sequence
from math import inf

from mixer.errors import CounterError
from mixer.pending import Promise
from mixer.ratelimit import algorithms, keys
from mixer.ratelimit.algorithms import Bucket, Sliding
from mixer.ratelimit.counters import SECOND, Hit, Outcome, Outcomes, PartlyCountedError
from mixer.ratelimit.keys import Format
from mixer.ratelimit.link import Reply, pack
from mixer.ratelimit.local import Local

_COUNTS = frozenset((int, bytes))  # what a plain counter can be answered with

MAX_COUNTERS = 1024  # Redis does nothing else during the script, about 3 µs a counter
SLACK = 5.0  # seconds that a counter outlives its end, for processes whose clocks differ
JITTER = 25.0  # expiries of one window spread over this many seconds, or Redis stalls at each minute

_SLACK = int(SLACK * 1000)
_new = tuple.__new__  # of a named tuple, without its own constructor's price

Place = tuple[int, int]
# Of a fixed window its start and end, in seconds, and what stands around the name in the keys of its counters.
Window = tuple[int, int, str, str]
_MAX_WINDOWS = 256


class Answer(Promise[Outcomes]):
    """To a call. A class, since to call `Promise[Outcomes]` costs 5 µs more."""

    __slots__ = ()


class Call:
    """Hits that wait to be done, and who waits for them."""

    __slots__ = ("answer", "arrived", "deadline", "hits", "known", "now")

    group: object = None  # calls of the same group share a script call
    asking = False  # whether it is for a slot that a node of a cluster takes over just now

    def __init__(self, hits: Sequence[Hit], now: int, answer: Answer, arrived: float) -> None:
        self.hits = hits
        self.known: list[Outcome | None] | None = None  # what needs no store; None: all hits do
        self.now = now
        self.answer = answer
        self.arrived = arrived  # these two by the loop's clock
        self.deadline = inf

    def unknown(self) -> Sequence[Hit]:
        """The hits that need the store."""
        if self.known is None:
            return self.hits
        return [hit for hit, known in zip(self.hits, self.known, strict=True) if known is None]

    def is_done(self) -> bool:
        return self.answer.done()

    def fail(self, error: CounterError) -> None:
        if not self.answer.done():
            self.answer.set_exception(error if self.known is None else PartlyCountedError(error, self.known))

    def settle(self, outcomes: Outcomes) -> None:
        """Answer, with the outcomes of the unknown hits."""
        if self.answer.done():
            return
        if self.known is not None:
            each = iter(outcomes)
            outcomes = [next(each) if known is None else known for known in self.known]
        self.answer.set_result(outcomes)


def key_of(prefix: str, key_format: Format, hit: Hit, now: int) -> str:
    """The Redis key of a hit's counter."""
    rule = hit.rule
    seconds = rule.seconds
    if rule.algorithm == "fixed_window":
        second = now // SECOND
        head, tail = key_format.of_window(prefix, seconds, second - second % seconds)
        return head + hit.name + tail
    if rule.algorithm == "concurrency":
        return keys.of_slots(prefix, seconds, hit.name)
    return keys.of_state(prefix, "s" if rule.algorithm == "sliding_window" else "b", seconds, hit.name)


class _Taking:
    """Single hits on one counter of which the rule has a lot: one operation, which takes others ahead."""

    def __init__(self, hit: Hit, now: int, place: Place, word: int, ahead: int) -> None:
        self.hit = hit
        self.now = now
        self.place = place
        self.word = word  # of the operations, that says how many
        self.hits = self.ahead = ahead  # to be taken; and reserved
        self.left = 0  # hits granted, and not handed out
        self.counted = 0  # what the counter is at

    def outcome(self) -> Outcome:
        """Of the next hit."""
        passes = self.left > 0
        self.left -= passes
        return algorithms.fixed_outcome(self.hit.rule, self.counted - self.left, passes, self.now)


class Batch:
    """Hits that count whatever happens (plain ones) on the same counter go out as one, and each call gets the count as
    if they had come one by one. Other hits are an operation each."""

    def __init__(
        self, prefix: str, key_format: Format, local: Local, windows: dict[int, Window] | None = None
    ) -> None:
        """`windows`: the last one of each length, which batches can share."""
        self.calls: list[Call] = []
        self._prefix = prefix
        self._format = key_format
        self._local = local
        self._plain: dict[str, int] = {}  # keys, to their position in the next two lists
        self._windows = {} if windows is None else windows
        self._totals: list[int] = []  # hits of the whole batch
        self._seconds: list[int] = []  # of its window
        self._operated: list[str] = []  # a key for each operation
        self._operations: list[str | int] = []
        self._indexes: list[str] = []  # further keys that operations touch
        self._takings: dict[Place, _Taking] = {}
        self._fixed: dict[
            str, _Taking | None
        ] = {}  # the last operation on a fixed window, if more may join it
        # Of each call and hit that needs the store the position in the script's answer, and for a plain counter the
        # total after the hit. An operation counts from the end of the plain ones, as a number below 0.
        self._places: list[list[Place]] = []
        self._slack = int((SLACK + JITTER * random.random()) * 1000)  # noqa: S311

    def has_room(self) -> bool:
        return len(self._totals) + len(self._operated) < MAX_COUNTERS

    def add(self, call: Call) -> None:
        places = []
        plain, totals, operated, windows = self._plain, self._totals, self._fixed, self._windows
        now = call.now // SECOND
        for hit in call.hits if call.known is None else call.unknown():
            name, rule, hits, _ = hit
            if rule.algorithm != "fixed_window":
                places.append(self._operate(hit, call.now))
                continue
            known = windows.get(rule.seconds)
            if known is None or not known[0] <= now < known[1]:
                known = self._window(rule.seconds, now)
            key = known[2] + name + known[3]
            if not rule.is_plain or hits < 0 or key in operated:
                places.append(self._operate_fixed(key, hit, call.now))
            elif (position := plain.get(key)) is None:
                plain[key] = position = len(totals)
                totals.append(hits)
                self._seconds.append(rule.seconds)
                places.append((position, hits))
            else:
                totals[position] = total = totals[position] + hits
                places.append((position, total))
        self.calls.append(call)
        self._places.append(places)

    def _window(self, seconds: int, now: int) -> Window:
        """The window at `now`, in seconds."""
        if len(self._windows) >= _MAX_WINDOWS:  # a policy can make up any length
            self._windows.clear()
        start = now - now % seconds
        window = (start, start + seconds, *self._format.of_window(self._prefix, seconds, start))
        self._windows[seconds] = window
        return window

    def _operation(self, key: str, *words: str | int) -> Place:
        self._operated.append(key)
        self._operations += words
        return -len(self._operated), 0

    def _operate_fixed(self, key: str, hit: Hit, now: int) -> Place:
        rule = hit.rule
        ttl = rule.seconds * 1000 + self._slack
        if rule.lot == 1 or hit.hits != 1:
            self._fixed[key] = None
            kind = "over" if rule.counts_over and rule.lot == 1 else "none"
            return self._operation(key, "fixed", hit.hits, rule.limit, kind, ttl)
        taking = self._fixed.get(key)
        if taking is None:
            place = self._operation(key, "fixed", 0, rule.limit, "fill", ttl)  # how many is not known yet
            ahead = 0 if key in self._fixed else self._local.lots.reserve(hit, now)
            taking = _Taking(hit, now, place, len(self._operations) - 4, ahead)
            self._fixed[key] = self._takings[place] = taking
        taking.hits += 1
        return taking.place

    def _operate(self, hit: Hit, now: int) -> Place:
        rule, hits = hit.rule, hit.hits
        key = key_of(self._prefix, self._format, hit, now)
        common = (hits, now, _SLACK)
        over = int(rule.counts_over)
        if rule.algorithm == "sliding_window":
            slices, each = algorithms.sliding_slices(rule)
            return self._operation(key, "sliding", *common, rule.limit, over, rule.window, slices, each)
        if rule.algorithm == "token_bucket":
            return self._operation(key, "bucket", *common, rule.size, over, rule.cost, rule.rate)
        index = keys.of_holder(self._prefix, hit.holder)
        self._indexes.append(index)
        return self._operation(key, "slot", *common, rule.limit, rule.window, hit.holder, index)

    def pack(self, command: bytes, script: bytes) -> bytes:
        slack = self._slack
        count = len(self._totals) + len(self._operated) + len(self._indexes)
        arguments: list[bytes | str | int] = [command, script, count, *self._plain, *self._operated]
        arguments += self._indexes
        arguments.append(len(self._totals))
        for total, seconds in zip(self._totals, self._seconds, strict=True):
            arguments += (total, seconds * 1000 + slack)
        for taking in self._takings.values():
            self._operations[taking.word] = taking.hits
        arguments += self._operations
        return pack(arguments)

    def fits(self, replies: list[Reply]) -> bool:
        """Whether this can be the script's answer: for each counter its count or a list, or the text of an error."""
        plain = len(self._totals)
        return (
            len(replies) == plain + len(self._operated)
            and _COUNTS.issuperset(map(type, replies[:plain]))
            and all(
                type(state) is bytes or (type(state) is list and all(type(n) is int for n in state))
                for state in replies[plain:]
            )
        )

    def answer(self, replies: list[Reply]) -> list[tuple[Call, str]]:
        """Answer the calls; those with a counter that failed are returned with its error."""
        failed = []
        totals, plain = self._totals, len(self._totals)
        for taking in self._takings.values():
            if type(reply := replies[plain - 1 - taking.place[0]]) is list:
                _, taking.counted, taking.left = reply
        for call, places in zip(self.calls, self._places, strict=True):
            outcomes = []
            now = call.now // SECOND
            for hit, place in zip(call.hits if call.known is None else call.unknown(), places, strict=True):
                position, total = place
                reply = replies[position] if position >= 0 else replies[plain - 1 - position]
                if type(reply) is bytes:
                    failed.append((call, reply.decode(errors="replace")))
                    break
                if position >= 0:  # as `fixed_outcome`
                    rule = hit[1]
                    count = reply - totals[position] + total
                    left, seconds = rule.limit - count, rule.seconds
                    reset = seconds - now % seconds
                    if left >= 0:
                        outcomes.append(_new(Outcome, (False, count, left, reset, 0, False)))
                        continue
                    outcome = _new(Outcome, (True, count, 0, reset, reset, False))
                else:
                    taken = self._takings.get(place)
                    outcome = (
                        _outcome(hit, reply, call.now)
                        if taken is None
                        else self._handed(taken, hit, call.now)
                    )
                outcomes.append(outcome)
                if outcome.over or hit.hits < 0:
                    self._local.learn(hit, outcome, call.now)
            else:
                call.settle(outcomes)
        for taking in self._takings.values():
            if taking.left:
                self._local.lots.put(taking.hit, taking.now, taking.counted, taking.left)
        self.discard()
        return [(call, text) for call, text in failed if not call.is_done()]

    def _handed(self, taking: _Taking, hit: Hit, now: int) -> Outcome:
        """The outcome of a hit that others were taken ahead for, here or by a batch that was sent before."""
        outcome = taking.outcome()
        return (self._local.lots.take(hit, now) if outcome.over else None) or outcome

    def discard(self) -> None:
        """It has no answer any more that lots could come from."""
        for taking in self._takings.values():
            if taking.ahead:
                self._local.lots.reserved.discard(taking.hit.name)


def _outcome(hit: Hit, reply: list[int], now: int) -> Outcome:
    """What an operation's answer means."""
    rule = hit.rule
    passes = reply[0] == 1
    if rule.algorithm == "fixed_window":
        return algorithms.fixed_outcome(rule, reply[1], passes, now)
    if rule.algorithm == "sliding_window":
        return algorithms.sliding_outcome(rule, Sliding(*reply[1:4]), passes, hit.hits, reply[4])
    if rule.algorithm == "token_bucket":
        return algorithms.bucket_outcome(rule, Bucket(*reply[1:]), passes, hit.hits)
    _, used, first, last = reply
    return algorithms.concurrency_outcome(rule, used, (first, last), passes, now)
