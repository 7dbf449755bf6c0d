"""The only module that names concrete backends: each by its name in the settings.

Backends are imported when the settings name them, which keeps an idle process small.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Any, cast

from mixer import config
from mixer.errors import SinkError
from mixer.metrics import Metrics
from mixer.policy.budget import budget_of
from mixer.policy.engine import PolicyEngine
from mixer.policy.sources import Sources, sources_of
from mixer.server.front import Front, Methods, Unary
from mixer.server.listening import Kept
from mixer.tracing.tracer import Tracer

if TYPE_CHECKING:
    from mixer.authz.body import Bodies
    from mixer.decisions.policy import LogPolicy
    from mixer.policy.network import Network
    from mixer.ratelimit.counters import Counters
    from mixer.ratelimit.limits import Limits
    from mixer.ratelimit.on_error import AtOnce
    from mixer.telemetry.masking import RecordMask
    from mixer.telemetry.sink import Kind, Sink


def embedded(
    settings: config.Policy,
    others: Sequence[str] = (),
    loaded: Sources | None = None,
    network: "Network | None" = None,
) -> PolicyEngine:
    from mixer.policy.regorus import EmbeddedEngine

    return EmbeddedEngine(settings, loaded=loaded, network=network, others=others)


def _opa(settings: config.Policy, _: Sequence[str] = (), loaded: Sources | None = None) -> PolicyEngine:
    from mixer.policy.opa import OpaEngine

    if not settings.opa.push:
        return OpaEngine(settings)
    return OpaEngine(settings, loaded or sources_of(settings))


def _memory(_: config.RateLimits, metrics: Metrics) -> "Counters":
    from mixer.ratelimit.memory import MemoryCounters

    return MemoryCounters(metrics)


def shares_of(metrics: Metrics) -> "AtOnce":
    """Where limits count in this process, while their counters cannot be had."""
    from mixer.ratelimit.memory import MemoryCounters

    return MemoryCounters(metrics)


def _redis(settings: config.RateLimits, metrics: Metrics) -> "Counters":
    if settings.redis.mode == "cluster":
        from mixer.ratelimit.cluster import ClusterCounters

        return ClusterCounters(settings, metrics)
    from mixer.ratelimit.redis import RedisCounters

    return RedisCounters(settings, metrics)


def _kafka(settings: Any, metrics: Metrics, kind: "Kind[Any]", name: str) -> "Sink[Any]":
    from mixer.telemetry.kafka import KafkaSink

    return KafkaSink(settings, metrics, kind, name)


def _file(settings: Any, metrics: Metrics, _: "Kind[Any]", name: str) -> "Sink[Any]":
    from mixer.telemetry.file import FileSink

    return FileSink(settings, metrics, name)


def _python(settings: Any, metrics: Metrics, _: "Kind[Any]", name: str) -> "Sink[Any]":
    """A class of the operator's own."""
    module, _dot, attribute = settings.factory.partition(":")
    try:
        factory = getattr(import_module(module), attribute)
    except ImportError as error:
        raise SinkError(f"{name}: factory: cannot import {module}: {error}") from error
    except AttributeError:
        raise SinkError(f"{name}: factory: {module} has no {attribute}") from None
    return cast("Sink[Any]", factory(name, settings.settings, metrics))


def record_mask_of(
    policy: config.Policy, rule: str, loaded: Sources | None, metrics: Metrics
) -> "RecordMask":
    """Raises `PolicyError` where the policies have no such rule."""
    from mixer.telemetry.masking import RecordMask

    return RecordMask(
        sources_of(policy) if loaded is None else loaded, rule, metrics, budget=budget_of(policy)
    )


def series_of(settings: config.Config, metrics: Metrics) -> "Sink[Any]":
    """The sink that every Report has: Istio's standard metrics."""
    from mixer.telemetry.prometheus import PrometheusSink

    return PrometheusSink(settings, metrics)


def _asyncio(
    name: str,
    settings: config.Listener,
    methods: Methods,
    metrics: Metrics,
    *,
    kept: Kept = None,
    tracer: Tracer | None = None,
) -> Front:
    from mixer.server.http2.front import AsyncioFront

    return AsyncioFront(settings, methods, metrics, kept=kept, tracer=tracer, name=name)


def _grpcio(
    name: str,
    settings: config.Listener,
    methods: Methods,
    metrics: Metrics,
    *,
    kept: Kept = None,
    tracer: Tracer | None = None,
) -> Front:
    from mixer.server.grpcio import GrpcioFront

    if (tls := settings.tls) is None:
        return GrpcioFront(settings, methods, metrics, kept=kept, tracer=tracer)
    from mixer.server.secured import SecuredFront

    def make(behind: config.Listener) -> Front:
        return GrpcioFront(behind, methods, metrics, tracer=tracer)

    return SecuredFront(name, settings, tls, make, metrics, kept=kept)


