"""A record as a message of Kafka, before it is one."""

# Key, value, event id, timestamp in ms, what the record takes in memory, and its number in the spool (0: none).
Item = tuple[bytes | None, bytes, bytes, int, int, int]
