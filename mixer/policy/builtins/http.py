"""What `http.send` takes and gives: its request, checked, and a reply as the object that a policy sees.

Who sends is `policy.network`. Source: OPA's `topdown/http.go`.
"""

import json
import re
from dataclasses import dataclass, field
from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import Any

import orjson
import yaml

from mixer.policy import yaml_data
from mixer.policy.builtins.durations import nanoseconds
from mixer.policy.builtins.gojson import dumps
from mixer.policy.builtins.operands import BuiltinError, mapping

_TEXTS = frozenset(
    """
    method url raw_body tls_ca_cert tls_ca_cert_file tls_ca_cert_env_variable tls_client_cert tls_client_cert_file
    tls_client_cert_env_variable tls_client_key tls_client_key_file tls_client_key_env_variable tls_server_name
    """.split()  # noqa: SIM905
)
_KEYS = _TEXTS | frozenset(
    """
    body enable_redirect force_json_decode force_yaml_decode headers tls_use_system_certs tls_insecure_skip_verify
    timeout cache force_cache force_cache_duration_seconds raise_error caching_mode max_retry_attempts
    cache_ignored_headers
    """.split()  # noqa: SIM905
)
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
CACHEABLE = frozenset([200, 203, 204, 206, 300, 301, 404, 405, 410, 414, 501])
INTERNAL, NETWORK = "eval_http_send_internal_error", "eval_http_send_network_error"

Headers = dict[str, list[str]]  # by lower-case name


class SendError(Exception):
    """A request that cannot be sent, or has no reply. `code`: OPA's, of the error that a policy sees."""

    def __init__(self, code: str, message: str) -> None:
        self.code = code
        super().__init__(message)


@dataclass(frozen=True, slots=True)
class Tls:
    """The `tls_…` parameters as given, without the prefix."""

    given: tuple[tuple[str, str], ...] = ()
    system_certs: bool = False
    insecure_skip_verify: bool = False
    server_name: str | None = None


@dataclass(frozen=True, slots=True)
class Request:
    """`timeout` in seconds, None where the policy names none; 0 is none at all. `force_cache`: seconds."""

    key: str  # equal for requests that may share a reply
    method: str = "GET"
    url: str = ""
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    kept_headers: dict[str, str] = field(default_factory=dict)  # without `cache_ignored_headers`
    tls: Tls = Tls()
    timeout: float | None = None
    redirects: bool = False
    retries: int = 0
    cache: bool = False
    force_cache: int = 0
    mode_known: bool = True
    as_json: bool = False
    as_yaml: bool = False


def raises(operand: object) -> bool:
    """Whether an error makes the call fail; else it is told in the reply."""
    given = mapping(operand).get("raise_error", True)
    if not isinstance(given, bool):
        raise BuiltinError("invalid value for raise_error field")
    return given


def request(operand: object) -> Request:
    """Raises `SendError` for one that OPA does not send."""
    given = mapping(operand)
    if unknown := given.keys() - _KEYS:
        raise SendError(INTERNAL, f"http.send: operand 1 invalid request parameters(s): {_set(unknown)}")
    if missing := {"method", "url"} - given.keys():
        raise SendError(
            INTERNAL, f"http.send: operand 1 missing required request parameters(s): {_set(missing)}"
        )
    for name in _TEXTS & given.keys():
        if not isinstance(given[name], str):
            raise SendError(INTERNAL, f'http.send: "{name}" must be a string')
    texts = {name: given[name].strip('"') for name in _TEXTS & given.keys()}
    headers = _headers(given.get("headers", {}))
    method = texts["method"].upper()
    if method and not _TOKEN.fullmatch(method):
        raise SendError(INTERNAL, f'http.send: net/http: invalid method "{method}"')
    force = _flag(given, "force_cache")
    ignored = _ignored(given)
    return Request(
        key=dumps({**given, "cache_ignored_headers": None, "headers": _without(given, ignored)}),
        method=method or "GET",
        url=texts["url"],
        body=texts["raw_body"].encode() if "raw_body" in texts else _body(given),
        headers=headers,
        kept_headers={name: value for name, value in headers.items() if name not in _canonical(ignored)},
        tls=_tls(given, texts, headers),
        timeout=_timeout(given["timeout"]) if "timeout" in given else None,
        redirects=_bool(given, "enable_redirect"),
        retries=_retries(given),
        cache=force or _flag(given, "cache"),
        force_cache=_duration(given) if force else 0,
        mode_known=given.get("caching_mode", "serialized") in ("serialized", "deserialized"),
        as_json=_flag(given, "force_json_decode"),
        as_yaml=_flag(given, "force_yaml_decode"),
    )


def _set(names: set[Any]) -> str:
    return "{" + ", ".join(sorted(map(dumps, names))) + "}"


def _canonical(names: Any) -> set[str]:
    return {_title(name) for name in names}


def _title(name: str) -> str:
    """A header's name as Go writes it; one that is no name stays."""
    return "-".join(part.capitalize() for part in name.split("-")) if _TOKEN.fullmatch(name) else name


def _headers(given: object) -> dict[str, str]:
    if not isinstance(given, dict):
        raise SendError(INTERNAL, "http.send: invalid type for headers key")
    for value in given.values():
        if not isinstance(value, str):
            raise SendError(INTERNAL, f"http.send: invalid type for headers value {dumps(value)}")
    return {_title(name if isinstance(name, str) else dumps(name)): value for name, value in given.items()}


def _ignored(given: dict[str, Any]) -> list[str]:
    if given.get("cache_ignored_headers") is None or "headers" not in given:
        return []
    ignored = given["cache_ignored_headers"]
    if not isinstance(ignored, list) or not all(isinstance(name, str) for name in ignored):
        raise SendError(INTERNAL, "cache_ignored_headers must be an array of strings")
    return ignored


