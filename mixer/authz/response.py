"""A decision as a CheckResponse, checked as OPA's Envoy plugin checks it (`envoyauth/response.go`).

Beyond the plugin: a header may be an object {"value", "append_action", "keep_empty_value"}, a denial's body may be
any JSON, and `error_response` leaves a request to Envoy's failure mode. What the plugin takes means here the same.

An answer is built once for each decision text and kept as bytes with a hole for the decision id, so that most
answers cost two concatenations.
"""

import re
import uuid
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import orjson
from envoy.config.core.v3.base_pb2 import HeaderValue, HeaderValueOption, QueryParameter
from envoy.service.auth.v3.external_auth_pb2 import CheckResponse, DeniedHttpResponse, OkHttpResponse
from envoy.type.v3.http_status_pb2 import HttpStatus, StatusCode
from google.protobuf.struct_pb2 import Struct
from google.rpc.code_pb2 import OK, PERMISSION_DENIED, RESOURCE_EXHAUSTED, UNAVAILABLE

from mixer.errors import DecisionError
from mixer.ratelimit.limiter import Counted, Limits

_HOLE = str(uuid.uuid4())  # nobody outside can know it, so it stands in an answer once
_KNOWN_STATUS = frozenset(StatusCode.values()) - {0}
_APPEND_ACTIONS = dict(HeaderValueOption.HeaderAppendAction.items())
_HEADER_FIELDS = frozenset(("value", "append_action", "keep_empty_value"))
_DURATION = re.compile(r"([0-9]{1,9}(?:\.[0-9]{1,9})?)(ms|s|m|h)")
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
_MEMO_ENTRIES = 4096
_MEMO_LENGTH = 8192  # characters of a decision; longer ones are rare and would make the memo's size unknown


def no_limits(_: object) -> Limits:
    """Reads `rate_limits` where there is nothing to count them with. Raises `DecisionError`."""
    raise DecisionError(
        "illegal", "illegal decision: rate_limits need the section rate_limits in Mixer's settings"
    )


@dataclass(frozen=True, slots=True)
class Answer:
    """A serialised CheckResponse around its decision id. `allowed` is None where the policy leaves the request to
    Envoy's failure mode. `cache_ttl`: seconds that the decision says it holds. `limits`: the limits that an allowed
    request is counted against; None where there are none."""

    allowed: bool | None
    before: bytes
    after: bytes
    cache_ttl: float | None = None
    limits: Limits | None = None

    def with_id(self, decision_id: str) -> bytes:
        return b"".join((self.before, decision_id.encode(), self.after))


