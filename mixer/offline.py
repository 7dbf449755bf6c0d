"""What the command line does without serving: look at settings, policies, limits and counters."""

from typing import TYPE_CHECKING, Any, Literal

from prometheus_client import CollectorRegistry

from mixer import config
from mixer.backends import (
    COUNTERS,
    bodies_of,
    candidate_of,
    embedded,
    interpreted,
    limits_of,
    log_policy_of,
    record_mask_of,
)
from mixer.errors import Problem, SettingsError, StartError
from mixer.metrics import Metrics
from mixer.policy.engine import PolicyEngine
from mixer.policy.references import dotted
from mixer.policy.sources import sources_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mixer.ratelimit.desk import Entry


async def validate(settings: config.Config) -> list[str]:
    """Load what the settings name, without serving or connecting: a line each on what was found. Raises `LoadError`."""
    from mixer.telemetry.views import views

    lines: list[str] = []
    views(settings, lambda _: lambda: None)
    if settings.policy is not None:
        lines += await _validate_policy(settings, settings.policy)
    if (rule := settings.telemetry.mask) is not None and settings.policy is not None:
        record_mask_of(settings.policy, rule, None, Metrics(CollectorRegistry()))
        lines.append(f"telemetry.mask: {rule}")
    if (rate_limits := settings.rate_limits) is not None and rate_limits.paths:
        lines.append(f"rate limits: {limits_of(rate_limits).summary()}")
    return lines


async def _validate_policy(settings: config.Config, policy: config.Policy) -> list[str]:
    lines: list[str] = []
    limits_decision = None if settings.rate_limits is None else settings.rate_limits.decision
    bodies_of(policy)
    if policy.dry_run:
        lines.append("policy.dry_run: what the policy denies passes; it is counted and logged")
    if policy.bundles:
        lines.append(f"policy: {policy.decision}, {_told_bundles(policy)}")
    elif policy.engine == "embedded":
        engine = embedded(policy, () if limits_decision is None else (limits_decision,))
        await engine.start()
        lines += _told("policy", engine)
        for name, decision in policy.decisions.items():
            lines += _told(f"policy.decisions.{name}", engine.of(decision))
        if limits_decision is not None:
            lines += _told("rate_limits.decision", engine.of(limits_decision))
    else:
        lines.append(f"policy: {policy.decision}, decided by OPA at {policy.opa.url}")
        lines += [f"policy.decisions.{name}: {path}" for name, path in policy.decisions.items()]
        if limits_decision is not None:
            lines.append(f"rate_limits.decision: {limits_decision}, decided there too")
        if policy.opa.push:
            loaded = sources_of(policy)
            count = len(loaded.modules)
            lines.append(f"policy.paths: pushed to OPA, revision {loaded.revision}; modules: {count}")
        elif policy.paths:
            lines.append(
                "policy.paths: the server has its own policies; with policy.opa.push: true it gets these"
            )
    if settings.decision_log is not None and not policy.bundles:
        log_policy, _ = log_policy_of(policy, sources_of(policy) if policy.paths else None)
        rules = [f"system.log.{rule}" for rule in log_policy.rules] if log_policy is not None else []
        lines.append(f"decision log: {' and '.join(rules) or 'no rule of system.log'}")
    if (candidate := policy.candidate()) is not None:
        lines += await _told_shadow(policy, candidate)
    return lines


async def at_desk(
    settings: config.Config,
    rate_limits: config.RateLimits,
    do: Literal["peek", "reset"],
    what: "tuple[str, Sequence[Entry]] | object",
) -> dict[str, Any]:
    """Look at the counter of a descriptor (its domain and entries) or of a limit as a policy writes it, or set it back:
    in Redis, or where counters are in memory, by the server that has them. Raises `MixerError`."""
    if rate_limits.counters == "memory":
        return await _at_admin(settings.listeners.admin.address, do, what)
    from mixer.ratelimit.claims import Claims
    from mixer.ratelimit.desk import Desk
    from mixer.ratelimit.objects import Objects

    metrics = Metrics(CollectorRegistry())
    counters = COUNTERS[rate_limits.counters](rate_limits, metrics)
    await counters.start()
    try:
        limits = limits_of(rate_limits)
        objects = Objects.by(rate_limits, Claims(limits.domains, metrics), metrics)
        desk = Desk(limits, counters, objects=objects)
        if isinstance(what, tuple):
            seen = await (desk.peek if do == "peek" else desk.reset)(*what)
        else:
            seen = await (desk.peek_object if do == "peek" else desk.reset_object)(what)
    finally:
        await counters.close()
    return seen.plain()


async def _at_admin(address: str, do: str, what: "tuple[str, Sequence[Entry]] | object") -> dict[str, Any]:
    from mixer.admin.client import ask

    if address.endswith(":0"):
        raise StartError(
            f"the counters are in the memory of the server, which is asked on listeners.admin.address; {address} does "
            "not say on which port"
        )
    asked: dict[str, Any] = {"limits": [what]}
    if isinstance(what, tuple):
        domain, entries = what
        asked = {"domain": domain, "descriptors": [{"entries": [entry._asdict() for entry in entries]}]}
    try:
        (found,) = await ask(address, f"/limits/{do}", asked)
    except StartError as error:
        raise StartError(f"the counters are in the memory of the server; {error}") from error
    return found  # type: ignore[no-any-return]


async def deps(policy: config.Policy) -> list[str]:
    """What the decisions of the policies depend on, in lines. Those of an OPA server that has its own are asked for.
    Raises `LoadError`, and `StartError` where the server does not show them."""
    from mixer.policy.deps import deps as told

    if policy.engine == "opa" and not policy.opa.push:
        from mixer.policy.opa_server import shown

        return list(told(policy, await shown(policy.opa)))
    if not policy.paths:
        missing = "the policies are not known here, a bundle has them; name them by their paths"
        raise SettingsError([Problem("policy.paths", "", missing)])
    loaded = sources_of(policy)
    return list(told(policy, loaded.modules, loaded.data))


def _told_bundles(policy: config.Policy) -> str:
    """What there is to say of bundles that are not fetched here. Raises `PolicyError` for keys and certificates."""
    from mixer.policy.signatures import keys
    from mixer.trust import trust

    for bundle in policy.bundles:
        trust(bundle.tls)
    keys(policy.keys)
    names = ", ".join(each.name for each in policy.bundles)
    return f"from bundles that are not fetched here: {names}"


async def _told_shadow(policy: config.Policy, candidate: config.Policy) -> list[str]:
    if candidate.bundles:
        return [f"policy.shadow: {_told_bundles(candidate)}"]
    _, engines = await candidate_of(candidate, policy.compared())
    # The first line of each: a candidate has no cache.
    return [
        _told("policy.shadow" if live == policy.decision else f"policy.shadow, beside {live}", engine)[0]
        for live, engine in engines.items()
    ]


def _told(what: str, engine: PolicyEngine) -> list[str]:
    """What was found out of a decision of the embedded engine."""
    references = engine.references
    reads = ", ".join(map(dotted, sorted(references.paths))) or "nothing of the input"
    lines = [f"{what}: {engine.decision}, revision {engine.revision}; reads {reads}"]
    if (reason := interpreted(engine)) is not None:
        lines.append(
            f"evaluated by the interpreter, about four times slower than compiled, because of {reason}"
        )
    if references.uncacheable:
        lines.append(
            "decision cache: off but for decisions with a cache_ttl, since the policy calls "
            + ", ".join(references.uncacheable)
        )
    return lines
