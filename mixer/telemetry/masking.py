"""A mask of the operator's policies over records, as OPA's `system.log.mask` is one over its decision log.

The rule answers a set of paths (`"/url.query"`, `"/http.request.header/x-user"`), or of objects
`{"op": "remove" | "upsert", "path": …, "value": …}`, over an input that is the record as its JSON has it.
"""

import time
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any, NamedTuple

import orjson
import structlog

from mixer.decisions.mask import Mask, MaskError, masks
from mixer.decisions.policy import needed
from mixer.errors import PolicyError, Problem
from mixer.log import Throttle
from mixer.metrics import Metrics
from mixer.policy.budget import Budget
from mixer.policy.engine import Path
from mixer.policy.program import Program, rules_of
from mixer.policy.sources import Sources
from mixer.telemetry.peers import PEER_FIELDS
from mixer.telemetry.record import SCHEMA_FIELDS, TCP, AccessRecord, Origin, Shape
from mixer.telemetry.v1.access_record_pb2 import AccessRecord as Schema

log = structlog.get_logger()

MAX_KNOWN = 8192  # answers of the rule that are kept
MAX_KEY = 2048  # bytes of what the rule reads; what is longer is rarely the same

_NAMES = {field.json_name: name for name, field in SCHEMA_FIELDS.items()}
_ROOTS = tuple(sorted(_NAMES.keys() - {"event_id"}))  # that is what a record is told by
# What is beside the fields in a record, for metrics, and what it becomes when its field is masked.
_BESIDE: Mapping[str, dict[str, Any]] = {
    "envoy_upstream_cluster": {"cluster": ""},
    "duration": {"duration": None},
    "envoy_downstream_wire_bytes_received": {"received": 0},
    "envoy_downstream_wire_bytes_sent": {"sent": 0},
}

Masks = tuple[Mask, ...]


class Rewritten(NamedTuple):
    """The source of one record that was masked. See `record.Source`."""

    encoded: tuple[bytes]
    before: AccessRecord

    @property
    def event_ids(self) -> tuple[bytes]:
        return (self.before.event_id,)

    def ends(self, _: int) -> tuple[bytes, bytes, bytes]:
        return self.before.ends

    def holders(self, _: int) -> tuple[str, ...]:
        return self.before.holders


class RecordMask:
    """Masks records by a rule of the policies ("mixer/report/mask").

    What the rule answered is kept by what it can read, so that an equal record costs no evaluation. Raises
    `PolicyError` for policies without such a rule, or with one that cannot be used. It belongs to the thread that
    makes it.
    """

    def __init__(
        self,
        loaded: Sources,
        rule: str,
        metrics: Metrics,
        clock: Callable[[], float] = time.time,
        budget: Budget | None = None,
    ) -> None:
        package = rule.rpartition("/")[0]
        own = needed(loaded, package.replace("/", "."))
        if own is None or not any(f"{each}/".startswith(f"{rule}/") for each in rules_of(own.modules)):
            raise PolicyError([Problem("telemetry.mask", "", f"policy.paths have no rule {rule}")])
        self._program = Program(own, rule, clock=clock, budget=budget)
        references = self._program.references
        self._paths = tuple(sorted(references.paths))
        self._keeps = () not in references.paths and not references.uncacheable
        self._known: dict[tuple[object, ...], Masks] = {}
        self._failed = metrics.mask_failed
        self._throttle = Throttle()

    def __call__(self, record: AccessRecord) -> AccessRecord | None:
        """The record as it may be stored; None where the mask failed, which is counted: what it would have hidden is
        not stored in the clear."""
        try:
            found = self._masks(record)
            return _masked(record, found) if found else record
        except Exception as error:
            self._failed.inc()
            if (held := self._throttle("mask")) is not None:
                # The text of an error may show a value.
                told = str(error) if isinstance(error, MaskError) else type(error).__name__
                log.warning("record_not_masked", error=told, held_back=held)
            return None

    def _masks(self, record: AccessRecord) -> Masks:
        if not self._keeps:
            return self._evaluate(record)
        key: tuple[object, ...] = ()
        if self._paths:
            message = Schema.FromString(record.to_protobuf())
            key = tuple(_at(message, path) for path in self._paths)
        if (found := self._known.get(key)) is None:
            found = self._evaluate(record)
            if sum(len(part) for part in key if isinstance(part, str | bytes | tuple)) <= MAX_KEY:
                if len(self._known) >= MAX_KNOWN:
                    self._known.clear()
                self._known[key] = found
        return found

    def _evaluate(self, record: AccessRecord) -> Masks:
        answer = self._program.evaluate(record.to_json())
        for line in self._program.take_prints():
            log.info("policy_print", text=line)
        return () if answer is None else tuple(masks(orjson.loads(answer), _ROOTS))


