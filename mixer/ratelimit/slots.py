"""Where the slots of a Redis cluster are ("Redis cluster specification"), and calls whose counters lie on several."""

from collections.abc import Iterator, Sequence

from redis.crc import REDIS_CLUSTER_HASH_SLOTS, key_slot

from mixer.errors import CounterError
from mixer.ratelimit.batch import Answer, Call
from mixer.ratelimit.counters import Hit, Outcome, Outcomes, PartlyCountedError
from mixer.ratelimit.link import Reply

SLOTS: int = REDIS_CLUSTER_HASH_SLOTS
Address = tuple[str, int]


def slot_of(key: str) -> int:
    slot: int = key_slot(key.encode())
    return slot


def parse_slots(reply: Reply, host: str) -> Iterator[tuple[range, Address]]:
    """The primaries' slots, from the reply to CLUSTER SLOTS. `host` stands for one that is not named: it is that of the
    server which was asked.

    Raises:
        ValueError: it is no such reply.
    """
    try:
        for first, last, (name, port, *_), *_ in reply:
            slots = range(int(first), int(last) + 1)
            if not (0 <= slots.start < slots.stop <= SLOTS):
                raise ValueError(f"slots {first} to {last}")
            yield slots, (_host(name, host), int(port))
    except (TypeError, AttributeError) as error:
        raise ValueError(f"{reply!r:.100}") from error


def parse_redirect(reply: str, host: str) -> Address:
    """The server that `MOVED 3999 127.0.0.1:6381` or `ASK …` names.

    Raises:
        ValueError: it is no such reply.
    """
    _, _, address = reply.split(" ")
    name, _, port = address.rpartition(":")
    return _host(name.encode(), host), int(port)


def _host(name: bytes | None, host: str) -> str:
    text = (name or b"").decode("ascii").strip("[]")
    return host if text in ("", "?") else text


class Whole:
    """A call, as its parts see it. It is answered when each of them has an end."""

    __slots__ = ("_error", "_left", "_outcomes", "answer")

    def __init__(self, answer: Answer, known: Sequence[Outcome | None] | None, hits: int) -> None:
        self.answer = answer
        self._outcomes: list[Outcome | None] = list(known or (None,) * hits)
        self._left = 0
        self._error: CounterError | None = None

    def expect(self, parts: int) -> None:
        self._left = parts

    def settle(self, places: Sequence[int], outcomes: Outcomes) -> None:
        for place, outcome in zip(places, outcomes, strict=True):
            self._outcomes[place] = outcome
        self._end()

    def fail(self, error: CounterError) -> None:
        self._error = self._error or error
        self._end()

    def _end(self) -> None:
        self._left -= 1
        if self._left or self.answer.done():
            return
        if self._error is None:
            self.answer.set_result([outcome for outcome in self._outcomes if outcome is not None])
        elif any(self._outcomes):
            self.answer.set_exception(PartlyCountedError(self._error, self._outcomes))
        else:
            self.answer.set_exception(self._error)


class Part(Call):
    """The hits of a call on one counter. Those of a slot share a script call, until the slot moves to another server:
    then each counter has its own, since the script may find some of them here and some there."""

    __slots__ = ("_is_done", "_places", "_whole", "asking", "group", "key", "redirects", "slot")

    def __init__(self, whole: Whole, key: str, now: int, arrived: float) -> None:
        super().__init__([], now, whole.answer, arrived)
        self.key = key
        self.group = self.slot = slot_of(key)
        self.asking = False
        self.redirects = 0
        self._whole = whole
        self._places: list[int] = []
        self._is_done = False

    def add(self, place: int, hit: Hit) -> None:
        self.hits.append(hit)  # type: ignore[attr-defined]  # our own list
        self._places.append(place)

    def alone(self, asking: bool) -> None:
        """Share the script call with nothing but hits on the same counter."""
        self.group, self.asking = (self.key, asking), asking

    def is_done(self) -> bool:
        return self._is_done or self.answer.done()

    def settle(self, outcomes: Outcomes) -> None:
        if not self._is_done:
            self._is_done = True
            self._whole.settle(self._places, outcomes)

    def fail(self, error: CounterError) -> None:
        if not self._is_done:
            self._is_done = True
            self._whole.fail(error)
