"""Who gets the last of a buffer that drops what has no room: nobody's flood takes that of the others."""

INTERVAL = 1.0  # seconds
LAST = 0.1  # of the buffer: what is kept for those who send little
MAX_SENDERS = 4096  # told apart in an interval; more share what is one sender's


class Shares:
    """Admits records by who sent them.

    Down to the last tenth of the buffer, whoever comes is let in. Of that tenth, each of several senders gets an equal
    share of what is delivered in an interval, no more; only those are let in at any rate who send less than their share
    of what was delivered lately, or than half of their share of what is free. So who sends alone may have all of
    the buffer, and who sends little loses nothing beside a flood, also while nothing is delivered for some time.
    """

    def __init__(self) -> None:
        self._end = 0.0
        self._sent: dict[object, int] = {}
        self._sent_before: dict[object, int] = {}
        self._taken: dict[object, int] = {}  # from the last tenth, by those who send much
        self._delivered = self._delivered_before = 0  # when this interval began, and the one before

    def admit(self, sender: object, records: int, *, now: float, free: int, held: int, delivered: int) -> int:
        """How many of so many records may be taken. `now` in seconds; `delivered`: records, from the beginning on."""
        if not self._end - INTERVAL <= now < self._end:
            self._sent, self._sent_before, self._taken = {}, self._sent, {}
            self._end = now + INTERVAL
            self._delivered, self._delivered_before = delivered, self._delivered
        sent = self._sent
        if sender not in sent and len(sent) >= MAX_SENDERS:
            sender = None
        sent[sender] = sent.get(sender, 0) + records
        for_all = int(free - LAST * (free + held))
        if records <= for_all:
            return records
        before = self._sent_before
        senders = len(sent.keys() | before.keys())
        little = max(delivered - self._delivered_before, free // 2) // senders
        if senders == 1 or sent[sender] + before.get(sender, 0) <= little:
            return records
        taken = self._taken.get(sender, 0)
        share = max(0, (delivered - self._delivered) // senders - taken)
        admitted = min(records, max(0, for_all) + share)
        self._taken[sender] = taken + min(admitted, share)
        return admitted
