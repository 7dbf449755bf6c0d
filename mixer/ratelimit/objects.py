"""Limits as a policy writes them: objects, with the fields of a YAML file's `rate_limit` and some of their own.

    {"key": ["user", "alice"], "requests_per_unit": 60, "unit": "minute", "name": "per-user"}
    {"domain": "shop", "descriptors": [[{"key": "user", "value": "alice"}]]}

The first is a limit by itself. `key` names its counter, and nothing else does but its window: policies that write the
same key and window share a counter, on Check and on Quota. The second asks for the limits that files have for these
descriptors.
"""

import difflib
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import orjson
from envoy.service.ratelimit.v3.rls_pb2 import RateLimitRequest
from envoy.type.v3.http_status_pb2 import StatusCode

from mixer import config
from mixer.errors import RequestError
from mixer.metrics import Metrics
from mixer.ratelimit import claims, keys, rules
from mixer.ratelimit.answer import LimitTexts
from mixer.ratelimit.claims import Asked, Claim, Claims
from mixer.ratelimit.counters import EXACT, MAX_HITS, Hit, Rule
from mixer.ratelimit.limiter import IllegalLimitError
from mixer.ratelimit.section import LIMIT_KEYS, Findings, Section
from mixer.ratelimit.tree import Limit, OverLimit
from mixer.ratelimit.yaml_v2 import Node

MAX_LIMITS = 64  # of one evaluation
MAX_PARTS = 16  # of a key
MAX_KEY = 2048  # characters, all parts together
MAX_NAME = 200  # characters
MAX_BODY = 65536  # characters
MAX_HEADERS = 32
MAX_HEADER = 4096  # characters of a value

_FLAGS = ("shadow_mode", "quota_mode")
_KNOWN = (*LIMIT_KEYS, *_FLAGS)
_OWN = ("key", "hits", "over_limit")
_NUMBERS = ("requests_per_unit", "burst", "lot")
_DESCRIPTORS = frozenset(("domain", "descriptors", "hits_addend"))
_OVER_LIMIT = frozenset(("http_status", "headers", "body"))
_STATUS = frozenset(status for status in StatusCode.values() if status >= 400)
_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")  # RFC 9110, token
_HEADER_VALUE = re.compile(r"[^\x00-\x08\x0a-\x1f\x7f]*")

# What of an object is not its key and its hits comes again and again, and is read once.
_REMEMBERED = 1000
_REMEMBERED_BYTES = 4096

_NO_REQUEST = RateLimitRequest()


class Found:
    """Limits that a policy asks for. They are asked for again and again, so what is asked is made once."""

    __slots__ = ("asked", "claims", "holds")

    def __init__(self, claims: Sequence[Claim | None]) -> None:
        self.claims = tuple(claims)
        self.asked = Asked(_NO_REQUEST, list(claims))
        self.holds = any(hit.rule.algorithm == "concurrency" for hit in self.asked.hits)

    def __add__(self, other: "Found") -> "Found":
        return Found(self.claims + other.claims) if self.claims else other


@dataclass(frozen=True, slots=True)
class _Template:
    limit: Limit
    texts: LimitTexts
    tally: list[int]
    head: str  # of its counters' names


