"""What the embedded engine knows of Rego's builtins: which it has, which we supply, which it must not run."""

import hashlib
import hmac
from collections.abc import Callable
from typing import Any


class BuiltinError(Exception):
    """A builtin's error: the call is undefined, as in OPA. Its text holds no value of the request."""


def _text(value: object) -> bytes:
    if not isinstance(value, str):
        raise BuiltinError("operand must be a string")
    return value.encode()


def _hmac(name: str) -> Callable[[object, object], str]:
    return lambda message, key: hmac.new(_text(key), _text(message), name).hexdigest()


# Builtins that regorus lacks, with the number of operands. Each decides as OPA 1.22's does.
SUPPLIED: dict[str, tuple[int, Callable[..., Any]]] = {
    "crypto.md5": (1, lambda text: hashlib.md5(_text(text), usedforsecurity=False).hexdigest()),
    "crypto.sha1": (1, lambda text: hashlib.sha1(_text(text), usedforsecurity=False).hexdigest()),
    "crypto.sha256": (1, lambda text: hashlib.sha256(_text(text)).hexdigest()),
    "crypto.hmac.md5": (2, _hmac("md5")),
    "crypto.hmac.sha1": (2, _hmac("sha1")),
    "crypto.hmac.sha256": (2, _hmac("sha256")),
    "crypto.hmac.sha512": (2, _hmac("sha512")),
    "crypto.hmac.equal": (2, lambda one, other: hmac.compare_digest(_text(one), _text(other))),
}

# Builtins of regorus 0.13 that decide as OPA's do.
NATIVE = frozenset(
    """
    abs array.concat array.reverse array.slice base64.decode base64.encode base64.is_valid
    base64url.decode base64url.encode base64url.encode_no_pad bits.and bits.lsh bits.negate bits.or
    bits.rsh bits.xor ceil concat contains count endswith floor format_int glob.match glob.quote_meta
    graph.reachable graph.reachable_paths hex.decode hex.encode indexof indexof_n intersection is_array
    is_boolean is_null is_number is_object is_set is_string json.filter json.is_valid json.marshal
    json.marshal_with_options json.patch json.remove json.unmarshal lower max min net.cidr_contains
    net.cidr_expand net.cidr_is_valid numbers.range numbers.range_step object.filter object.get
    object.keys object.remove object.subset object.union object.union_n print product rand.intn
    regex.find_all_string_submatch_n regex.find_n regex.is_valid regex.match regex.replace regex.split
    regex.template_match replace round semver.compare semver.is_valid sort split sprintf startswith
    strings.any_prefix_match strings.any_suffix_match strings.reverse substring sum time.add_date
    time.clock time.date time.diff time.format time.now_ns time.parse_duration_ns time.parse_ns
    time.parse_rfc3339_ns time.weekday to_number trace trim trim_left trim_prefix trim_right trim_space
    trim_suffix type_name union units.parse units.parse_bytes upper urlquery.decode
    urlquery.decode_object urlquery.encode urlquery.encode_object uuid.rfc4122 walk yaml.marshal
    yaml.unmarshal
    """.split()  # noqa: SIM905
)

# Builtins that regorus 0.13 has and answers otherwise than OPA, in silence or as a stub.
DIFFERENT = frozenset(
    """
    http.send json.match_schema json.verify_schema opa.runtime strings.count strings.replace_n
    uuid.parse yaml.is_valid
    """.split()  # noqa: SIM905
)

# An equal input may get another answer. `io.jwt.decode_verify` reads the clock too, and says until when it holds.
NONDETERMINISTIC = frozenset(["rand.intn", "time.now_ns", "uuid.rfc4122"])
