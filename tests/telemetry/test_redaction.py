"""What is taken out, and what is left alone."""

import pytest

from mixer import config
from mixer.telemetry.decode import Decoder
from mixer.telemetry.entry import EntryReader
from mixer.telemetry.redaction import Redaction
from tests.telemetry.entries import http_entry, identifier, read


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("token=a", "token=REDACTED"),
        ("a=1&TOKEN=b&c=2", "a=1&TOKEN=REDACTED&c=2"),
        ("a=1;token=b", "a=1;token=REDACTED"),
        ("%74oken=a", "%74oken=REDACTED"),
        ("+token+=a&%2Btoken=b", "+token+=a&%2Btoken=b"),
        ("id+token=a", "id+token=REDACTED"),
        ("ID%20TOKEN=a", "ID%20TOKEN=REDACTED"),
        ("to\u212aen=a", "to\u212aen=REDACTED"),  # the Kelvin sign is a k in lower case
        ("token=a=b", "token=REDACTED"),
        ("token", "token"),
        ("tokens=a&q=token", "tokens=a&q=token"),
        ("", ""),
    ],
)
def test_values_of_secret_parameters_are_replaced(query: str, expected: str) -> None:
    assert Redaction(query=["token", "id token"]).query(query) == expected


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("https://root:pw@shop/a?token=b#token=c", "https://shop/a?token=REDACTED#token=REDACTED"),
        ("https://shop/#token=c", "https://shop/#token=REDACTED"),
        ("/a?token=b", "/a?token=REDACTED"),
        ("/user@shop/a", "/user@shop/a"),
        ("//root@shop", "//shop"),
        ("root:pw@shop:80", "shop:80"),
        ("https://shop/a?b=c#d", "https://shop/a?b=c#d"),
    ],
)
def test_url_loses_its_user_and_its_secrets(url: str, expected: str) -> None:
    assert Redaction(query=["token"]).url(url) == expected


def test_entries_of_a_stream_are_redacted() -> None:
    entry = http_entry(path="/a?access_token=hush&page=1", host="root:hush@shop.example")
    entry.request.referer = "https://root:hush@shop.example/?sig=hush"
    entry.request.request_headers.update({":path": "/a?access_token=hush", "x-session": "hush", "x-a": "1"})
    settings = config.Redaction(headers=("X-Session",))
    reader = EntryReader(identifier(), Decoder(Redaction(settings.headers, settings.query)))
    made = read(reader, entry)
    assert b"hush" not in made.to_json()
    assert b"hush" not in made.to_protobuf()
    assert made.get("url_query") == "access_token=REDACTED&page=1"
    assert made.get("http_request_header") == {":path": "/a?access_token=REDACTED", "x-a": "1"}


@pytest.mark.parametrize("query", ["token=hush", "a=1&Token=hush", "%74oken=hush", "to\u212aen=hush"])
def test_one_secret_among_many_paths_is_found(query: str) -> None:
    paths = ["/", "/tokens", "/a?b=c", f"/a?{query}", "/a?b", f"/{'x' * 1000}?b=c"]
    reader = EntryReader(identifier(), Decoder(Redaction(query=["token"])))
    made = reader.http([http_entry(path=path).SerializeToString() for path in paths])
    found = [(each.get("url_path"), each.get("url_query")) for each in made]
    replaced = query.replace("hush", "REDACTED")
    assert found == [
        ("/", None),
        ("/tokens", None),
        ("/a", "b=c"),
        ("/a", replaced),
        ("/a", "b"),
        (f"/{'x' * 1000}", "b=c"),
    ]