class MaskSwitch:
    """The mask of now, in whose place another may be put."""

    def __init__(self, mask: RecordMask) -> None:
        self.mask = mask

    def __call__(self, record: AccessRecord) -> AccessRecord | None:
        return self.mask(record)


def _at(message: Any, path: Path) -> object:
    """The value that a path of the input reads, fit for a key; None for what is not there."""
    if (name := _NAMES.get(path[0])) is None:
        return None
    field = SCHEMA_FIELDS[name]
    value = getattr(message, name)
    if field.message_type is None:
        return value if not field.has_presence or message.HasField(name) else None
    if not field.message_type.GetOptions().map_entry:
        return value.SerializeToString() if message.HasField(name) else None
    if len(path) > 1:
        return value.get(path[1])
    return str(sorted(value.items()))


def _masked(record: AccessRecord, found: Masks) -> AccessRecord:
    """Raises `MaskError` for a value that a field cannot have."""
    message = Schema.FromString(record.to_protobuf())
    roots = {mask.parts[0] for mask in found}
    before = {root: value for root in roots if (value := _plain(message, _NAMES[root])) is not None}
    after = {root: dict(value) if isinstance(value, dict) else value for root, value in before.items()}
    for mask in found:
        mask.apply(after)
    changed = {_NAMES[root] for root in roots if before.get(root) != after.get(root)}
    if not changed:
        return record
    for name in changed:
        message.ClearField(name)
    for root, value in after.items():
        if _NAMES[root] in changed and value is not None:
            try:
                _put(message, _NAMES[root], value)
            except (ValueError, TypeError, AttributeError, KeyError):
                raise MaskError(f"the mask gives {root} a value of another type") from None
    fields = {name: value for name, value in record.fields.items() if name not in changed}
    for name in changed:
        if SCHEMA_FIELDS[name].message_type is None and (value := getattr(message, name)):
            fields[name] = value
    return _rebuilt(record, message, fields, frozenset(changed))


def _rebuilt(
    record: AccessRecord, message: Any, fields: dict[str, Any], changed: frozenset[str]
) -> AccessRecord:
    for name in fields:
        message.ClearField(name)
    beside: dict[str, Any] = {}
    for name in changed & _BESIDE.keys():
        beside |= _BESIDE[name]
    shape = record.shape
    if shape is not TCP and changed & {"server_address", "http_response_status_code"}:
        shape = _shape(shape, "server_address" in changed, "http_response_status_code" in changed)
    return record._replace(
        origin=_origin(record.origin, changed),
        shape=shape,
        fields=fields,
        source=Rewritten((message.SerializeToString(),), record),
        place=0,
        peers=tuple(map(fields.get, PEER_FIELDS)) if any(record.peers) else record.peers,
        **beside,
    )


# Metrics remember these by identity: the same for the same.


@lru_cache(4096)
def _origin(origin: Origin, changed: frozenset[str]) -> Origin:
    kept = {name: value for name, value in origin.fields.items() if name not in changed}
    if len(kept) == len(origin.fields):
        return origin
    made = Origin(kept, outbound=origin.outbound)
    made.far_destination = origin.far_destination
    return made


@lru_cache(4096)
def _shape(shape: Shape, host: bool, status: bool) -> Shape:
    return Shape(
        shape.encoded,
        host="" if host else shape.host,
        status=0 if status else shape.status,
        grpc=shape.grpc,
    )


def _put(message: Any, name: str, value: Any) -> None:
    """Give a field a value as JSON has it. (`json_format` takes 100 µs for it.)"""
    field = SCHEMA_FIELDS[name]
    if field.message_type is not None:
        if field.message_type.GetOptions().map_entry:
            getattr(message, name).update(value)
        else:
            getattr(message, name).FromJsonString(value)
    elif field.enum_type is not None and isinstance(value, str):
        setattr(message, name, field.enum_type.values_by_name[value].number)
    elif isinstance(value, bool) is not (field.cpp_type == field.CPPTYPE_BOOL):
        raise TypeError
    else:
        setattr(message, name, value)


def _plain(message: Any, name: str) -> Any:
    """A field's value as JSON has it; None where it is absent."""
    field = SCHEMA_FIELDS[name]
    value = getattr(message, name)
    if field.enum_type is not None:
        return (
            field.enum_type.values_by_number[value].name
            if value in field.enum_type.values_by_number
            else value
        )
    if field.message_type is None:
        return value if (message.HasField(name) if field.has_presence else value) else None
    if field.message_type.GetOptions().map_entry:
        return dict(value) or None
    return value.ToJsonString() if message.HasField(name) else None
