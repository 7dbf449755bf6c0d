"""How aiokafka's producers begin and end here, so that nothing of them is left."""

import asyncio
import contextlib
import traceback

from aiokafka import AIOKafkaProducer
from aiokafka.conn import AIOKafkaConnection
from aiokafka.errors import KafkaError


async def start(producer: AIOKafkaProducer) -> None:
    """Start a producer; one that is cancelled meanwhile leaves no connection: aiokafka forgets that of its first
    request for metadata, which would stay open until it is collected."""
    try:
        await producer.start()
    except BaseException as error:
        for frame, _ in traceback.walk_tb(error.__traceback__):
            for held in list(frame.f_locals.values()):
                if isinstance(held, AIOKafkaConnection):
                    held.close()
        raise


async def discard(producer: AIOKafkaProducer) -> None:
    """Stop a producer now, whatever it still holds: `stop` alone waits until all is delivered, for ever if need be."""
    if (sender := producer._sender.sender_task) is not None:
        while not sender.done():
            sender.cancel()  # again and again: it catches the first, to wait for requests on their way
            await asyncio.wait({sender}, timeout=0.05)
        kept = producer._message_accumulator
        # Batches that were about to be sent again are taken from there once they fail, where they were the first time.
        kept._pending_batches.update(*kept._batches.values())
        kept.fail_all(KafkaError("the producer was replaced"))
    with contextlib.suppress(KafkaError, OSError):
        await producer.stop()
