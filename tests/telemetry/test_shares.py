"""Who is let into a buffer that is nearly full."""

from collections import Counter

from mixer.telemetry.shares import Shares

CAPACITY, DELIVERED = 10_000, 100  # the latter in each tenth of a second


def simulated(
    rates: dict[str, int], seconds: int, delivered: int = DELIVERED
) -> tuple[Counter[str], Counter[str]]:
    """Records that were sent and that were taken, where senders send so many each tenth of a second."""
    shares, sent, taken = Shares(), Counter[str](), Counter[str]()
    held = out = 0
    for tick in range(10 * seconds):
        for sender, rate in rates.items():
            free = CAPACITY - held
            admitted = shares.admit(sender, rate, now=tick / 10, free=free, held=held, delivered=out)
            admitted = min(admitted, free)
            held += admitted
            sent[sender] += rate
            taken[sender] += admitted
        gone = min(held, delivered)
        held, out = held - gone, out + gone
    return sent, taken


def test_sender_of_little_loses_nothing_beside_a_flood() -> None:
    sent, taken = simulated({"flood": 1000, "small": 20, "other": 5}, 120)
    assert (taken["small"], taken["other"]) == (sent["small"], sent["other"])
    assert taken["flood"] > CAPACITY * 0.9  # and the flood has what is left


def test_flood_does_not_take_the_last_tenth_while_nothing_is_delivered() -> None:
    sent, taken = simulated({"flood": 1000, "small": 2}, 40, delivered=0)
    assert taken["small"] == sent["small"]
    assert CAPACITY * 0.89 < taken["flood"] <= CAPACITY * 0.9


def test_floods_share_what_is_delivered() -> None:
    _, taken = simulated({"one": 1000, "two": 500, "small": 10}, 120)
    assert 0.3 < taken["two"] / taken["one"] < 1.2


def test_who_sends_alone_may_have_all_of_the_buffer() -> None:
    _, taken = simulated({"one": 300}, 10, delivered=0)
    assert taken["one"] == CAPACITY
