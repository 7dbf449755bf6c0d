"""YAML as Go's yaml.v2 reads it. The expected values were read off that library (v2.4.0)."""

import contextlib
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mixer.ratelimit.yaml_v2 import Node, Scalar, YamlError, read

SCALARS: dict[str, Scalar] = {
    "x": "x",
    "''": "",
    "~": None,
    "null": None,
    "Null": None,
    "nULL": "nULL",
    "y": True,
    "Yes": True,
    "on": True,
    "TRUE": True,
    "tRUE": "tRUE",
    "n": False,
    "off": False,
    "'y'": "y",
    "0": 0,
    "-0": 0,
    "+12": 12,
    "1_000": 1000,
    "0x10": 16,
    "0X1f": 31,
    "010": 8,
    "0o17": 15,
    "-0b11": -3,
    "08": 8.0,
    "1:30": "1:30",
    "2024-01-01": "2024-01-01",
    "9223372036854775807": 2**63 - 1,
    "18446744073709551615": 2**64 - 1,
    "18446744073709551616": 2.0**64,
    "0x10000000000000000": "0x10000000000000000",
    "5.0": 5.0,
    "5.": 5.0,
    ".5": 0.5,
    "1e3": 1000.0,
    "1e999": "1e999",
    ".inf": math.inf,
    "-.INF": -math.inf,
    ".": ".",
    "+": "+",
    "_1": "_1",
    "0x": "0x",
    "!!str 5.0": "5.0",
    "!!int '7'": 7,
    "!!float 5": 5.0,
    "!!bool 'yes'": True,
    "!!null ''": None,
    "!!binary YWJj": "abc",
    "!!timestamp 2000-2-29": "2000-2-29",
    "!!timestamp '2001-01-01 1:2:3.5'": "2001-01-01 1:2:3.5",
    "!!timestamp 2001-01-01T00:00:00+24:00": "2001-01-01T00:00:00+24:00",
    "!other 5.0": "5.0",
    "9" * 401: "9" * 401,
}


@pytest.mark.parametrize(("text", "value"), SCALARS.items())
def test_scalar(text: str, value: Scalar) -> None:
    root, _ = read(text.encode())
    assert root is not None
    assert root.kind == "scalar"
    assert (root.value(), type(root.value())) == (value, type(value))


@pytest.mark.parametrize(
    "text",
    ["x", "2001", "2001-02-29", "2001-01-01T00:00:00", "'2001-01-01 00:00:00Z'", "2001-01-01T24:00:00Z"],
)
def test_text_that_is_tagged_a_time_must_be_one(text: str) -> None:
    root, _ = read(f"!!timestamp {text}".encode())
    assert root is not None
    with pytest.raises(YamlError, match="is tagged !!timestamp, which it is not"):
        root.value()


def plain(node: Node) -> object:
    """Mappings as lists of pairs, so that the order shows."""
    if node.kind == "scalar":
        return node.value()
    if node.kind == "list":
        return [plain(child) for child in node.children]
    return [(plain(key), plain(value)) for key, value in node.pairs()]


def test_alias_stands_for_its_anchor() -> None:
    root, _ = read(b"a: &x [1]\nb: *x\n")
    assert root is not None
    assert plain(root) == [("a", [1]), ("b", [1])]


def test_anchor_given_twice_is_the_last_one_before_the_alias() -> None:
    root, _ = read(b"[&x 1, *x, &x 2, *x]")
    assert root is not None
    assert plain(root) == [1, 1, 2, 2]


def test_merged_mapping_comes_in_its_place() -> None:
    root, _ = read(b"base: &b {k: 1}\nm: {k: 0, <<: *b, k: 2}\n")
    assert root is not None
    assert plain(root.children[3]) == [("k", 0), ("k", 1), ("k", 2)]


def test_of_merged_mappings_the_first_one_wins() -> None:
    root, _ = read(b"<<: [{k: 1}, {k: 2}]\n")
    assert root is not None
    assert plain(root) == [("k", 2), ("k", 1)]


def test_only_the_first_document_is_read() -> None:
    root, has_more = read(b"a\n---\nb\n")
    assert root is not None
    assert (plain(root), has_more) == ("a", True)


@pytest.mark.parametrize("rest", [b"---\n[\n", b"...\n@x\n", b"...\n%\n"])
def test_what_is_wrong_after_the_first_document_does_not_matter(rest: bytes) -> None:
    root, has_more = read(b"a\n" + rest)
    assert root is not None
    assert (plain(root), has_more) == ("a", True)


def test_nothing_has_no_document() -> None:
    assert read(b"# a comment\n") == (None, False)


FRAGMENTS = st.sampled_from(
    [
        "a",
        ": ",
        "- ",
        "\n",
        "  ",
        "[",
        "]",
        "{",
        "}",
        "&x ",
        "*x",
        "<<: ",
        "!!int ",
        "'",
        '"',
        "|\n",
        "---\n",
        "#",
        ",",
    ]
)


@settings(deadline=None)  # a busy machine is no mistake
@given(
    st.one_of(
        st.binary(max_size=60), st.lists(FRAGMENTS, max_size=30).map(lambda parts: "".join(parts).encode())
    )
)
def test_any_bytes_are_read_or_refused(content: bytes) -> None:
    with contextlib.suppress(YamlError):
        root, _ = read(content)
        if root is not None:
            plain(root)
