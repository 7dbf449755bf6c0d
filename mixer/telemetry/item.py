"""A record as a message of Kafka, before it is one."""

from mixer.telemetry.sink import Receipt

# Key, value, event id, timestamp in ms, what the record takes in memory, its number in the spool (0: none), and who is
# to be told of it.
Item = tuple[bytes | None, bytes, bytes, int, int, int, Receipt | None]
