"""What a decision depends on, told to a person: `mixer policy deps`."""

import re
from collections.abc import Collection, Iterator

from mixer import config
from mixer.errors import PolicyError
from mixer.policy.builtins.catalog import NONDETERMINISTIC
from mixer.policy.engine import WHOLE_INPUT, Path, References
from mixer.policy.program import referenced
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
IN_OPA = frozenset(_WHY)  # OPA's builtins that make a decision uncacheable
# Parts of the input that differ in every request of Envoy.
_DIFFERENT: tuple[Path, ...] = (
    ("attributes", "request", "http", "headers", "x-request-id"),
    ("attributes", "request", "http", "id"),
    ("attributes", "request", "time"),
    ("attributes", "source", "address", "socketAddress", "portValue"),
)
_AT = re.compile(r"(?P<name>\S+) \((?P<where>.+)\)")


def deps(settings: config.Policy, modules: Collection[Module]) -> Iterator[str]:
    """Lines on each of the decisions: what it reads of the input, and what makes it uncacheable. Raises `PolicyError`
    for modules that cannot be parsed, or have no such decision; engine: opa sends the whole input then."""
    unstable = IN_OPA if settings.engine == "opa" else NONDETERMINISTIC | (IN_OPA - {"io.jwt.decode_verify"})
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
            yield from _cached(references)


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
            yield f"  {match['where']}: {match['name']} {_WHY[match['name']]}"
    yield 'Take it out of what the decision reaches, or say in the decision how long it holds: "cache_ttl": "30s".'
