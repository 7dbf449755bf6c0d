"""Names of counters: never the same for two descriptors, and never long."""

from urllib.parse import unquote

from hypothesis import given, settings
from hypothesis import strategies as st

from mixer.ratelimit import keys
from tests.ratelimit.files import Entry

# Characters that names are made of.
TEXT = st.text(st.sampled_from("a=|%_25#7CD\n"), max_size=6)
ENTRIES = st.lists(st.builds(Entry, TEXT, TEXT), max_size=3)


@settings(deadline=None)  # a busy machine is no mistake
@given(TEXT, ENTRIES)
def test_name_can_be_read_back_so_that_no_two_descriptors_share_one(
    domain: str, entries: list[Entry]
) -> None:
    first, *parts, last = keys.MIXER.of_entries(domain, entries).split("|")
    pairs = [part.partition("=") for part in parts]
    assert unquote(first) == domain
    assert [Entry(unquote(key), unquote(value)) for key, _, value in pairs] == entries
    assert last == ""


def test_name_reads_as_the_descriptor() -> None:
    entries = [Entry("user", "alice"), Entry("path", "/a?b=c")]
    assert keys.MIXER.of_entries("shop", entries) == "shop|user=alice|path=/a?b=c|"


@settings(deadline=None)  # a busy machine is no mistake
@given(st.text(), st.lists(st.builds(Entry, st.text(), st.text(min_size=100)), min_size=1))
def test_name_is_never_longer_than_its_bound(domain: str, entries: list[Entry]) -> None:
    assert len(keys.MIXER.of_entries(domain, entries).encode()) <= keys.MAX_BYTES


def test_long_names_are_told_apart_by_their_hash() -> None:
    long = "ä" * 500
    names = {keys.MIXER.of_entries("d", [Entry("k", long + end)]) for end in ("", "x", "y")}
    assert len(names) == 3
    assert all(name.startswith("#") for name in names)
