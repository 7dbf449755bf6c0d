"""Records on their way to Kafka: whatever is cut off a queue, nothing is lost, doubled or out of order."""

from collections import deque

from hypothesis import given
from hypothesis import strategies as st

from mixer.telemetry.outgoing import Chunk, Item, cut
from tests.telemetry.items import items_of

SIZES = st.lists(st.lists(st.integers(1, 50), min_size=1, max_size=6), max_size=6)


def queue_of(sizes: list[list[int]], *, keys: bool = False, numbered: bool = False) -> deque[Chunk]:
    queue: deque[Chunk] = deque()
    first = 1
    for some in sizes:
        numbers = range(first, first + len(some))
        ids = [b"event-%d" % number for number in numbers]
        queue.append(
            Chunk(
                [b"%d" % number if number % 2 else None for number in numbers] if keys else None,
                [b"v" * size for size in some],
                ids,
                list(numbers),
                some,
                numbers if numbered else (),
            )
        )
        first += len(some)
    return queue


@given(SIZES, st.integers(1, 120), st.integers(1, 8), st.booleans(), st.booleans())
def test_what_is_cut_off_is_as_much_as_fits(
    sizes: list[list[int]], most: int, count: int, keys: bool, numbered: bool
) -> None:
    queue = queue_of(sizes, keys=keys, numbered=numbered)
    expected = items_of(queue)
    found: list[Item] = []
    while queue:
        head = cut(queue, most, count)
        assert head == [queue.popleft() for _ in head]
        some = items_of(head)
        found += some
        size = sum(item.size for item in some)
        assert len(some) == 1 or (size <= most and len(some) <= count)
        rest = items_of(queue)
        assert not rest or len(some) == count or size + rest[0].size > most
        assert all(chunk.size == sum(chunk.sizes) for chunk in queue)
    assert cut(queue, most, count) == []
    assert found == expected


@given(st.data(), st.booleans(), st.booleans())
def test_some_of_a_chunk_are_those_at_their_places(data: st.DataObject, keys: bool, numbered: bool) -> None:
    (chunk,) = queue_of(
        [data.draw(st.lists(st.integers(1, 50), min_size=1, max_size=9))], keys=keys, numbered=numbered
    )
    places = sorted(data.draw(st.sets(st.integers(0, len(chunk) - 1), min_size=1)))
    every = items_of([chunk])
    taken = chunk.take(places)
    assert items_of([taken]) == [every[place] for place in places]
    assert [message[:2] for message in taken.messages()] == [
        (item.key, item.value) for item in items_of([taken])
    ]