class Answers:
    """Builds answers; `policy` and `revision` go into each one's dynamic metadata, for the record of the request.

    In a dry run every legal decision lets the request pass, unchanged unless the policy allowed it itself. A request
    that cannot be parsed is denied there too, as by the plugin.

    `read` takes in a decision's `rate_limits`; `always`: whether requests are counted whose decision has none.
    """

    def __init__(
        self,
        policy: str,
        revision: str,
        dry_run: bool = False,
        *,
        read: Callable[[object], Limits] = no_limits,
        always: bool = False,
    ) -> None:
        self._dry_run = dry_run
        self._read = read
        self._unasked = read([]) if always else None
        self._mixer = {"policy": policy, "revision": revision}
        self._kept = lru_cache(_MEMO_ENTRIES)(self._build)
        self._kept_over = lru_cache(_MEMO_ENTRIES)(self._build_over)
        self._limit = lru_cache(_MEMO_ENTRIES)(self._limit_metadata)

    def of(self, decision: str, cache: str) -> Answer:
        """The answer to a decision (JSON text). Raises `DecisionError` ("illegal") for one of another shape."""
        return (self._kept if len(decision) <= _MEMO_LENGTH else self._build)(decision, cache)

    def _build(self, decision: str, cache: str) -> Answer:
        value = orjson.loads(decision)
        if isinstance(value, bool):
            response = CheckResponse()
            response.status.code = OK if value else PERMISSION_DENIED
            answer = self._answer(response, value, None, cache)
            return replace(answer, limits=self._unasked) if value else answer
        if not isinstance(value, dict):
            raise _illegal("decision", "a boolean or an object", value)
        if not isinstance(allowed := value.get("allowed"), bool):
            raise _illegal("allowed", "a boolean (it is required)", allowed)
        headers = _headers(value, "headers")
        metadata = value.get("dynamic_metadata")
        if "dynamic_metadata" in value and not isinstance(metadata, dict):
            raise _illegal("dynamic_metadata", "an object", metadata)
        response = CheckResponse()
        if allowed:
            response.status.code = OK
            response.ok_response.CopyFrom(
                OkHttpResponse(
                    headers=headers,
                    headers_to_remove=_strings(value, "request_headers_to_remove"),
                    response_headers_to_add=_headers(value, "response_headers_to_add"),
                    query_parameters_to_set=_query_parameters(value),
                    query_parameters_to_remove=_strings(value, "query_parameters_to_remove"),
                )
            )
        elif "error_response" in value:
            # An Envoy that does not know error_response yet takes a status that is not OK for a denial.
            response.status.code = UNAVAILABLE
            response.error_response.CopyFrom(_error_response(value["error_response"]))
            return replace(self._answer(response, None, metadata, cache), cache_ttl=_cache_ttl(value))
        else:
            response.status.code = PERMISSION_DENIED
            status = HttpStatus(code=_status(value, "http_status", StatusCode.Forbidden))
            response.denied_response.CopyFrom(
                DeniedHttpResponse(status=status, headers=headers, body=_body(value, headers))
            )
        limits = self._asked(value) if allowed else None
        answer = self._answer(response, allowed, metadata, cache)
        return replace(answer, cache_ttl=_cache_ttl(value), limits=limits)

    def _asked(self, decision: dict[str, Any]) -> Limits | None:
        if "rate_limits" in decision:
            return self._read(decision["rate_limits"])
        return self._unasked

    def counted(self, answer: Answer, decision: str, decision_id: str, cache: str, counted: Counted) -> bytes:
        """A serialised CheckResponse for an allowed request that was counted, not over any limit or let pass in a dry
        run: what `answer` says, and what the limits do."""
        if not counted.limit:
            return answer.with_id(decision_id)
        said = self._limit(counted.limit, counted.over, counted.on_error, counted.holds, cache)
        parts = [answer.with_id(decision_id), said]
        if counted.over and not self._dry_run:
            over = (self._kept_over if len(decision) <= _MEMO_LENGTH else self._build_over)(decision, cache)
            parts[0] = over.with_id(decision_id)
            parts.append(_over_limit(counted.status, counted.headers, counted.body))
        elif counted.headers and not counted.over:
            parts.append(_told(counted.headers))
        return b"".join(parts)

    def _build_over(self, decision: str, cache: str) -> Answer:
        """Of an answer over the limit what is the decision's own: its metadata."""
        value = orjson.loads(decision)
        response = CheckResponse()
        response.status.code = RESOURCE_EXHAUSTED
        return self._filled(
            response, False, value.get("dynamic_metadata") if isinstance(value, dict) else None, cache
        )

    def _limit_metadata(self, limit: str, over: bool, on_error: str, holds: bool, cache: str) -> bytes:
        """The dynamic metadata `mixer`, in place of that of the answer which it follows."""
        told: dict[str, Any] = {**self._mixer, "cache": cache}
        told |= {"limit": limit, "code": "OVER_LIMIT" if over else "OK"}
        if on_error:
            told["on_error"] = on_error
        if holds:
            told["holds"] = True  # slots, under the decision's id, which Report gives back
        serialised: bytes = CheckResponse(dynamic_metadata=_struct({"mixer": told})).SerializeToString()
        return serialised

    def bad_request(self, message: str) -> Answer:
        """The plugin's answer to a request that cannot be parsed."""
        response = CheckResponse()
        response.status.code = PERMISSION_DENIED
        response.status.message = message
        response.denied_response.status.code = StatusCode.BadRequest
        response.denied_response.body = message
        return self._filled(response, False, {"reason": "request_malformed"}, "off")

    def _answer(
        self, response: CheckResponse, allowed: bool | None, metadata: dict[str, Any] | None, cache: str
    ) -> Answer:
        if self._dry_run and not allowed:
            response.status.code = OK
            response.ok_response.SetInParent()
        return self._filled(response, allowed, metadata, cache)

    def _filled(
        self, response: CheckResponse, allowed: bool | None, metadata: dict[str, Any] | None, cache: str
    ) -> Answer:
        filled = dict(metadata or ())
        filled["mixer"] = {**self._mixer, "cache": cache}
        filled["decision_id"] = _HOLE
        try:
            response.dynamic_metadata.CopyFrom(_struct(filled))
        except (ValueError, TypeError, OverflowError):
            raise DecisionError(
                "illegal", "dynamic_metadata holds a value that protobuf's Struct cannot"
            ) from None
        before, _, after = response.SerializeToString().partition(_HOLE.encode())
        return Answer(allowed, before, after)


@lru_cache(_MEMO_ENTRIES)
def _told(headers: tuple[tuple[str, str], ...]) -> bytes:
    """Headers for the client, as a part of an allowing answer."""
    options = [
        HeaderValueOption(
            header=HeaderValue(key=name, value=value),
            append_action=HeaderValueOption.OVERWRITE_IF_EXISTS_OR_ADD,
        )
        for name, value in headers
    ]
    ok = OkHttpResponse(response_headers_to_add=options)
    serialised: bytes = CheckResponse(ok_response=ok).SerializeToString()
    return serialised


