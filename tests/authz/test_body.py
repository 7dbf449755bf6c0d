"""Bodies, as OPA's Envoy plugin parses them."""

from typing import Any

import orjson
import pytest

from mixer.authz.body import Bodies
from mixer.authz.url import BadRequestError, parse_path, parse_query


def parse_body(headers: dict[str, str], body: str, raw_body: bytes) -> tuple[Any, bool]:
    return Bodies().parse(headers, body, raw_body, "/")


# Multipart bodies, as Go's reader takes them: more or less than that would let a policy see another form than the
# upstream does.


def form(body: str, content_type: str = "multipart/form-data; boundary=b") -> Any:
    return parse_body({"content-type": content_type}, body, b"")[0]


FIELD = 'Content-Disposition: form-data; name="a"'


@pytest.mark.parametrize(
    ("body", "parsed"),
    [
        (f"--b\r\n{FIELD}\r\n\r\nx\r\n--b--\r\n", {"a": ["x"]}),
        (f"--b\r\n{FIELD}\r\n\r\nx\r\n--b--", {"a": ["x"]}),
        (f"--b\n{FIELD}\n\nx\n--b--\n", {"a": ["x"]}),
        (f"before\r\n--b \t\r\n{FIELD}\r\n\r\nx\r\n--b--after", "refused"),
        (f"before\r\n--b \t\r\n{FIELD}\r\n\r\nx\r\n--b--\r\nafter", {"a": ["x"]}),
        (f"--b\r\n{FIELD}\r\n\r\n\r\n--b\r\n{FIELD}\r\n\r\n2\r\n--b--", {"a": ["", "2"]}),
        (f"--b\r\n{FIELD}\r\n\r\n--b--\r\n", {"a": [""]}),
        (f"--b\r\n{FIELD}\r\n\r\n--bc\r\n--b-x\r\n--b--", {"a": ["--bc\r\n--b-x"]}),
        (f"--b\r\n{FIELD}\r\nContent-Type: application/json\r\n\r\n[1]\r\n--b--", {"a": [[1]]}),
        (f"--b\r\n{FIELD}\r\nContent-Type: multipart/mixed; boundary=c\r\n\r\n--c\r\n\r\nx\r\n--c--\r\n--b--",
         {"a": ["--c\r\n\r\nx\r\n--c--"]}),
        (f"--b\r\n{FIELD}\r\nContent-Type: message/rfc822\r\n\r\nA: x\r\n\r\ny\r\n--b--", {"a": ["A: x\r\n\r\ny"]}),
        (f"--b\r\n{FIELD}\r\nContent-Transfer-Encoding: Quoted-Printable\r\n\r\na=3Db=\r\nc=zz \r\n--b--",
         {"a": ["a=bc=zz"]}),
        (f"--b\r\n{FIELD}\r\nContent-Transfer-Encoding: base64\r\n\r\neA==\r\n--b--", {"a": ["eA=="]}),
        ("--b\r\nContent-Disposition: form-data;\r\n name=a\r\n\r\nx\r\n--b--", {"a": ["x"]}),
        ("--b\r\ncontent-disposition: FORM-DATA; NAME=a; filename=f\r\n\r\nx\r\n--b--", {"a": ["x"]}),
        ("--b\r\nContent-Disposition: form-data; name*=utf-8''%C3%A9\r\n\r\nx\r\n--b--", {"é": ["x"]}),
        ("--b\r\nContent-Disposition: form-data; name*0=a; name*1=b\r\n\r\nx\r\n--b--", {"ab": ["x"]}),
        ("--b\r\nContent-Disposition: form-data; name=a; name=b\r\n\r\nx\r\n--b--", {}),
        ("--b\r\nContent-Disposition: attachment; name=a\r\n\r\nx\r\n--b--", {}),
        ("--b\r\n\r\nx\r\n--b--", {}),
        (f"--b\r\n{FIELD}\r\n", {}),
        # refused
        ("", None),
        (f"--b\r\n{FIELD}\r\n\r\nx", "refused"),
        (f"--b\r\n{FIELD}\r\n\r\nx\r\n--b", "refused"),
        (f"--b\n{FIELD}\n\nx\r\n--b--\r\n", "refused"),
        (f"--b\r\n {FIELD}\r\n\r\nx\r\n--b--", "refused"),
        ("--b\r\nno colon\r\n\r\nx\r\n--b--", "refused"),
        ("--b\r\nna\x01me: x\r\n\r\nx\r\n--b--", "refused"),
        (f"--b\r\n{FIELD}\r\nContent-Type: application/json\r\n\r\n[\r\n--b--", "refused"),
        (f"--b\r\n{FIELD}\r\nContent-Transfer-Encoding: quoted-printable\r\n\r\n\x01\r\n--b--", "refused"),
        ("no boundary at all", "refused"),
        # as much as Go's reader takes, and one more
        (f"--b\r\nX:\r\n{FIELD}\r\n" + "Y:\r\n" * 9_998 + " y\r\n\r\nx\r\n--b--", {"a": ["x"]}),
        (f"--b\r\nX:\r\n{FIELD}\r\n" + "Y:\r\n" * 9_999 + "\r\nx\r\n--b--", "refused"),
        ("a" * 4094 + f"\r\n--b\r\n{FIELD}\r\n\r\nx\r\n--b--", {"a": ["x"]}),
        ("a" * 4095 + f"\r\n--b\r\n{FIELD}\r\n\r\nx\r\n--b--", "refused"),
        (f"--b\r\n{FIELD}\r\n\r\nx\r\n--b--" + " " * 4090, {"a": ["x"]}),
        (f"--b\r\n{FIELD}\r\n\r\nx\r\n--b--" + " " * 4091, "refused"),
        *((f"--b\r\n{FIELD}\r\nContent-Transfer-Encoding: quoted-printable\r\n\r\n{sent}\r\n--b--", parsed)
          for sent, parsed in (
              ("a" * 4093 + "=\r\nb", {"a": ["a" * 4093 + "b"]}), ("a" * 4094 + "=\r\nb", "refused"),
              ("a" * 4096, {"a": ["a" * 4096]}), ("a" * 4097, "refused"),
          )),
    ],
)  # fmt: skip
def test_multipart_is_read_as_go_reads_it(body: str, parsed: object) -> None:
    if parsed == "refused":
        with pytest.raises(BadRequestError):
            form(body)
    else:
        assert form(body) == parsed


