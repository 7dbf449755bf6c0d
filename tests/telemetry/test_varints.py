"""Columns of numbers as varints, beside protobuf's own."""

from google.protobuf.wrappers_pb2 import UInt64Value
from hypothesis import given
from hypothesis import strategies as st

from mixer.telemetry.varints import MAX, varints

TAG = b"\x08"  # of UInt64Value.value


@given(
    st.lists(
        st.integers(0, MAX - 1) | st.sampled_from([0, 127, 128, (1 << 28) - 1, 1 << 28]),
        min_size=1,
        max_size=70,
    )
)
def test_varints_are_the_numbers(values: list[int]) -> None:
    size, found = varints(values)
    assert [UInt64Value.FromString(TAG + each).value for each in found] == values
    assert {len(each) for each in found} == {size}
    longest = UInt64Value(value=max(values)).SerializeToString().removeprefix(TAG)
    assert not longest or found[values.index(max(values))] == longest
