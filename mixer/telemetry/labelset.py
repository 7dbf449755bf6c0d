"""The labels of a metric as the settings have them, made into functions over records.

What can be worked out once for many records is: a record's `key` says which those are.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from operator import itemgetter

from mixer.config import Label
from mixer.telemetry import labels
from mixer.telemetry.record import AccessRecord, accessor
from mixer.telemetry.series import MAX_VALUE
from mixer.telemetry.templates import Templates

MAX_KNOWN = 4096  # values whose rewriting is remembered
MAX_TEXT = 8192  # characters of a value that a regular expression looks at

Values = tuple[str, ...]
Read = Callable[[AccessRecord], str]
_ISTIO = {name: at for at, name in enumerate(labels.HTTP)}


class LabelError(ValueError):
    """A label cannot be had. `key`: of the setting; the rest as in `mixer.errors.Problem`."""

    def __init__(self, key: str, expected: str, got: str | None = None) -> None:
        super().__init__(expected)
        self.key = key
        self.expected = expected
        self.got = got


@dataclass(frozen=True, slots=True)
class LabelSet:
    """`names`, and the values of a record: `pick` makes them of `labels.either` and of what `read` said of the record.

    `read` is asked for each record, and what it says, with `labels.key` of the record, stands for the values.
    `istio`: whether Istio's labels matter at all.
    """

    names: Values
    read: tuple[Read, ...]
    pick: Callable[[Values, Values], Values]
    istio: bool = True


def label_set(own: Values, settings: Mapping[str, Label | None]) -> LabelSet:
    """`own`: which of Istio's labels the metric has where the settings do not say otherwise. Raises `LabelError`."""
    chosen: dict[str, Label] = {name: Label(field=(name,), default="") for name in own}
    for name, setting in settings.items():
        if setting is not None:
            chosen[name] = setting if setting.field else setting.model_copy(update={"field": (name,)})
        elif chosen.pop(name, None) is None and name not in _ISTIO:
            raise LabelError(name, "one of Istio's labels to take away", "off")
    reads: list[Read] = []
    makes: list[Callable[[Values, Values], str]] = []
    places = [_place(name, label, reads, makes) for name, label in chosen.items()]
    starts = {"istio": 0, "read": len(labels.HTTP), "made": len(labels.HTTP) + len(reads)}
    choose = _chooser([starts[part] + place for part, place in places])

    def pick(istio: Values, read: Values) -> Values:
        return choose((*istio, *read, *[make(istio, read) for make in makes]))

    return LabelSet(
        tuple(chosen),
        tuple(reads),
        pick,
        any(field in _ISTIO for label in chosen.values() for field in label.field),
    )


def _chooser(places: Sequence[int]) -> Callable[[Values], Values]:
    """The values at these places, in one call."""
    if len(places) > 1:
        return itemgetter(*places)
    return lambda row: tuple([row[place] for place in places])


def _place(
    name: str, label: Label, reads: list[Read], makes: list[Callable[[Values, Values], str]]
) -> tuple[str, int]:
    """Where a label's value is: in Istio's, in what is read of a record, or made of both. It may add to these."""
    rewrite = _rewriting(name, label)
    default = label.default
    if not any(field in _ISTIO for field in label.field):
        reads.append(_first([text(field, f"{name}.field") for field in label.field], rewrite, default))
        return "read", len(reads) - 1
    if len(label.field) == 1 and rewrite is None and not default:
        return "istio", _ISTIO[label.field[0]]
    sources: list[tuple[bool, int]] = []
    for field in label.field:
        if field in _ISTIO:
            sources.append((True, _ISTIO[field]))
        else:
            sources.append((False, len(reads)))
            reads.append(_first([text(field, f"{name}.field")], None, ""))

    def make(istio: Values, read: Values) -> str:
        for from_istio, at in sources:
            value = istio[at] if from_istio else read[at]
            if value and value != labels.UNKNOWN:
                return (rewrite(value) if rewrite else value) or default
        return default

    makes.append(make)
    return "made", len(makes) - 1


def _first(reads: Sequence[Read], rewrite: Callable[[str], str] | None, default: str) -> Read:
    """The first value that there is, rewritten."""
    if rewrite is None and len(reads) == 1:
        (only,) = reads
        return lambda record: only(record)[:MAX_VALUE] or default

    def read(record: AccessRecord) -> str:
        for each in reads:
            if value := each(record):
                return ((rewrite(value) if rewrite else value) or default)[:MAX_VALUE]
        return default

    return read


def text(field: str, key: str) -> Read:
    """A function for a field's value as text, "" where it is absent. Raises `LabelError`."""
    if field == "envoy.upstream_cluster":
        return lambda record: record.cluster
    if field == "server.address":
        return lambda record: record.shape.host
    if field == "http.response.status_code":
        return lambda record: str(record.shape.status or "")
    try:
        read = accessor(field)
    except KeyError:
        expected = (
            'a field of a record, such as "url.path" or "http.request.header.x-tenant", '
            "or one of Istio's labels"
        )
        raise LabelError(key, expected, f'"{field}"') from None

    def value(record: AccessRecord) -> str:
        found = read(record)
        return "" if found is None else found if isinstance(found, str) else str(found)

    return value


def _rewriting(name: str, label: Label) -> Callable[[str], str] | None:
    if label.templates:
        if label.regex is not None:
            raise LabelError(f"{name}.regex", "either templates or regex")
        try:
            return Templates(label.templates)
        except ValueError as error:
            raise LabelError(f"{name}.templates", str(error)) from None
    if label.regex is None:
        return None
    match = pattern(label.regex, f"{name}.regex")
    parts: list[str | int] = []
    for part in re.split(r"(\$\$|\$\d+|\$\{\d+\})", label.replacement):
        if part.startswith("$") and part != "$$":
            parts.append(int(part.strip("${}")))
        elif part:
            parts.append("$" if part == "$$" else part)
    groups = match.groups
    if unknown := [part for part in parts if isinstance(part, int) and part > groups]:
        what = f"groups up to ${groups}, as many as regex has"
        raise LabelError(f"{name}.replacement", what, f"${unknown[0]}")
    known: dict[str, str] = {}

    def rewrite(value: str) -> str:
        if (found := known.get(value)) is not None:
            return found
        hit = match.fullmatch(value) if len(value) <= MAX_TEXT else None
        made = value if hit is None else "".join([p if isinstance(p, str) else hit[p] or "" for p in parts])
        made = made[:MAX_VALUE]
        if len(value) <= MAX_VALUE:
            if len(known) >= MAX_KNOWN:
                known.clear()
            known[value] = made
        return made

    return rewrite


def pattern(regex: str, key: str):  # type: ignore[no-untyped-def]
    """A compiled regular expression of RE2. Raises `LabelError`."""
    import re2  # 3 MB of memory that not every process needs

    options = re2.Options()
    options.log_errors = False
    try:
        return re2.compile(regex, options)
    except re2.error as error:
        told = error.args[0].decode() if isinstance(error.args[0], bytes) else error
        raise LabelError(key, f"a regular expression of RE2 ({told})", f'"{regex}"') from None