@lru_cache(_MEMO_ENTRIES // 8)
def _over_limit(status: int, headers: tuple[tuple[str, str], ...], body: str) -> bytes:
    """The answer to the client, as a part of one over the limit."""
    denied = DeniedHttpResponse(
        status=HttpStatus(code=status),
        headers=[HeaderValueOption(header=HeaderValue(key=name, value=value)) for name, value in headers],
        body=body,
    )
    serialised: bytes = CheckResponse(denied_response=denied).SerializeToString()
    return serialised


def _struct(value: dict[str, Any]) -> Struct:
    struct = Struct()
    struct.update(value)
    return struct


def _illegal(field: str, expected: str, got: object) -> DecisionError:
    """The type of what was got, not its value: a decision may hold secrets."""
    kind = {
        bool: "a boolean",
        int: "the number {}",
        float: "the number {}",
        str: "a string",
        list: "an array",
        dict: "an object",
    }
    shown = "nothing" if got is None else kind.get(type(got), "something else").format(got)
    return DecisionError("illegal", f"illegal decision: {field} must be {expected}, not {shown}")


def _error_response(given: object) -> DeniedHttpResponse:
    """What the client gets should Envoy refuse the request; Envoy's own status unless `http_status` is given."""
    if not isinstance(given, dict):
        raise _illegal("error_response", "an object", given)
    headers = _headers(given, "headers", "error_response.")
    body = _body(given, headers)
    if "http_status" not in given:
        return DeniedHttpResponse(headers=headers, body=body)
    status = HttpStatus(code=_status(given, "http_status", StatusCode.Empty, "error_response."))
    return DeniedHttpResponse(status=status, headers=headers, body=body)


def _status(given: dict[str, Any], field: str, default: int, where: str = "") -> Any:
    status = given.get(field, default)
    if isinstance(status, bool) or not isinstance(status, int) or status not in _KNOWN_STATUS:
        raise _illegal(where + field, "a whole number that Envoy knows as an HTTP status", status)
    return status


def _body(given: dict[str, Any], headers: list[HeaderValueOption]) -> str:
    """Text as it is; anything else as JSON, with its content-type unless `headers` have one."""
    body = given.get("body", "")
    if isinstance(body, str):
        return body
    if not any(option.header.key.lower() == "content-type" for option in headers):
        headers.append(HeaderValueOption(header=HeaderValue(key="content-type", value="application/json")))
    return orjson.dumps(body).decode()


def _headers(decision: dict[str, Any], field: str, where: str = "") -> list[HeaderValueOption]:
    """An object, or an array of objects; values strings, objects, or arrays of these."""
    given = decision.get(field, {})
    result: list[HeaderValueOption] = []
    for group in given if isinstance(given, list) else [given]:
        if not isinstance(group, dict):
            raise _illegal(where + field, "an object or an array of objects", group)
        for name, value in group.items():
            items = value if isinstance(value, list) else [value]
            result += [_header(name, item, f"{where}{field}[{name!r}]") for item in items]
    return result


def _header(name: str, given: object, where: str) -> HeaderValueOption:
    if isinstance(given, str):
        return HeaderValueOption(header=HeaderValue(key=name, value=given))
    if not isinstance(given, dict):
        raise _illegal(where, "a string, an object with a value, or an array of these", given)
    if unknown := sorted(given.keys() - _HEADER_FIELDS):
        raise DecisionError(
            "illegal", f"illegal decision: {where} has {unknown[0]!r}, not one of {sorted(_HEADER_FIELDS)}"
        )
    if not isinstance(value := given.get("value"), str):
        raise _illegal(f"{where}.value", "a string", value)
    action = given.get("append_action", "APPEND_IF_EXISTS_OR_ADD")
    if not isinstance(action, str) or action not in _APPEND_ACTIONS:
        raise _illegal(f"{where}.append_action", f"one of {', '.join(_APPEND_ACTIONS)}", action)
    if not isinstance(keep := given.get("keep_empty_value", False), bool):
        raise _illegal(f"{where}.keep_empty_value", "a boolean", keep)
    return HeaderValueOption(
        header=HeaderValue(key=name, value=value),
        append_action=_APPEND_ACTIONS[action],
        keep_empty_value=keep,
    )


def _strings(decision: dict[str, Any], field: str) -> list[str]:
    given = decision.get(field, [])
    if not isinstance(given, list) or not all(isinstance(item, str) for item in given):
        raise _illegal(field, "an array of strings", given)
    return given


def _cache_ttl(decision: dict[str, Any]) -> float | None:
    """Seconds: a number, or a text such as "30s"."""
    if "cache_ttl" not in decision:
        return None
    given = decision["cache_ttl"]
    if isinstance(given, str) and (match := _DURATION.fullmatch(given)):
        return float(match[1]) * _SECONDS[match[2]]
    if isinstance(given, bool) or not isinstance(given, int | float) or given < 0:
        raise _illegal("cache_ttl", 'a number of seconds, not negative, or a text such as "30s"', given)
    return float(given)


def _query_parameters(decision: dict[str, Any]) -> list[QueryParameter]:
    given = decision.get("query_parameters_to_set", {})
    if not isinstance(given, dict):
        raise _illegal("query_parameters_to_set", "an object", given)
    result = []
    for name, value in given.items():
        for text in value if isinstance(value, list) else [value]:
            if not isinstance(text, str):
                raise _illegal(f"query_parameters_to_set[{name!r}]", "a string or an array of strings", text)
            result.append(QueryParameter(key=name, value=text))
    return result
