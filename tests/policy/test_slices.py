"""Data in slices: whatever the slices, the engine has the whole."""

from typing import Any

import orjson
import pytest
import regorus
from hypothesis import given
from hypothesis import strategies as st

from mixer.policy.slices import fill, slices
from tests.loop import on_loop

values = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.text("ab", max_size=3),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text("ab", max_size=2), inner, max_size=5),
)


def whole(engine: regorus.Engine) -> Any:
    return orjson.loads(engine.eval_query_as_json("data"))["result"][0]["expressions"][0]["value"]


@given(st.dictionaries(st.text("abc", max_size=2), values, max_size=6), st.integers(1, 40))
def test_slices_merge_into_the_whole(data: dict[str, Any], least: int) -> None:
    engine = regorus.Engine()
    for text in slices(data, least):
        engine.add_data_json(text)
    assert whole(engine) == data


@pytest.mark.parametrize("tenants", [1, 100, 10_000])
def test_no_slice_is_much_larger_than_asked(tenants: int) -> None:
    data = {"tenants": {str(t): {str(u): "x" * 20 for u in range(20_000 // tenants)} for t in range(tenants)}}
    sizes = [len(text) for text in slices(data, 10_000)]
    assert max(sizes) < 2.5 * max(10_000, len(orjson.dumps(data)) // 50)
    assert len(sizes) < 120


@on_loop
async def test_engine_is_filled() -> None:
    engine = regorus.Engine()
    await fill(engine, {"a": {"b": [1, 2]}})
    assert whole(engine) == {"a": {"b": [1, 2]}}