@pytest.mark.parametrize(
    ("content_type", "parsed"),
    [
        ('multipart/form-data; boundary="b"', {"a": ["x"]}),
        ("Multipart/Form-Data; boundary=b; multipart/form-data", "refused"),
        ("multipart/form-data;boundary=b;", {"a": ["x"]}),
        ("multipart/form-data; BOUNDARY = b", {"a": ["x"]}),
        ("multipart/form-data; boundary=b; boundary=b", {"a": ["x"]}),
        ("multipart/form-data", None),
        ("multipart/form-data; boundary=", "refused"),
        ('multipart/form-data; boundary=""', "refused"),
        ('multipart/form-data; boundary="b', "refused"),
        ("multipart/form-data; boundary=b; boundary=c", "refused"),
        ("multipart/form-data; charset", "refused"),
        ("x multipart/form-data; boundary=b", "refused"),
    ],
)
def test_type_of_a_multipart_body_is_read_as_go_reads_it(content_type: str, parsed: object) -> None:
    body = f"--b\r\n{FIELD}\r\n\r\nx\r\n--b--\r\n"
    if parsed == "refused":
        with pytest.raises(BadRequestError):
            form(body, content_type)
    else:
        assert form(body, content_type) == parsed


@pytest.mark.parametrize("levels", [101, 300, 1000, 100_000])
def test_json_nested_too_deeply_is_a_bad_request(levels: int) -> None:
    """The engine could not read it, and its error would be for Envoy's failure mode, which may let it pass."""
    with pytest.raises(BadRequestError):
        parse_body({"content-type": "application/json"}, "[" * levels + "]" * levels, b"")
    with pytest.raises(BadRequestError):
        parse_body({"content-type": "application/json"}, '{"a":' * levels + "1" + "}" * levels, b"")


def test_json_of_many_boxes_and_few_levels_is_parsed() -> None:
    body = "[" + ",".join(["[[]]"] * 1000) + "]"
    assert len(parse_body({"content-type": "application/json"}, body, b"")[0]) == 1000
    deepest = "[" * 100 + "]" * 100
    assert parse_body({"content-type": "application/json"}, deepest, b"")[0] is not None


def test_grpc_body_is_never_truncated_without_descriptors() -> None:
    headers = {"content-type": "application/grpc", "content-length": "many"}
    assert parse_body(headers, "", b"\0\0\0\0\5hello") == (None, False)


@pytest.mark.parametrize(
    ("length", "outcome"),
    [
        ("1", False), ("2", False), ("+2", False), ("-1", False), ("3", True), ("0000000000000000000000003", True),
        ("9223372036854775807", True), ("9223372036854775808", "refused"), ("-9223372036854775808", False),
        ("-9223372036854775809", "refused"), ("2.0", "refused"), ("", "refused"),
        ("٣", "refused"), ("1_0", "refused"), (" 2", "refused"),
    ],
)  # fmt: skip
def test_content_length_is_a_number_of_64_bits(length: str, outcome: object) -> None:
    headers = {"content-type": "application/json", "content-length": length}
    if outcome == "refused":
        with pytest.raises(BadRequestError):
            parse_body(headers, "12", b"")
    else:
        assert parse_body(headers, "12", b"")[1] is outcome