class Objects:
    """Reads what policies write. `claims`: of the files. `has_shares`: whether `on_error: local` has a meaning.
    `slots`: why there can be no `concurrency`, if so."""

    def __init__(
        self,
        claims: Claims,
        metrics: Metrics,
        *,
        counts_over: bool,
        has_shares: bool = False,
        slots: str | None = None,
    ) -> None:
        self._claims = claims
        self._tallies = metrics.limit_hits
        self._counts_over = counts_over
        self._has_shares = has_shares
        self._slots = slots
        self._templates: dict[bytes, _Template] = {}

    @classmethod
    def by(
        cls, settings: config.RateLimits, claims: Claims, metrics: Metrics, slots: str | None = None
    ) -> "Objects":
        """As the settings say."""
        shares = settings.instances is not None
        return cls(claims, metrics, counts_over=settings.count_over_limit, has_shares=shares, slots=slots)

    def read(self, given: object, what: str) -> Found:
        """The limits that `given` asks for; `what` names it in errors. Raises `IllegalLimitError`."""
        if not isinstance(given, list):
            raise _illegal(what, "an array or a set of objects", given)
        if len(given) > MAX_LIMITS:
            raise IllegalLimitError(
                f"illegal limit: {what}: expected at most {MAX_LIMITS} limits, got {len(given)}"
            )
        found: list[Claim | None] = []
        for index, item in enumerate(given):
            at = f"{what}[{index}]"
            if not isinstance(item, dict):
                raise _illegal(at, "an object", item)
            if "descriptors" in item:
                found += self._of_files(item, at)
            else:
                found.append(self._own(item, at))
        return Found(found)

    def _own(self, item: dict[str, Any], at: str) -> Claim:
        parts = _key(item, at)
        rest = {name: value for name, value in item.items() if name not in ("key", "hits")}
        if rest.get("name") in (None, ""):
            rest["name"] = parts[0][:MAX_NAME]
        text = orjson.dumps(rest)
        if (template := self._templates.get(text)) is None:
            template = self._template(rest, at)
            if len(text) <= _REMEMBERED_BYTES:
                if len(self._templates) >= _REMEMBERED:
                    self._templates.clear()
                self._templates[text] = template
        limit = template.limit
        if limit.rule is None:
            return Claim(limit, template.texts, template.tally, None)
        name = template.head + "".join(map(keys.MIXER.domain_part, parts))
        hits = _hits(item, limit.rule, at)
        hit = Hit(keys.bounded(name), limit.rule, hits)
        return Claim(limit, template.texts, template.tally, hit, has_hits="hits" in item)

    def _template(self, given: dict[str, Any], at: str) -> _Template:
        if "replaces" in given:
            raise IllegalLimitError(
                f"illegal limit: {at}.replaces: has its place in a file; leave the limit out"
            )
        known = [name for name in (*_KNOWN, *_OWN) if name != "replaces"]
        if unknown := sorted(given.keys() - set(known)):
            close = difflib.get_close_matches(unknown[0], known, n=1)
            hint = f'did you mean "{close[0]}"?' if close else f"known here: {', '.join(known)}"
            raise IllegalLimitError(f"illegal limit: {at}.{unknown[0][:80]}: unknown field; {hint}")
        over_limit = _over_limit(given["over_limit"], f"{at}.over_limit") if "over_limit" in given else None
        findings = Findings()
        rest = {name: value for name, value in given.items() if name not in _OWN}
        children = [node for pair in rest.items() for node in map(_node, pair)]
        for name, value in rest.items():
            if isinstance(value, float) and name not in _NUMBERS:
                raise _illegal(f"{at}.{name}", "no number with a fraction", value)
        section = Section("", at, Node("mapping", 1, children=children), _KNOWN, findings)
        name = section.text("name") or ""
        if len(name) > MAX_NAME:
            section.problem(section.at("name"), f"at most {MAX_NAME} characters", str(len(name)))
        unlimited = section.flag("unlimited")
        if not unlimited and not section.has("requests_per_unit"):
            section.problem(section.at("requests_per_unit"), "a number", "nothing")
        rate, unit, rule = rules.read(section, unlimited, self._counts_over)
        on_error = rules.on_error(section, self._has_shares)
        shadow_mode, quota_mode = map(section.flag, _FLAGS)
        for problem in (*findings.problems, *findings.warnings):
            got = "a string" if (problem.got or "").startswith('"') else problem.got
            told = problem.expected if got is None else f"expected {problem.expected}, got {got}"
            raise IllegalLimitError(f"illegal limit: {problem.path}: {told}")
        if self._slots is not None and rule is not None and rule.algorithm == "concurrency":
            raise IllegalLimitError(f"illegal limit: {at}.algorithm: {self._slots}")
        limit = Limit(
            full_key=name,
            requests_per_unit=rate,
            unit=unit,
            rule=rule,
            name=name,
            unlimited=unlimited,
            shadow_mode=shadow_mode,
            quota_mode=quota_mode,
            on_error=on_error,
            over_limit=over_limit,
        )
        # No domain of a file is empty, so no file has a name that begins so. The window is in it for the sake of what
        # is remembered by name.
        head = f"|{rule.seconds}|" if rule is not None else ""
        return _Template(limit, LimitTexts(limit), self._tallies.row(limit.label), head)

    def _of_files(self, item: dict[str, Any], at: str) -> list[Claim | None]:
        """The limits of files for descriptors."""
        if unknown := sorted(item.keys() - _DESCRIPTORS):
            raise IllegalLimitError(
                f"illegal limit: {at}.{unknown[0][:80]}: has no meaning beside descriptors; known here: "
                f"{', '.join(sorted(_DESCRIPTORS))}"
            )
        request = RateLimitRequest(domain=_text(item.get("domain"), f"{at}.domain"))
        addend = item.get("hits_addend", 1)
        if not _is_whole(addend) or not 0 <= addend <= MAX_HITS:
            raise _illegal(f"{at}.hits_addend", f"a whole number from 0 to {MAX_HITS}", addend)
        for number, entries in enumerate(_list(item["descriptors"], f"{at}.descriptors")):
            descriptor, place = request.descriptors.add(), f"{at}.descriptors[{number}]"
            for index, entry in enumerate(_list(entries, place)):
                here = f"{place}[{index}]"
                if not isinstance(entry, dict) or entry.keys() != {"key", "value"}:
                    raise _illegal(here, "an object with key and value", entry)
                descriptor.entries.add(
                    key=_text(entry["key"], f"{here}.key"), value=_text(entry["value"], f"{here}.value")
                )
        try:
            found = self._claims.of(request)
        except RequestError as error:
            raise IllegalLimitError(f"illegal limit: {at}: {error}") from None
        if addend == 1:
            return found
        counted = iter(claims.hits(found, int(addend)) if addend else ())
        return [
            claim
            if claim is None or claim.hit is None
            else claim._replace(hit=next(counted) if addend else claim.hit._replace(hits=0), has_hits=True)
            for claim in found
        ]