def _without(given: dict[str, Any], ignored: list[str]) -> Any:
    headers = given.get("headers")
    if not isinstance(headers, dict):
        return headers
    return {name: value for name, value in headers.items() if name not in ignored}


def _body(given: dict[str, Any]) -> bytes:
    return dumps(given["body"]).encode() if "body" in given else b""


def _tls(given: dict[str, Any], texts: dict[str, str], headers: dict[str, str]) -> Tls:
    material = {
        name.removeprefix("tls_"): value
        for name, value in texts.items()
        if name.startswith("tls_") and name != "tls_server_name"
    }
    return Tls(
        tuple(sorted(material.items())),
        _bool(given, "tls_use_system_certs"),
        _bool(given, "tls_insecure_skip_verify"),
        texts.get("tls_server_name") or headers.get("Host") or None,
    )


def _bool(given: dict[str, Any], name: str) -> bool:
    """As Go's `strconv.ParseBool` reads what stands in Rego."""
    value = given.get(name, False)
    if isinstance(value, bool) or (isinstance(value, int) and value in (0, 1)):
        return bool(value)
    raise SendError(INTERNAL, f"http.send: strconv.ParseBool: parsing {dumps(dumps(value))}: invalid syntax")


def _flag(given: dict[str, Any], name: str) -> bool:
    value = given.get(name, False)
    if not isinstance(value, bool):
        raise SendError(INTERNAL, f'http.send: invalid value for "{name}" field')
    return value


def _retries(given: dict[str, Any]) -> int:
    value = given.get("max_retry_attempts", 0)
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise SendError(INTERNAL, f'invalid value {dumps(value)} for field "max_retry_attempts"')
    return value


def _duration(given: dict[str, Any]) -> int:
    value = given.get("force_cache_duration_seconds")
    if value is None:
        raise SendError(
            INTERNAL,
            "http.send: 'force_cache' set but 'force_cache_duration_seconds' parameter is missing",
        )
    if not isinstance(value, int) or isinstance(value, bool) or not -(2**31) <= value < 2**31:
        raise SendError(
            INTERNAL, f"http.send: strconv.ParseInt: parsing {dumps(dumps(value))}: invalid syntax"
        )
    return value


def _timeout(value: object) -> float:
    """Seconds; a number is of nanoseconds."""
    if isinstance(value, int) and not isinstance(value, bool):
        return value / 1e9
    if isinstance(value, str):
        if re.fullmatch(r"[+-]?[0-9]+", value):
            return int(value) / 1e9
        if (given := nanoseconds(value)) is not None:
            return given / 1e9
    raise SendError(INTERNAL, f"http.send: invalid timeout value {dumps(value)}")


@dataclass(frozen=True, slots=True)
class Reply:
    status: str
    code: int
    headers: Headers
    body: bytes

    def header(self, name: str) -> str:
        return (self.headers.get(name) or [""])[0]

    def to_json(self, asked: Request) -> str:
        """The object that a policy sees, as JSON text."""
        return orjson.dumps(
            {
                "status": self.status,
                "status_code": self.code,
                "raw_body": self.body.decode("utf-8", "replace"),
                "headers": self.headers,
                "body": orjson.Fragment(self._body(asked)),
            }
        ).decode()

    def _body(self, asked: Request) -> bytes:
        """The body as JSON; null where it is none, or none that OPA reads."""
        kind = self.header("content-type")
        if asked.as_json or _is_json(kind):
            return _first(self.body)
        if asked.as_yaml or "application/yaml" in kind or "application/x-yaml" in kind:
            try:
                return orjson.dumps(yaml_data.load(self.body.decode("utf-8", "replace")))
            except (yaml.YAMLError, ValueError, RecursionError):
                return b"null"
        return b"null"

    def storable(self) -> bool:
        return "no-store" not in self._directives() and self.code in CACHEABLE

    def expires(self) -> float:
        """Unix seconds; 0 where the reply does not say. Raises `ValueError` for what OPA does not keep."""
        age = self._directives().get("max-age")
        if age is None:
            try:
                return _date(self.header("expires"))
            except ValueError:
                return 0
        if not age.isdecimal():
            raise ValueError("max-age is no number")
        return _date(self.header("date")) + min(int(age), 2**31 - 1)

    def _directives(self) -> dict[str, str]:
        found = {}
        for part in self.header("cache-control").split(","):
            name, equals, value = part.strip(" ").partition("=")
            if "=" not in value and name:
                found[name.strip(" ") if equals else name] = value.strip(",")
        return found


def failure(error: SendError) -> str:
    """What a policy sees of an error, as JSON text."""
    return orjson.dumps({"status_code": 0, "error": {"code": error.code, "message": str(error)}}).decode()


def _first(body: bytes) -> bytes:
    """The JSON that a text begins with, which is all that OPA needs; null where there is none."""
    try:
        orjson.loads(body)
    except orjson.JSONDecodeError:
        text = body.decode("utf-8", "replace").lstrip(" \t\r\n")
        try:
            value, _ = json.JSONDecoder(parse_constant=_none).raw_decode(text)
            return orjson.dumps(value)
        except (ValueError, TypeError, RecursionError):
            return b"null"
    return body


def _none(constant: str) -> None:
    raise ValueError(constant)


def _is_json(content_type: str) -> bool:
    main, _, kind = content_type.partition(";")[0].strip().lower().partition("/")
    return main == "application" and "/" not in kind and (kind == "json" or kind.endswith("+json"))


def _date(text: str) -> float:
    """Raises `ValueError` for what is no HTTP date."""
    if not text:
        raise ValueError("no date")
    moment = parsedate_to_datetime(text)
    return moment.replace(tzinfo=moment.tzinfo or UTC).timestamp()
