"""Which partition of a topic a record goes to."""

from collections import defaultdict, deque
from collections.abc import Callable, Iterator, Mapping, Sequence

from aiokafka.partitioner import murmur2

from mixer.telemetry.lane import Lane
from mixer.telemetry.outgoing import Chunk

MAX_KEYS = 65_536  # keys whose hash is remembered; murmur2 in Python takes 4 µs


class Routing:
    """The lanes of a topic, and the records that wait for it to be known.

    A record with a key goes to the partition that Kafka's Java client chooses for it; others are spread, a batch each.
    """

    def __init__(self, lane: Callable[[int], Lane]) -> None:
        self.partitions: list[int] = []
        self._new_lane = lane
        self._pending: deque[Chunk] = deque()  # not yet given to a partition: no broker told of any so far
        self._lanes: dict[int, Lane] = {}
        self._sticky: Lane | None = None  # where records without a key go now
        self._filled = 0  # its count of batches when they began to
        self._hashes: dict[bytes, int] = {}
        self._flushing = False

    @property
    def lanes(self) -> Mapping[int, Lane]:
        return self._lanes

    def route(self, chunks: Sequence[Chunk]) -> None:
        """Give records to their partitions' lanes."""
        if not self.partitions:
            self._pending.extend(chunks)
            return
        lanes: dict[Lane, list[Chunk]] = defaultdict(list)
        for chunk in chunks:
            if chunk.keys is None:
                lanes[self._next_lane()].append(chunk)
                continue
            places: dict[Lane, list[int]] = defaultdict(list)
            for place, key in enumerate(chunk.keys):
                places[self._next_lane() if key is None else self._lane_of(key)].append(place)
            for lane, some in places.items():
                lanes[lane].append(chunk if len(some) == len(chunk) else chunk.take(some))
        for lane, their in lanes.items():
            lane.extend(their)

    def _next_lane(self) -> Lane:
        """For records without a key. As Kafka's sticky partitioner: fill one batch, then go on to another partition."""
        lane = self._sticky
        if lane is None or lane.batches != self._filled:
            # The one with the shortest queue has a leader that answers; among equals, the one that had the fewest
            # batches.
            self._sticky = lane = min(self._lanes.values(), key=lambda lane: (lane.bytes, lane.batches))
            self._filled = lane.batches
        return lane

    def _lane_of(self, key: bytes) -> Lane:
        hashed = self._hashes.get(key)
        if hashed is None:
            if len(self._hashes) >= MAX_KEYS:
                self._hashes.clear()
            hashed = self._hashes[key] = murmur2(key) & 0x7FFFFFFF
        return self._lanes[self.partitions[hashed % len(self.partitions)]]

    def know(self, partitions: Sequence[int]) -> None:
        """Take over the topic's partitions, and route what waited for them."""
        if partitions == self.partitions:
            return
        self.partitions = list(partitions)
        self._sticky = None
        for number in partitions:
            if number not in self._lanes:
                self._lanes[number] = self._new_lane(number)
        waiting, self._pending = self._pending, deque()
        self.route(waiting)
        if self._flushing:
            self.flush()

    def forget_all_but(self, partitions: Sequence[int]) -> None:
        """Take back what waits for partitions that are no more. Only while no lane runs."""
        for lane in [lane for lane in self._lanes.values() if lane.partition not in partitions]:
            del self._lanes[lane.partition]
            self._pending.extend(lane.queue)

    def waiting(self) -> Iterator[Chunk]:
        """What was not acknowledged."""
        yield from self._pending
        for lane in self._lanes.values():
            yield from lane.queue

    def flush(self) -> None:
        """From now on, wait for no batch to fill."""
        self._flushing = True
        for lane in self._lanes.values():
            lane.flush()
