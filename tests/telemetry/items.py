"""Records on their way to Kafka, one by one and together."""

from collections.abc import Iterable, Sequence

from mixer.telemetry.outgoing import Chunk, Item


def chunk_of(items: Sequence[Item]) -> Chunk:
    keys, values, event_ids, timestamps, sizes, numbers, receipts = zip(*items, strict=True)
    (receipt,) = set(receipts)
    with_keys = any(key is not None for key in keys)
    return Chunk(keys if with_keys else None, values, event_ids, timestamps, sizes, numbers, receipt)


def items_of(chunks: Iterable[Chunk]) -> list[Item]:
    return [chunk.item(place) for chunk in chunks for place in range(len(chunk))]