def otlp_http(settings: config.OtlpHttpListener, method: Unary, metrics: Metrics, kept: Kept) -> Front:
    from mixer.server.otlp_http import OtlpHttpFront

    return OtlpHttpFront(settings, method, metrics, kept)


def interpreted(engine: PolicyEngine) -> str | None:
    """Why evaluations of an embedded engine need the interpreter, None where they do not."""
    from mixer.policy.regorus import EmbeddedEngine

    return engine.interpreted if isinstance(engine, EmbeddedEngine) else None


def bodies_of(settings: config.Policy, *, exact: bool = False, written: bool = False) -> "Bodies | None":
    """How bodies are parsed; None: not at all. `exact`, `written`: see `Bodies`. Raises `LoadError`."""
    from mixer.authz.body import Bodies
    from mixer.authz.messages import Messages

    if settings.skip_request_body_parse:
        return None
    path = settings.proto_descriptor
    return Bodies(None if path is None else Messages.load(path), exact=exact, written=written)


ENGINES: dict[str, Callable[[config.Policy, Sequence[str], Sources | None], PolicyEngine]] = {
    "embedded": embedded,
    "opa": _opa,
}
COUNTERS: dict[str, Callable[[config.RateLimits, Metrics], "Counters"]] = {"memory": _memory, "redis": _redis}
SINKS: dict[str, Callable[[Any, Metrics, "Kind[Any]", str], "Sink[Any]"]] = {
    "kafka": _kafka,
    "file": _file,
    "python": _python,
}
FRONTS: dict[str, Callable[..., Front]] = {
    "asyncio": _asyncio,
    "grpcio": _grpcio,
}


async def candidate_of(
    policy: config.Policy, compared: Mapping[str, tuple[str, bool]], tarballs: Sequence[bytes] = ()
) -> tuple[PolicyEngine, dict[str, PolicyEngine]]:
    """The shadow's engine, started, and for each decision of the policy that is compared, the engine that makes the
    candidate's. `policy`, `compared`: see `config.Policy`; `tarballs`: of `policy.bundles`. Raises `PolicyError`."""
    from mixer.policy.polling import reader
    from mixer.policy.program import rules_of

    read = reader(policy)
    bundles = [read(each, raw) for each, raw in zip(policy.bundles, tarballs, strict=True)]
    loaded = sources_of(policy, bundles)
    there = [f"{rule}/" for rule in rules_of(loaded.modules)]
    chosen = {
        live: path
        for live, (path, needed) in compared.items()
        if needed or any(rule.startswith(f"{path}/") for rule in there)
    }
    decisions = {"decision": next(iter(chosen.values())), "decisions": chosen}
    engine = embedded(policy.model_copy(update=decisions), loaded=loaded)
    await engine.start()
    return engine, {live: engine.of(path) for live, path in chosen.items()}


def sinks_of(
    settings: Sequence[Any], metrics: Metrics, kind: "Kind[Any]", prefix: str = ""
) -> "list[Sink[Any]]":
    """Each named by its type, and by its place where there are several of that."""
    types = [sink.type for sink in settings]
    names = [type_ if types.count(type_) == 1 else f"{type_}-{at}" for at, type_ in enumerate(types)]
    return [
        SINKS[sink.type](sink, metrics, kind, prefix + name)
        for sink, name in zip(settings, names, strict=True)
    ]


def log_policy_of(
    policy: config.Policy, loaded: Sources | None
) -> "tuple[LogPolicy | None, Mapping[str, str]]":
    """`system.log` of the policies on disk, which the embedded engine evaluates whatever decides, and the bundles among
    them if they decide. Those of `policy.bundles` come later."""
    from mixer.decisions.policy import LogPolicy

    if loaded is None:
        return None, {}
    return LogPolicy(loaded, budget=budget_of(policy)), loaded.bundles if policy.engine == "embedded" else {}


def limits_of(settings: config.RateLimits) -> "Limits":
    """What the limits files say. Raises `LimitsError`."""
    from mixer.ratelimit import limits

    return limits.load(
        settings.paths,
        settings.merge_domain_config,
        counts_over=settings.count_over_limit,
        key_format=settings.key_format,
        has_shares=settings.instances is not None,
    )


def limits_from(files: Iterable[tuple[str, bytes]], settings: config.RateLimits) -> "Limits":
    """What limits files say that were read before."""
    from mixer.ratelimit import limits

    return limits.made(
        *(files, (), settings.merge_domain_config),
        counts_over=settings.count_over_limit,
        key_format=settings.key_format,
        has_shares=settings.instances is not None,
    )
