"""Pieces of records, joined."""

from hypothesis import given
from hypothesis import strategies as st

from mixer.telemetry.wire import joined


@given(
    st.integers(1, 5).flatmap(
        lambda count: st.tuples(
            st.just(count),
            st.lists(st.binary(max_size=3) | st.lists(st.binary(max_size=3), min_size=count, max_size=count)),
        )
    )
)
def test_parts_that_all_records_have_are_in_each_in_their_order(
    given_: tuple[int, list[bytes | list[bytes]]],
) -> None:
    count, parts = given_
    assert joined(parts, count) == [
        b"".join(part if isinstance(part, bytes) else part[place] for part in parts) for place in range(count)
    ]