@pytest.mark.parametrize(
    ("text", "parsed"),
    [
        (r'"\ud800"', "\ufffd"), (r'"\ud800\u0041"', "\ufffdA"), (r'"\udc00\ud800"', "\ufffd\ufffd"),
        (r'"\uD800\uD800\uDC00"', "\ufffd\U00010000"), (r'"\\ud800"', "\\ud800"), (r'"\ud800\\udc00"', "\ufffd\\udc00"),
        (r'["\ud83d\ude00", "\ud83d"]', ["\U0001f600", "\ufffd"]), (r'{"\ud800": 1}', {"\ufffd": 1}),
    ],
)  # fmt: skip
def test_half_of_a_surrogate_pair_is_the_replacement_character(text: str, parsed: object) -> None:
    assert parse_body({"content-type": "application/json"}, text, b"")[0] == parsed


@pytest.mark.parametrize(
    "text", [r'"\ud83"', r'["\ud800", 1', r'"\ud8zz\udc00"', r'"\ud800\udc0g"', r'"\x\ud800"', "1e400"]
)
def test_half_of_a_surrogate_pair_excuses_no_other_mistake(text: str) -> None:
    """1e400 is no mistake for the plugin; for the embedded engine it is more than a number can be."""
    with pytest.raises(BadRequestError):
        parse_body({"content-type": "application/json"}, text, b"")


@pytest.mark.parametrize(
    ("text", "parsed"),
    [
        ('{"a": 1} null', {"a": 1}), (" 1null", 1), ("[]\tnull[", []), ("nullnull true", None), ('"null"null', "null"),
        ("2.50 null", 2.5), (r'"\ud800" null', "\ufffd"),
        *((text, "refused") for text in (
            "{} nul", "nulltrue", "{} true null", "{} ]null", "{}\x0bnull", "null,null", "1e400 null", "NaN null",
            "[null", "18446744073709551616 null", "[" * 101 + "]" * 101 + "null", "[" * 100_000 + "null",
        )),
    ],
)  # fmt: skip
def test_null_after_a_value_ends_it_as_for_go(text: str, parsed: object) -> None:
    """What comes after is not looked at: so the plugin reads such a body, and what it shows is what is shown here."""
    if parsed == "refused":
        with pytest.raises(BadRequestError):
            parse_body({"content-type": "application/json"}, text, b"")
    else:
        assert parse_body({"content-type": "application/json"}, text, b"") == (parsed, False)


@pytest.mark.parametrize("separators", [9_999, 10_000, 100_000])
def test_parameters_are_10000_at_most(separators: int) -> None:
    text = "a" + "&" * (separators - 1) + "&b=1"
    headers = {"content-type": "application/x-www-form-urlencoded"}
    if separators < 10_000:
        assert parse_query(text) == parse_body(headers, text, b"")[0] == {"a": [""], "b": ["1"]}
    else:
        with pytest.raises(BadRequestError):
            parse_query(text)
        with pytest.raises(BadRequestError):
            parse_body(headers, text, b"")


@pytest.mark.parametrize(
    "text",
    ["1E400", "-0", "2.50", "18446744073709551617", '{"a":[1e-400,1.0],"b":"\ufffd"}', "[1,2]"],
)
def test_exact_bodies_keep_numbers_as_they_are_written(text: str) -> None:
    headers = {"content-type": "application/json"}
    sent = text.replace("\ufffd", r"\ud800")
    parsed, _ = Bodies(exact=True).parse(headers, sent, b"", "/")
    assert orjson.dumps(parsed).decode() == text


@pytest.mark.parametrize(
    "text", ["NaN", "-Infinity", "1.", "[1.5", "01.5", '"\x011.5"', "[" * 101 + "1.5" + "]" * 101]
)
def test_exact_bodies_excuse_no_mistake(text: str) -> None:
    with pytest.raises(BadRequestError):
        Bodies(exact=True).parse({"content-type": "application/json"}, text, b"", "/")


def test_exact_bodies_end_at_a_null_too() -> None:
    parsed, _ = Bodies(exact=True).parse({"content-type": "application/json"}, "[1E400] null", b"", "/")
    assert orjson.dumps(parsed) == b"[1E400]"


@pytest.mark.parametrize(
    ("sent", "shown"),
    [(b"\xe2\x82a", "\ufffd\ufffda"), (b"\xf0\x9f\x98", "\ufffd" * 3), (b"\xed\xa0\x80", "\ufffd" * 3)],
)
def test_each_byte_that_is_no_utf8_is_a_replacement_character(sent: bytes, shown: str) -> None:
    escaped = "".join(f"%{byte:02x}" for byte in sent)
    assert parse_path(f"/{escaped}") == [shown]
    assert parse_query(f"{escaped}={escaped}") == {shown: [shown]}
    assert parse_body({"content-type": "application/json"}, "", b'"' + sent + b'"')[0] == shown
    part = b'--b\r\nContent-Disposition: form-data; name="a"\r\nContent-Type: application/json\r\n'
    encoded = escaped.replace("%", "=").upper().encode()
    part += b'Content-Transfer-Encoding: quoted-printable\r\n\r\n"' + encoded + b'"\r\n--b--'
    assert parse_body({"content-type": "multipart/form-data; boundary=b"}, "", part)[0] == {"a": [shown]}
