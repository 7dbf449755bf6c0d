"""What a decision depends on, told to a person: `mixer policy deps`."""

import re
from collections.abc import Collection, Iterator

from mixer import config
from mixer.errors import PolicyError
from mixer.policy.builtins.catalog import ARITY, NONDETERMINISTIC
from mixer.policy.engine import WHOLE_INPUT, Path, References
from mixer.policy.program import documents_read, referenced
from mixer.policy.references import dotted
from mixer.policy.sources import Module

_NETWORK = "asks the network"
_WHY = {
    "crypto.x509.parse_and_verify_certificates": "reads the clock",
    "crypto.x509.parse_and_verify_certificates_with_options": "reads the clock",
    "http.send": _NETWORK,
    "io.jwt.decode_verify": "reads the clock",
    "io.jwt.encode_sign": "signs otherwise each time",
    "io.jwt.encode_sign_raw": "signs otherwise each time",
    "net.lookup_ip_addr": _NETWORK,
    "opa.runtime": "tells of the server",
    "rand.intn": "is random",
    "time.now_ns": "reads the clock",
    "uuid.rfc4122": "is random",
}
# Parts of the input that differ in every request of Envoy.
_DIFFERENT: tuple[Path, ...] = (
    ("attributes", "request", "http", "headers", "x-request-id"),
    ("attributes", "request", "http", "id"),
    ("attributes", "request", "time"),
    ("attributes", "source", "address", "socketAddress", "portValue"),
)
_AT = re.compile(r"(?P<name>\S+) \((?P<where>.+)\)")


class _InOpa(Collection[str]):
    """Builtins that may answer otherwise for equal operands; those that only the server knows may, too."""

    def __contains__(self, name: object) -> bool:
        return name in _WHY or name not in ARITY

    def __iter__(self) -> Iterator[str]:
        return iter(_WHY)

    def __len__(self) -> int:
        return len(_WHY)


IN_OPA = _InOpa()  # what makes a decision of an OPA server uncacheable


def foreign(modules: Collection[Module], decision: str, own: Collection[str]) -> tuple[str, ...]:
    """The data that a decision reads and that were not pushed; `own`: the keys below data that were."""
    read = {"*" if key is None else key for key, *_ in documents_read(modules, decision)} - set(own)
    return tuple(f"data.{key}, which others may change" for key in sorted(read))


def deps(settings: config.Policy, modules: Collection[Module], data: Collection[str] = ()) -> Iterator[str]:
    """Lines on each of the decisions: what it reads of the input, and what makes it uncacheable. `data`: the keys below
    data that come with the modules. Raises `PolicyError` for modules that cannot be parsed, or have no such decision;
    engine: opa sends the whole input then."""
    unstable = (
        IN_OPA if settings.engine == "opa" else NONDETERMINISTIC | (_WHY.keys() - {"io.jwt.decode_verify"})
    )
    for decision in dict.fromkeys((settings.decision, *settings.decisions.values())):
        why = None
        try:
            references = referenced(modules, decision, unstable)
        except PolicyError as error:
            if settings.engine != "opa":
                raise
            references, why = References(WHOLE_INPUT), error.problems[0]
        yield from _told(decision, references)
        if why is not None:
            yield f"All of the input is sent, since the policies cannot be read: {why}"
        elif settings.engine == "opa" and not settings.opa.push:
            yield 'Not cached but for decisions with a "cache_ttl": the server may change its policies at any time.'
        else:
            others = foreign(modules, decision, data) if settings.engine == "opa" else ()
            yield from _cached(References(references.paths, (*references.uncacheable, *others)))


def _told(decision: str, references: References) -> Iterator[str]:
    yield f"{decision} reads"
    for path in sorted(references.paths):
        different = next((dotted(name) for name in _DIFFERENT if name[: len(path)] == path), None)
        yield f"  {dotted(path)}" + (
            f"    holds {different}, so no two requests are equal: read fields by their paths"
            if different
            else ""
        )
    if not references.paths:
        yield "  nothing of the input"


def _cached(references: References) -> Iterator[str]:
    if not references.uncacheable:
        yield "Requests equal in these get a decision from the cache."
        return
    yield "Not cached, because of"
    for call in references.uncacheable:
        if match := _AT.fullmatch(call):
            yield f"  {match['where']}: {match['name']} {_WHY.get(match['name'], 'is known to the server alone')}"
        else:
            yield f"  {call}"
    yield 'Take it out of what the decision reaches, or say in the decision how long it holds: "cache_ttl": "30s".'