def _key(item: dict[str, Any], at: str) -> list[str]:
    given = item.get("key")
    parts = given if isinstance(given, list) else [given]
    if not 1 <= len(parts) <= MAX_PARTS:
        raise IllegalLimitError(f"illegal limit: {at}.key: expected 1 to {MAX_PARTS} parts, got {len(parts)}")
    texts: list[str] = []
    for index, part in enumerate(parts):
        where = f"{at}.key[{index}]" if isinstance(given, list) else f"{at}.key"
        if isinstance(part, bool) or not isinstance(part, str | int) or part == "":
            raise _illegal(where, "text or a whole number, or an array of these", part)
        texts.append(str(part))
    if (size := sum(map(len, texts))) > MAX_KEY:
        raise IllegalLimitError(f"illegal limit: {at}.key: expected at most {MAX_KEY} characters, got {size}")
    return texts


def _hits(item: dict[str, Any], rule: Rule, at: str) -> int:
    hits = item.get("hits", 1)
    least, most = (0, 1) if rule.algorithm == "concurrency" else (-MAX_HITS, MAX_HITS)
    if not _is_whole(hits) or not least <= hits <= most:
        raise _illegal(f"{at}.hits", f"a whole number from {least} to {most}", hits)
    return int(hits)


def _over_limit(given: object, at: str) -> OverLimit:
    """What the client gets over the limit."""
    if not isinstance(given, dict):
        raise _illegal(at, "an object", given)
    if unknown := sorted(given.keys() - _OVER_LIMIT):
        raise IllegalLimitError(
            f"illegal limit: {at}.{unknown[0][:80]}: unknown field; known here: {', '.join(sorted(_OVER_LIMIT))}"
        )
    status = given.get("http_status", 429)
    if not _is_whole(status) or status not in _STATUS:
        raise _illegal(f"{at}.http_status", "a status from 400 on that Envoy knows", status)
    headers = given.get("headers", {})
    if not isinstance(headers, dict) or len(headers) > MAX_HEADERS:
        raise _illegal(f"{at}.headers", f"an object of at most {MAX_HEADERS} strings", headers)
    named: list[tuple[str, str]] = []
    for name, value in headers.items():
        if not _HEADER_NAME.fullmatch(name):
            raise IllegalLimitError(f"illegal limit: {at}.headers: expected names of HTTP headers")
        if not isinstance(value, str) or len(value) > MAX_HEADER or not _HEADER_VALUE.fullmatch(value):
            raise _illegal(
                f"{at}.headers[{name!r}]", f"text of one line, at most {MAX_HEADER} characters", value
            )
        named.append((name, value))
    body = given.get("body", "")
    if not isinstance(body, str):
        body = orjson.dumps(body).decode()
        if not any(name.lower() == "content-type" for name, _ in named):
            named.append(("content-type", "application/json"))
    if len(body) > MAX_BODY:
        raise IllegalLimitError(
            f"illegal limit: {at}.body: expected at most {MAX_BODY} characters, got {len(body)}"
        )
    return OverLimit(int(status), tuple(named), body)


def _node(value: object) -> Node:
    """A value of JSON as a YAML file would have it. Of collections only their kind: no field is one."""
    if isinstance(value, dict | list):
        return Node("mapping" if isinstance(value, dict) else "list", 1)
    if isinstance(value, str):
        return Node("scalar", 1, text=value)
    if isinstance(value, float) and value.is_integer() and abs(value) < EXACT:
        value = int(value)
    return Node("scalar", 1, text="" if value is None else str(value), plain=True)


def _is_whole(value: object) -> bool:
    return not isinstance(value, bool) and (
        isinstance(value, int) or (isinstance(value, float) and value.is_integer())
    )


def _text(value: object, at: str) -> str:
    if not isinstance(value, str):
        raise _illegal(at, "text", value)
    return value


def _list(value: object, at: str) -> list[Any]:
    if not isinstance(value, list):
        raise _illegal(at, "an array", value)
    return value


_KINDS: dict[type, Callable[[Any], str]] = {
    bool: lambda _: "a boolean",
    int: lambda number: f"the number {number}",
    float: lambda number: f"the number {number}",
    str: lambda _: "a string",
    list: lambda _: "an array",
    dict: lambda _: "an object",
    type(None): lambda _: "nothing",
}


def _illegal(at: str, expected: str, got: object) -> IllegalLimitError:
    """The kind of what was got, not its text: it may be a secret."""
    return IllegalLimitError(f"illegal limit: {at}: expected {expected}, got {_KINDS[type(got)](got)}")
