"""Settings: one YAML file, validated whole, frozen afterwards.

`load(path)` answers a `Config`, or raises `SettingsError` that names every mistake by file, key path,
what was expected and what was got. `${NAME}`, `${NAME:-default}` and `${file:PATH}` are expanded in values.
"""

import difflib
import itertools
import math
import os
import re
from collections.abc import Collection, Hashable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    NonNegativeInt,
    PositiveInt,
    PrivateAttr,
    SecretStr,
    ValidationError,
    model_validator,
)

from mixer import yaml_bounds
from mixer.errors import Problem, SettingsError

_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h)")
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
_ENV = re.compile(r"\$\{(?:file:([^}]+)|([A-Za-z_][A-Za-z0-9_]*)(?::-([^}]*))?)\}")
# Without it, each process would admit all of the limit.
INSTANCES = "local needs rate_limits.instances, the number of Mixer processes that share the counters"
WORKER = "{worker}"  # in the paths of sinks: the number of the process among those of its role
# Trust domain and path as in SPIFFE-ID, sections 2.1 and 2.2.
_SPIFFE = re.compile(r"spiffe://[a-z0-9._-]{1,255}(/(?!\.{1,2}(/|$))[A-Za-z0-9._-]+)*")
_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")  # RFC 9110, token


def _seconds(value: object) -> object:
    """`500ms`, `10s`, `5m`, `1h` to seconds. A bare number has no unit, and is refused."""
    if isinstance(value, str) and (match := _DURATION.fullmatch(value)):
        return float(match[1]) * _SECONDS[match[2]]
    raise ValueError('a duration such as "500ms", "10s", "5m" or "1h"')


def _address(value: str) -> str:
    """`host:port`, `[::1]:port`, `unix:/path`."""
    if value.startswith("unix:"):
        if not value.removeprefix("unix:").startswith("/"):
            raise ValueError('an absolute path after "unix:", such as "unix:/run/mixer/check.sock"')
        return value
    host, _, port = value.rpartition(":")
    if not host or not port.isdecimal() or int(port) > 65535 or (":" in host and not host.startswith("[")):
        raise ValueError('"host:port", "[::1]:port" or "unix:/path"')
    return value


def _tcp_address(value: str) -> str:
    if value.startswith("unix:"):
        raise ValueError('"host:port": Prometheus and probes come over TCP')
    return _address(value)


def _decision(value: str) -> str:
    if not re.fullmatch(r"[A-Za-z_]\w*(/[A-Za-z_]\w*)+", value):
        raise ValueError('a rule\'s path such as "envoy/authz/allow"')
    return value


def _decision_name(value: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}", value):
        raise ValueError("a name of up to 64 letters, digits, dots, dashes and underscores")
    return value


def _key_prefix(value: str) -> str:
    if "{}" in value:  # after which a cluster knows no hash tag, and slots would lie on several nodes
        raise ValueError("text without {}")
    return value


def _header_name(value: str) -> str:
    if not _HEADER_NAME.fullmatch(value):
        raise ValueError("an HTTP header name")
    return value


def _http_or_unix_url(value: str) -> str:
    if not re.fullmatch(r"https?://[^/\s]+/?|unix:(//)?/\S+", value):
        raise ValueError('"http://host:port", "https://host:port" or "unix:/path"')
    return value.rstrip("/")


def _collector_url(value: str) -> str:
    if not re.fullmatch(r"https?://[^/\s@?#]+(/[^\s?#]*)?", value):
        raise ValueError('"http://host:4318" or "https://host/path", secrets in `headers`')
    return value.rstrip("/").removesuffix("/v1/traces")


def _bundle_url(value: str) -> str:
    if not re.fullmatch(r"https?://[^/\s@?#]+/[^\s#]*", value):
        raise ValueError('"https://host/path" or "http://host:port/path", secrets in `token`')
    return value


def _spiffe_pattern(value: str) -> str:
    if not _SPIFFE.fullmatch(value.removesuffix("/*")):
        raise ValueError('a SPIFFE ID such as "spiffe://example.org/envoy", or with "/*" all below one')
    return value


def is_spiffe_id(value: str) -> bool:
    return len(value) <= 2048 and _SPIFFE.fullmatch(value) is not None


def _version(value: object) -> object:
    """YAML reads a bare 1.3 as a number."""
    return str(value) if isinstance(value, float) else value


def _redis_url(value: SecretStr) -> SecretStr:
    if not re.fullmatch(r"(rediss?://|unix:/)\S+", value.get_secret_value()):
        raise ValueError('"redis://host:port/db", "rediss://…" or "unix:///path"')
    return value


def _off(value: object) -> object:
    """YAML 1.1 reads a bare `off` as false."""
    return None if value is False or value == "off" else value


def _seconds_or_off(value: object) -> object:
    value = _off(value)
    return None if value is None else _seconds(value)


def _listed(value: object) -> object:
    return (value,) if isinstance(value, str) else value


def _label(value: object) -> object:
    """`name: url.path` is short for `name: {field: url.path}`; `name: off` takes a label away."""
    return {"field": value} if isinstance(value, str) and value != "off" else _off(value)


def _replacement(value: str) -> str:
    if re.search(r"\$(?!\$|\d+(?!\w)|\{\d+\})", re.sub(r"\$\$", "", value)):
        raise ValueError("text with groups as $1 or, where a letter or digit follows, ${1}; $$ is a dollar")
    return value


def _template(value: str) -> str:
    """`/users/{id}/orders`; `**` stands for whatever follows."""
    parts = value.removeprefix("/").split("/")
    if not value.startswith("/") or not all(
        re.fullmatch(r"\{\w+\}|[^{}*]*", part) or (part == "**" and at == len(parts) - 1)
        for at, part in enumerate(parts)
    ):
        raise ValueError('a path such as "/users/{id}/orders", or "/static/**" for whatever follows')
    return value


def _metric_name(value: str) -> str:
    if not re.fullmatch(r"[a-zA-Z_][a-zA-Z0-9_]*", value):
        raise ValueError('a name such as "checkout_duration_seconds"')
    if value.startswith(("mixer_", "istio_", "process_", "python_")):
        raise ValueError("a name without the prefix of Mixer's, Istio's or the process's own metrics")
    return value


def _label_name(value: str) -> str:
    if not re.fullmatch(r"[a-zA-Z_][a-zA-Z0-9_]*", value) or value.startswith("__") or value == "le":
        raise ValueError('a label\'s name such as "tenant", not "le" nor one that begins with "__"')
    return value


def _bounds(value: tuple[float, ...]) -> tuple[float, ...]:
    if not value or not all(a < b for a, b in itertools.pairwise(value)) or value[-1] == math.inf:
        raise ValueError("numbers that ascend, without the infinite one")
    return value


DURATION = BeforeValidator(_seconds)
OFF = BeforeValidator(_off)  # a section that may be `off`
Seconds = Annotated[float, DURATION]
Address = Annotated[str, AfterValidator(_address)]
TcpAddress = Annotated[str, AfterValidator(_tcp_address)]
DecisionPath = Annotated[str, AfterValidator(_decision)]
DecisionName = Annotated[str, AfterValidator(_decision_name)]
SpiffePattern = Annotated[str, AfterValidator(_spiffe_pattern)]
HeaderName = Annotated[str, AfterValidator(_header_name)]
KeyPrefix = Annotated[str, AfterValidator(_key_prefix)]
RedisUrl = Annotated[SecretStr, AfterValidator(_redis_url)]
Role = Literal["all", "check", "report"]  # of a process, or of the workers of one `mixer serve`
OnError = Literal["error", "allow", "deny", "local"]


class Settings(BaseModel):
    """Base of every section: frozen, and an unknown key is a mistake."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Spiffe(Settings):
    """Who may connect, by the SPIFFE ID in their certificate: whole, or all below one with `/*`. With `allow`, nobody
    else may; `refuse` goes before it."""

    allow: tuple[SpiffePattern, ...] = ()
    refuse: tuple[SpiffePattern, ...] = ()


class Tls(Settings):
    """Certificates of a listener, PEM files that are read again when they change. With `client_ca`, clients must show a
    certificate of it."""

    cert: Path
    key: Path
    client_ca: Path | None = None
    spiffe: Spiffe = Spiffe()
    min_version: Annotated[Literal["1.2", "1.3"], BeforeValidator(_version)] = "1.2"


class Overload(Settings):
    """What becomes of calls that cannot be answered in their time, or are more than `max_in_flight`: they are refused
    at once, by this `code`. Envoy's retry policies tell the two apart (`unavailable`, `resource-exhausted`)."""

    max_in_flight: PositiveInt = 10_000  # unary calls read and not answered yet
    code: Literal["UNAVAILABLE", "RESOURCE_EXHAUSTED"] = "UNAVAILABLE"


class Listener(Settings):
    """A gRPC listener. `addresses`: one for each worker, instead of one that they share."""

    address: Address
    addresses: tuple[Address, ...] = ()
    server: Literal["asyncio", "grpcio"] = "asyncio"
    overload: Overload = Overload()
    tls: Tls | None = None


class CheckListener(Listener):
    """Envoy's ext_authz and rate limit filters call here."""

    address: Address = "127.0.0.1:9191"


class ReportListener(Listener):
    """Envoy's access loggers stream here."""

    address: Address = "127.0.0.1:9192"


class OtlpHttpListener(Settings):
    """OTLP over HTTP (`POST /v1/logs`), for exporters that do not speak gRPC."""

    address: Address = "127.0.0.1:4318"
    tls: Tls | None = None


class AdminListener(Settings):
    """`/metrics`, `/healthz` and `/readyz` over HTTP; to callers on the same machine the pages on rate limits, too."""

    address: TcpAddress = "127.0.0.1:9901"
    tls: Tls | None = None


class Listeners(Settings):
    check: CheckListener = CheckListener()
    report: ReportListener = ReportListener()
    otlp_http: OtlpHttpListener | None = None
    admin: AdminListener = AdminListener()


class Workers(Settings):
    """Processes by role. With one of each, one process has both roles, unless it is to be `supervised`."""

    check: PositiveInt = 1
    report: PositiveInt = 1
    supervised: bool = (
        False  # a process for each, even if there is one: it is started again where it dies or hangs
    )
    hang_timeout: Annotated[Seconds, Field(ge=0.5)] = 10.0  # without a sign of life until a worker is killed
    # Of processes that have Report alone, as sched(7) has it. idle: they run while nobody else wants the core.
    report_scheduling: Literal["other", "idle"] = "other"


class Reload(Settings):
    """When settings, policies, data and limits are read again, beside SIGHUP."""

    watch: bool = False  # when one of their files changes
    interval: Annotated[Seconds, Field(ge=0.05)] = 1.0  # between two looks at them


class Logging(Settings):
    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["console", "json"] = "console"


class Opa(Settings):
    """An OPA server. `timeout` bounds one check; a shorter deadline of Envoy's wins.

    `push`: the policies and data of `policy.paths` are put into the server. `input`: what is sent of each, "read": what
    the policies can read of it, by the policies of this one server; "all", also right behind a load balancer.
    """

    url: Annotated[str, AfterValidator(_http_or_unix_url)] = "http://127.0.0.1:8181"
    token: SecretStr | None = None
    timeout: Seconds = 1.0
    push: bool = False
    input: Literal["read", "all"] = "read"
    max_batch: PositiveInt = (
        128  # checks that share a query; with 1 each is a decision of its own in OPA's log
    )
    # Queries on their way. Each has a query of its own among the 100 that OPA keeps for all of its callers.
    concurrency: Annotated[int, Field(ge=1, le=32)] = 2
    max_waiting: PositiveInt = 10_000  # checks that wait for one; more are answered UNAVAILABLE at once


class Http(Settings):
    """`http.send` and `net.lookup_ip_addr` in the embedded engine."""

    timeout: Seconds = 5.0  # of a request that names none; Envoy's deadline bounds the whole check
    max_response_size: PositiveInt = 8 * 1024 * 1024  # bytes; the evaluation fails for more
    max_cache_size: NonNegativeInt = 64 * 1024 * 1024  # bytes of replies kept for `cache` and `force_cache`
    max_waiting: PositiveInt = 1_000  # checks that wait for replies; more are answered UNAVAILABLE at once


class Cache(Settings):
    """The decision cache; each decision has its own."""

    max_entries: PositiveInt = 100_000
    max_bytes: PositiveInt = 256 * 1024 * 1024  # what they may take together, however large inputs are
    ttl: Annotated[Seconds, Field(gt=0)] = 60.0


class Key(Settings):
    """A key that bundles are signed with: PEM (public key or certificate), or the secret of an HS algorithm."""

    id: Annotated[str, Field(min_length=1)]
    algorithm: Literal[
        "RS256", "RS384", "RS512", "PS256", "PS384", "PS512",
        "ES256", "ES384", "ES512", "HS256", "HS384", "HS512",
    ] = "RS256"  # fmt: skip
    key: SecretStr | None = None
    file: Path | None = None  # instead of `key`
    scope: str = ""


class Buffer(Settings):
    """Records that wait in memory for a sink, or for a candidate; when it is full, new ones are dropped and counted."""

    max_records: PositiveInt = 100_000
    max_bytes: PositiveInt = 128 * 1024 * 1024  # what they may take together, however large each is


class Signing(Settings):
    """Which signature a bundle must have. What is left out is the signature's own, or the key's."""

    key_id: str | None = None
    scope: str | None = None
    exclude_files: tuple[str, ...] = ()  # patterns of files that need not be signed


class ClientTls(Settings):
    """PEM files: the authorities that a server is trusted by, instead of the system's, and an own certificate."""

    ca: Path | None = None
    cert: Path | None = None
    key: Path | None = None


class Bundle(Settings):
    """An OPA bundle on an HTTP server, asked for again every `poll`; `timeout` bounds one download."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]{1,100}$")]
    url: Annotated[str, AfterValidator(_bundle_url)]
    token: SecretStr | None = None  # sent as a bearer token
    token_file: Path | None = None  # instead of `token`; read for each download, since it may be renewed
    tls: ClientTls = ClientTls()
    poll: Annotated[Seconds, Field(gt=0)] = 30.0
    timeout: Annotated[Seconds, Field(gt=0)] = 30.0
    signing: Signing = Signing()


class Shadow(Settings):
    """A candidate, evaluated by the embedded engine beside the policy, for comparison alone. What is left out is as in
    `policy`. An evaluation longer than `timeout` is ended, and counts as an error."""

    paths: tuple[Path, ...] = ()
    bundles: tuple[Bundle, ...] = ()
    decision: DecisionPath | None = None
    # By the names in `policy.decisions`; others are compared where the candidate's own policies give them.
    decisions: dict[DecisionName, DecisionPath] = Field(default_factory=dict)
    sample: Annotated[float, Field(gt=0, le=1)] = 1.0  # share of the decisions that are compared
    timeout: Annotated[Seconds, Field(gt=0)] = 5.0
    buffer: Buffer = Buffer(max_records=1_000, max_bytes=16 * 1024 * 1024)

    @property
    def own(self) -> bool:
        """Whether it has policies of its own."""
        return bool(self.paths or self.bundles)


class Policy(Settings):
    engine: Literal["embedded", "opa"] = "embedded"
    opa: Opa = Opa()
    paths: tuple[Path, ...] = ()
    bundles: tuple[Bundle, ...] = ()
    keys: tuple[Key, ...] = ()  # when there is one, every bundle must be signed
    bundle_size_limit: PositiveInt = 256 * 1024 * 1024  # bytes of a bundle when unpacked
    decision: DecisionPath = "envoy/authz/allow"
    # Others, by the name that a route of Envoy asks for in its context extension `mixer_decision`.
    decisions: dict[DecisionName, DecisionPath] = Field(default_factory=dict)
    cache: Annotated[Cache | None, OFF] = Cache()
    # Of one evaluation by the embedded engine: processor time, and bytes by which the process grows.
    max_evaluation: Annotated[Seconds, Field(ge=0.02)] = 0.2
    max_evaluation_memory: PositiveInt = 256 * 1024 * 1024
    http: Http = Http()
    proto_descriptor: Path | None = None  # descriptor set by which bodies of gRPC calls are parsed
    skip_request_body_parse: bool = (
        False  # no parsed_body and truncated_body; no request is refused for its body
    )
    dry_run: bool = False  # denials are counted and logged, and allowed
    shadow: Shadow | None = None

    def candidate(self) -> "Policy | None":
        """The settings of the shadow's engine, but for its decisions."""
        if (shadow := self.shadow) is None:
            return None
        changes: dict[str, Any] = {
            "engine": "embedded",
            "paths": shadow.paths if shadow.own else self.paths,
            "bundles": shadow.bundles,
            "decisions": {},
            "cache": None,
            "shadow": None,
        }
        return self.model_copy(update=changes)

    def compared(self) -> dict[str, tuple[str, bool]]:
        """By the path of a decision of this policy: the candidate's, and whether the candidate has to give it."""
        if (shadow := self.shadow) is None:
            return {}
        found: dict[str, tuple[str, bool]] = {}
        if shadow.own or shadow.decision is not None:
            found[self.decision] = (shadow.decision or self.decision, True)
        for name, path in self.decisions.items():
            if name in shadow.decisions:
                found[path] = (shadow.decisions[name], True)
            elif shadow.own:
                found.setdefault(path, (path, False))
        return found


class Sentinel(Settings):
    """Who says where the primary is. `urls` as those of Redis, each with the sentinel's own user, password and TLS."""

    master: Annotated[str, Field(min_length=1)]  # its name in the sentinels' configuration
    urls: tuple[RedisUrl, ...]


class Breaker(Settings):
    """When a Redis is left alone: after so many failures in a row. A probe is sent every `max_pause` at least."""

    failures: PositiveInt = 2
    max_pause: Annotated[Seconds, Field(gt=0)] = 1.0


class Redis(Settings):
    """Redis as the counters' store. `timeout` bounds one round trip."""

    mode: Literal["single", "sentinel", "cluster"] = "single"
    # With sentinels, user, password, database and TLS of the primary; its address is theirs to say.
    url: RedisUrl = SecretStr("redis://127.0.0.1:6379/0")
    sentinel: Sentinel | None = None
    nodes: tuple[
        TcpAddress, ...
    ] = ()  # of a cluster: others that may be asked where its slots are, beside `url`
    timeout: Seconds = 0.5
    connect_timeout: Annotated[Seconds, Field(gt=0)] = 0.5
    breaker: Breaker = Breaker()
    key_prefix: KeyPrefix = "mixer:"
    max_batch: PositiveInt = 256  # calls that share one round trip at most


class ResponseHeaders(Settings):
    """Headers of the answer to the client, named as in envoyproxy/ratelimit."""

    enabled: bool = False
    limit: HeaderName = "RateLimit-Limit"
    remaining: HeaderName = "RateLimit-Remaining"
    reset: HeaderName = "RateLimit-Reset"
    draft: bool = False  # RateLimit-Policy and RateLimit of the IETF's draft beside them


class LocalCache(Settings):
    """Counters known to be over their limit, which need no round trip to Redis until it resets."""

    max_entries: PositiveInt = 10_000
    max_age: Seconds = 1.0  # how long what is given back or reset elsewhere may go unseen


class RateLimits(Settings):
    paths: tuple[Path, ...] = ()
    decision: DecisionPath | None = None  # a rule of the policies that gives limits, on Check and on Quota
    counters: Literal["memory", "redis"] = "memory"
    redis: Redis = Redis()
    key_format: Literal["mixer", "ratelimit"] = "mixer"
    # What a limit answers that does not say it itself, while its counter cannot be had. `local`: this process counts in
    # its memory, up to the limit divided by `instances`.
    on_error: OnError = "error"
    instances: PositiveInt | None = None  # processes that share the counters
    count_over_limit: bool = True  # where a fixed window's limit does not say it itself
    local_cache: Annotated[LocalCache | None, OFF] = LocalCache()
    shadow_mode: bool = False
    quota_mode: bool = False
    merge_domain_config: bool = False
    response_dynamic_metadata: bool = False
    response_headers: ResponseHeaders = ResponseHeaders()


class KafkaBuffer(Buffer):
    """Records that wait for the broker: in memory, or from their reception to their acknowledgement on disk."""

    type: Literal["memory", "disk"] = "memory"
    path: Path | None = None  # of the file on disk (SQLite), one for each sink
    when_full: Literal["block", "drop_newest"] = "drop_newest"  # block: streams of Envoy are not read on

    @model_validator(mode="before")
    @classmethod
    def _for_a_disk(cls, given: Any) -> Any:
        if isinstance(given, dict) and given.get("type") == "disk":
            return {"max_records": 10_000_000, "max_bytes": 1024**3, **given}
        return given


class DeadLetters(Settings):
    """Where records go that no broker takes: JSON lines, the older half in `path` with .1 added."""

    path: Path
    max_bytes: Annotated[int, Field(ge=4 * 1024 * 1024)] = 64 * 1024 * 1024  # of both files together


class Sasl(Settings):
    mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"]
    username: Annotated[str, Field(min_length=1)]
    password: SecretStr


class KafkaSink(Settings):
    type: Literal["kafka"]
    bootstrap_servers: Annotated[tuple[str, ...], Field(min_length=1)]
    topic: Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]{1,249}$")] = "mixer.access"
    format: Literal["protobuf", "json"] = "protobuf"
    key: str | None = None  # a record field's name whose value is the message key; none: spread evenly
    client_id: str = "mixer"
    compression: Literal["none", "gzip", "snappy", "lz4", "zstd"] = "none"
    linger: Seconds = 0.05
    request_timeout: Seconds = 30.0
    tls: ClientTls | None = None  # {}: trust the system's authorities
    sasl: Sasl | None = None
    buffer: KafkaBuffer = KafkaBuffer()
    dead_letters: DeadLetters | None = None  # left out: what no broker takes is dropped and counted


class Rotation(Settings):
    """When a file of records is set aside as .1, what was that as .2, and how many of those are kept."""

    max_bytes: Annotated[int, Field(ge=1024 * 1024)] | None = 100 * 1024 * 1024
    max_age: Annotated[Seconds, Field(ge=1)] | None = None  # 24h: another file each day, by UTC
    keep: PositiveInt = 5


class FileSink(Settings):
    """JSON lines; `-` is standard output.

    `fsync`: when lines are brought to the disk: never (the system sees to it), each second (interval), or before they
    count as delivered (batch), so that an acknowledged report survives a loss of power.
    """

    type: Literal["file"]
    path: Path = Path("-")
    rotation: Annotated[Rotation | None, BeforeValidator(_off)] = None
    fsync: Literal["never", "interval", "batch"] = "never"
    buffer: Buffer = Buffer()


class PythonSink(Settings):
    """A sink of the operator's own (docs/sinks.md): `factory` is called with its name, `settings` and the metrics."""

    type: Literal["python"]
    factory: Annotated[str, Field(pattern=r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$")]
    settings: dict[str, Any] = Field(default_factory=dict)


Sink = Annotated[KafkaSink | FileSink | PythonSink, Field(discriminator="type")]


class DecisionKafkaSink(KafkaSink):
    """Decisions as messages: JSON, for which OPA's tools are made."""

    topic: Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]{1,249}$")] = "mixer.decisions"
    format: Literal["json"] = "json"
    key: str | None = None  # a path into the event, such as input.attributes.request.http.host


DecisionSink = Annotated[DecisionKafkaSink | FileSink | PythonSink, Field(discriminator="type")]
Share = Annotated[float, Field(ge=0, le=1)]


class Sample(Settings):
    """Shares of the decisions that are logged, by outcome; failed ones, and those that a shadow would make otherwise,
    always are."""

    allowed: Share = 1.0
    denied: Share = 1.0


class DecisionLog(Settings):
    """Decisions in OPA's event shape, masked by the policies' own `system.log`."""

    sinks: tuple[DecisionSink, ...]
    labels: dict[str, str] = {}
    sample: Sample = Sample()
    input: Literal["all", "read"] = (
        "all"  # the whole input, or what the policy can read of it, which is cheaper
    )
    secret_headers: tuple[HeaderName, ...] = (
        "authorization", "proxy-authorization", "cookie", "set-cookie", "x-api-key", "x-auth-token",
    )  # fmt: skip
    buffer: Buffer = Buffer(max_records=10_000)  # decisions whose event is not made yet


class Redaction(Settings):
    """What no record has. Headers that are secrets by their nature never do (`mixer.telemetry.redaction`)."""

    headers: tuple[HeaderName, ...] = ()  # others that are dropped
    # Parameters whose values are replaced, in the query and in headers that are URLs.
    query: tuple[Annotated[str, Field(min_length=1)], ...] = (
        "access_token", "id_token", "refresh_token", "token", "api_key", "apikey", "client_secret", "password",
        "AWSAccessKeyId", "Signature", "sig", "X-Amz-Credential", "X-Amz-Security-Token", "X-Amz-Signature",
        "X-Goog-Signature",
    )  # fmt: skip


class Label(Settings):
    """The value of a label: of the first of `field` that a record has, else `default`.

    A field is named as in the record (`url.path`, `http.request.header.x-tenant`) or as one of Istio's labels. With
    `regex`, what matches it as a whole becomes `replacement`; with `templates`, a path becomes the one that it follows.
    """

    field: Annotated[tuple[str, ...], BeforeValidator(_listed)] = ()
    default: str = "unknown"
    regex: str | None = None
    replacement: Annotated[str, AfterValidator(_replacement)] = "$1"
    templates: tuple[Annotated[str, AfterValidator(_template)], ...] = ()


LabelName = Annotated[str, AfterValidator(_label_name)]
LabelSetting = Annotated[Label | None, BeforeValidator(_label)]
Bounds = Annotated[tuple[int | float, ...], AfterValidator(_bounds)]
IstioMetric = Literal[
    "istio_requests_total", "istio_request_duration_milliseconds", "istio_request_bytes", "istio_response_bytes",
    "istio_request_messages_total", "istio_response_messages_total",
    "istio_tcp_sent_bytes_total", "istio_tcp_received_bytes_total",
    "istio_tcp_connections_opened_total", "istio_tcp_connections_closed_total",
]  # fmt: skip


class Override(Settings):
    """A change of Istio's metrics, all of them where none is named. Later ones are made upon earlier ones."""

    metrics: tuple[IstioMetric, ...] = ()
    disabled: bool | None = None
    labels: dict[LabelName, LabelSetting] = {}
    buckets: Bounds | None = None


class OwnMetric(Settings):
    """A metric over the records of requests and connections that are over: those of them whose fields match `when`, and
    not `unless` (regular expressions over the whole; "" is what a record has not)."""

    name: Annotated[str, AfterValidator(_metric_name)]
    type: Literal["counter", "histogram"]
    help: str = ""
    value: str | None = (
        None  # a field that is a number, or a time (in seconds); a counter without one counts records
    )
    labels: dict[LabelName, LabelSetting] = {}
    when: dict[str, str] = {}
    unless: dict[str, str] = {}
    buckets: Bounds | None = None


class Telemetry(Settings):
    sinks: tuple[Sink, ...] = ()
    redaction: Redaction = Redaction()
    mask: DecisionPath | None = None  # a rule of policy.paths that says what is masked in a record
    dynamic_metadata: tuple[str, ...] = ()  # filters of Envoy whose metadata a record has, by their names
    # After which a stream of access logs is ended, so that Envoy opens another, at another Mixer where there are some.
    max_stream_age: Annotated[Annotated[Seconds, Field(gt=0)] | None, BeforeValidator(_off)] = None
    export_timeout: Annotated[Seconds, Field(gt=0)] = 10.0  # until an OTLP Export's records must be durable
    max_series: PositiveInt = 10_000  # label sets a metric; the rest goes to one overflow series
    # How long a label set that nothing is counted in is shown; off: as long as the process lives.
    series_ttl: Annotated[Annotated[float, Field(gt=0)] | None, BeforeValidator(_seconds_or_off)] = None
    overrides: tuple[Override, ...] = ()
    metrics: tuple[OwnMetric, ...] = ()


class Tracing(Settings):
    """Spans of calls whose caller samples its trace (the flag in `traceparent`), by OTLP over HTTP. `sample`: a share
    of those traces."""

    endpoint: Annotated[str, AfterValidator(_collector_url)] = "http://127.0.0.1:4318"
    headers: dict[HeaderName, SecretStr] = Field(default_factory=dict)
    tls: ClientTls = ClientTls()
    timeout: Annotated[Seconds, Field(gt=0)] = 10.0
    sample: Annotated[float, Field(gt=0, le=1)] = 1.0
    service_name: Annotated[str, Field(min_length=1)] = "mixer"
    max_waiting: PositiveInt = 2048  # spans; more are dropped and counted


class Config(Settings):
    """All settings. A section left out switches its call off: no `policy`, no Check; no `rate_limits`, no Quota."""

    listeners: Listeners = Listeners()
    workers: Workers = Workers()
    logging: Logging = Logging()
    reload: Reload = Reload()
    drain_timeout: Seconds = 10.0  # SIGTERM: calls in flight and sinks get this long together
    policy: Policy | None = None
    rate_limits: RateLimits | None = None
    telemetry: Telemetry = Telemetry()
    decision_log: DecisionLog | None = None
    tracing: Tracing | None = None

    _file: str = PrivateAttr("")

    @property
    def file(self) -> str:
        """Where the settings come from, for mistakes that are found after they are loaded."""
        return self._file


class _UniqueKeyLoader(yaml.CSafeLoader):
    """YAML 1.1 that refuses a key given twice, where plain YAML would silently take the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[object] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, Hashable):
                raise yaml.MarkedYAMLError(None, None, "a key is no text", key_node.start_mark)
            if key in seen:
                raise yaml.MarkedYAMLError(None, None, f'key "{key}" is given twice', key_node.start_mark)
            seen.add(key)
        return super().construct_mapping(node, deep)


def load(path: Path, env: Mapping[str, str] = os.environ) -> Config:
    """Read and validate the settings file.

    Relative paths of policies, limits, certificates and sinks are taken from the file's folder, so that
    the service may start from anywhere. Raises `SettingsError` with every mistake found.
    """
    file = str(path)
    try:
        text = path.read_text("utf-8")
        yaml_bounds.check(text)
        document = yaml.load(text, Loader=_UniqueKeyLoader)  # noqa: S506 (a SafeLoader)
    except OSError as error:
        raise SettingsError([Problem(file, "", f"cannot be read: {error.strerror}")]) from error
    except UnicodeDecodeError as error:
        raise SettingsError([Problem(file, "", f"is not UTF-8 at byte {error.start}")]) from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise SettingsError([Problem(file, where, f"{getattr(error, 'problem', None) or error}")]) from error
    if document is None:
        document = {}
    if not isinstance(document, dict):
        raise SettingsError(
            [Problem(file, "", "a mapping of sections (listeners, policy, …)", _show(document))]
        )
    missing: list[Problem] = []
    expanded = _expand(document, env, file, (), missing)
    problems = missing
    try:
        config = Config.model_validate(expanded)
        config._file = file
    except ValidationError as error:
        unset = {problem.path for problem in missing}
        problems += [p for p in _problems(error, file, document) if p.path not in unset]
        raise SettingsError(problems) from None
    problems += combinations(config, file)
    if problems:
        raise SettingsError(problems)
    return _anchored(config, path.resolve().parent)


def _expand(
    value: Any, env: Mapping[str, str], file: str, at: tuple[str | int, ...], missing: list[Problem]
) -> Any:
    if isinstance(value, dict):
        return {key: _expand(item, env, file, (*at, str(key)), missing) for key, item in value.items()}
    if isinstance(value, list):
        return [_expand(item, env, file, (*at, index), missing) for index, item in enumerate(value)]
    if not isinstance(value, str):
        return value

    def replace(match: re.Match[str]) -> str:
        if match[1] is not None:
            try:
                return (Path(file).parent / match[1]).read_text("utf-8").rstrip("\r\n")
            except (OSError, UnicodeDecodeError) as error:
                why = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
                missing.append(Problem(file, _key_path(at), f"{match[1]} cannot be read: {why}"))
                return match[0]
        name = match[2]
        default: str | None = match[3]
        if (found := env.get(name, default)) is None:
            hint = f'set it, or give a default: "${{{name}:-…}}"'
            missing.append(Problem(file, _key_path(at), f"environment variable {name} is not set; {hint}"))
            return match[0]
        return found

    return _ENV.sub(replace, value)


def of_values(values: dict[str, Any], file: str) -> Config:
    """Settings that were loaded from `file` before, from what `plain.plain` told of them, secrets included."""
    config = Config.model_validate(values)
    config._file = file
    return config


def written_secrets(path: Path) -> list[str]:
    """Where the settings file itself, which was loaded before, has a secret in it: neither from the environment nor
    from a file."""
    document = yaml.load(path.read_text("utf-8"), Loader=_UniqueKeyLoader)  # noqa: S506 (a SafeLoader)
    return [_key_path(at) for at, value in _leaves(document, ()) if _is_secret(at, value)]


def _leaves(value: Any, at: tuple[str | int, ...]) -> Iterator[tuple[tuple[str | int, ...], str]]:
    if isinstance(value, str):
        yield at, value
    elif isinstance(value, dict | list):
        for key, each in value.items() if isinstance(value, dict) else enumerate(value):
            yield from _leaves(each, (*at, key))


def _is_secret(at: tuple[str | int, ...], value: str) -> bool:
    written = _ENV.sub("", value)
    if at[-1] in ("token", "password") or at[:-1] == ("tracing", "headers"):
        return bool(written)
    if at[-1] == "key":  # of bundles; a path, or a name of a field, elsewhere
        return len(at) == 4 and at[:2] == ("policy", "keys") and "PUBLIC KEY" not in value and bool(written)
    return re.search(r"://[^/@]*:[^@]+@", written) is not None


def _key_path(at: tuple[str | int, ...]) -> str:
    path = ""
    for part in at:
        path += f"[{part}]" if isinstance(part, int) else f".{part}" if path else part
    return path


def _show(value: object) -> str:
    """A value as the operator wrote it, short enough for one line."""
    if isinstance(value, str):
        text = f'"{value}"'
    elif isinstance(value, bool) or value is None:
        text = {True: "true", False: "false", None: "nothing"}[value]
    elif isinstance(value, dict):
        text = "a mapping"
    elif isinstance(value, list):
        text = "a list"
    else:
        text = str(value)
    return text if len(text) <= 80 else text[:77] + "…"


_SECRET_KEYS = {"url", "urls", "token", "password", "key"}

_EXPECTED = {
    "missing": "a value (this key is required)",
    "string_type": "a string",
    "int_type": "a whole number",
    "int_parsing": "a whole number",
    "int_from_float": "a whole number",
    "bool_type": "true or false",
    "bool_parsing": "true or false",
    "path_type": "a path",
    "tuple_type": "a list",
    "dict_type": "a mapping",
    "model_type": "a mapping",
    "float_type": "a number",
    "float_parsing": "a number",
    "model_attributes_type": "a mapping",
}


def _problems(error: ValidationError, file: str, document: Any) -> list[Problem]:
    """Pydantic's findings in our words: each with its key path, what was expected, what was got."""
    problems: list[Problem] = []
    for item in error.errors():
        at, got, siblings = _locate(document, item["loc"])
        kind, context = item["type"], item.get("ctx", {})
        if kind == "extra_forbidden":
            problems.append(
                Problem(file, _key_path(at), _unknown_key(str(at[-1]), item["loc"][:-1], siblings))
            )
            continue
        if kind in ("value_error", "assertion_error"):
            expected = str(context["error"])
        elif kind in ("literal_error", "enum"):
            expected = context["expected"].replace("'", "")
        elif kind == "union_tag_invalid":
            at = (*at, "type")
            expected = " or ".join(tag.strip(" '") for tag in context["expected_tags"].split(","))
            got = context["tag"]
        elif kind == "union_tag_not_found":
            at, expected, got = (*at, "type"), "kafka or file or python", None
        elif kind == "string_pattern_mismatch":
            expected = f"text that matches {context['pattern']}"
        elif kind in ("greater_than", "greater_than_equal"):
            expected = (
                f"a number above {context['gt']:g}" if kind == "greater_than" else f"at least {context['ge']}"
            )
        elif kind == "less_than_equal":
            expected = f"at most {context['le']:g}"
        elif kind == "too_short":
            expected = f"at least {context['min_length']} entry"
        else:
            expected = _EXPECTED.get(kind, item["msg"])
        shown = (
            "a value that is kept secret"
            if _SECRET_KEYS.intersection(at[-2:]) and _has_secret(got)
            else _show(got)
        )
        problems.append(Problem(file, _key_path(at), expected, shown))
    return problems


def _has_secret(value: object) -> bool:
    return isinstance(value, str) and "@" in value


def _locate(document: Any, loc: tuple[str | int, ...]) -> tuple[tuple[str | int, ...], Any, dict[str, Any]]:
    """The key path of pydantic's `loc` in the file (it adds the tag of a union), the value, its mapping."""
    at: list[str | int] = []
    value, siblings = document, {}
    for part in loc:
        if part == "[key]":  # the key itself is wrong, which stands before
            value = at[-1]
            continue
        if isinstance(value, dict):
            siblings = value
            if part in value:
                value = value[part]
            elif part == value.get("type"):
                continue
            else:
                value = None
        elif isinstance(value, list) and isinstance(part, int) and part < len(value):
            value = value[part]
        else:
            value = None
        at.append(part)
    return tuple(at), value, siblings


def _unknown_key(key: str, section: tuple[str | int, ...], siblings: dict[str, Any]) -> str:
    model: Any = Config
    for part in section:
        model = _section(model, part)
        if model is None:
            return "unknown key"
    known = [name for name in model.model_fields if name not in siblings]
    close = difflib.get_close_matches(key, known, n=1)
    return (
        f'unknown key; did you mean "{close[0]}"?'
        if close
        else f"unknown key; known here: {', '.join(sorted(model.model_fields))}"
    )


def _section(model: Any, part: str | int) -> Any:
    if isinstance(part, int):
        return model
    if part in (sinks := {"kafka": KafkaSink, "file": FileSink, "python": PythonSink}):
        return sinks[part]
    field = model.model_fields.get(part)
    if field is None:
        return None
    if part == "sinks":
        return model
    candidates = (field.annotation, *getattr(field.annotation, "__args__", ()))
    return next((c for c in candidates if isinstance(c, type) and issubclass(c, Settings)), None)


def combinations(config: Config, file: str) -> list[Problem]:
    """Settings that are right alone and dangerous together, each with the way out."""
    problems: list[Problem] = []

    def refuse(path: str, message: str) -> None:
        problems.append(Problem(file, path, message))

    problems += _of_listeners(config, file)
    if (
        config.policy is not None
        and config.policy.engine == "embedded"
        and not (config.policy.paths or config.policy.bundles)
    ):
        refuse(
            "policy.paths", "the embedded engine needs at least one .rego file or folder; or use engine: opa"
        )
    if config.policy is not None and config.policy.skip_request_body_parse and config.policy.proto_descriptor:
        refuse(
            "policy.proto_descriptor", "no body is parsed with skip_request_body_parse: true; leave one out"
        )
    if config.policy is not None:
        problems += _of_opa(config.policy, file)
        problems += _of_bundles(config.policy, file)
        problems += _of_shadow(config.policy, file)
    problems += _of_decision_log(config, file)
    if config.telemetry.mask is not None and (config.policy is None or not config.policy.paths):
        what = "needs policy.paths: the rule is one of theirs, and the embedded engine evaluates it"
        problems.append(Problem(file, "telemetry.mask", what))
    problems += _of_rate_limits(config, file)
    problems += _of_kafka(config, file)
    if (tracing := config.tracing) is not None:
        if tracing.tls != ClientTls() and not tracing.endpoint.startswith("https:"):
            refuse("tracing.tls", "has no meaning for http; use https in endpoint")
        if (tracing.tls.cert is None) != (tracing.tls.key is None):
            refuse("tracing.tls", "cert and key belong together; give both or none")
    return problems


def _of_listeners(config: Config, file: str) -> list[Problem]:
    problems: list[Problem] = []

    def refuse(path: str, message: str) -> None:
        problems.append(Problem(file, path, message))

    listeners = config.listeners
    addresses: dict[str, str] = {}
    for name in ("check", "report", "otlp_http", "admin"):
        if (own := getattr(listeners, name)) is None:
            continue
        for where, address in _addresses(name, own):
            if not address.endswith(":0") and address in addresses:
                refuse(where, f"{address} is taken by {addresses[address]}; give each its own")
            addresses.setdefault(address, where)
    for name in ("check", "report"):
        problems += _of_workers(getattr(listeners, name), name, getattr(config.workers, name), file)
    otlp_http = listeners.otlp_http
    if otlp_http is not None and otlp_http.address.startswith("unix:") and config.workers.report > 1:
        refuse("listeners.otlp_http.address", "a Unix socket has one worker behind it; use TCP")
    for name in ("check", "report", "otlp_http", "admin"):
        tls: Tls | None = getattr(getattr(listeners, name), "tls", None)
        if tls is not None and tls.client_ca is None and tls.spiffe != Spiffe():
            refuse(f"listeners.{name}.tls.spiffe", "needs client_ca, whose certificates name the clients")
    return problems


def _addresses(name: str, listener: Listener | OtlpHttpListener | AdminListener) -> list[tuple[str, str]]:
    """Each with its key path."""
    if isinstance(listener, Listener) and listener.addresses:
        return [(f"listeners.{name}.addresses[{at}]", each) for at, each in enumerate(listener.addresses)]
    return [(f"listeners.{name}.address", listener.address)]


def _of_workers(listener: Listener, role: str, count: int, file: str) -> Iterator[Problem]:
    where = f"listeners.{role}"
    if listener.addresses and len(listener.addresses) != count:
        expected = f"one for each worker of workers.{role}, which are {count}"
        yield Problem(file, f"{where}.addresses", expected, str(len(listener.addresses)))
    if listener.addresses and "address" in listener.model_fields_set:
        yield Problem(file, f"{where}.addresses", "give either address or addresses")
    if count > 1 and not listener.addresses and listener.address.startswith("unix:"):
        what = f"a Unix socket has one worker behind it; give {count} in {where}.addresses, or use TCP"
        yield Problem(file, f"{where}.address", what)


def _of_rate_limits(config: Config, file: str) -> list[Problem]:
    if (limits := config.rate_limits) is None:
        return []
    problems: list[Problem] = []

    def refuse(path: str, message: str) -> None:
        problems.append(Problem(file, path, message))

    if limits.counters == "memory" and config.workers.check > 1:
        refuse(
            "rate_limits.counters",
            f"memory with {config.workers.check} check workers would admit {config.workers.check} times the limit; "
            "use redis, or workers.check: 1",
        )
    if limits.counters == "memory" and limits.key_format != "mixer":
        refuse(
            "rate_limits.key_format", f"{limits.key_format} is a format of Redis keys; use counters: redis"
        )
    if not limits.paths and limits.decision is None:
        refuse(
            "rate_limits.paths",
            "at least one limits file or folder is needed, or a decision; leave rate_limits out to switch Quota off",
        )
    if limits.decision is not None and config.policy is None:
        refuse("rate_limits.decision", "needs the section policy, whose engine evaluates it")
    return problems + _of_redis(limits, file)


def _of_redis(limits: RateLimits, file: str) -> list[Problem]:
    problems = []
    redis = limits.redis
    if (redis.mode == "sentinel") != (redis.sentinel is not None):
        what = "mode: sentinel and a section with master and urls go together"
        problems.append(Problem(file, "rate_limits.redis.sentinel", what))
    if redis.sentinel is not None and not redis.sentinel.urls:
        problems.append(Problem(file, "rate_limits.redis.sentinel.urls", "at least one is needed"))
    if redis.nodes and redis.mode != "cluster":
        problems.append(Problem(file, "rate_limits.redis.nodes", "has a meaning with mode: cluster alone"))
    if limits.on_error == "local" and limits.instances is None:
        problems.append(Problem(file, "rate_limits.on_error", INSTANCES))
    return problems


def _of_decision_log(config: Config, file: str) -> list[Problem]:
    if (log := config.decision_log) is None:
        return []
    problems = []
    if config.policy is None:
        what = "there are no decisions to log without the section policy"
        problems.append(Problem(file, "decision_log", what))
    if not log.sinks:
        what = "at least one sink is needed; leave decision_log out to switch it off"
        problems.append(Problem(file, "decision_log.sinks", what))
    return problems


def _of_kafka(config: Config, file: str) -> Iterator[Problem]:
    places: list[tuple[str, Any]] = [
        (f"telemetry.sinks[{index}]", sink) for index, sink in enumerate(config.telemetry.sinks)
    ]
    if config.decision_log is not None:
        places += [
            (f"decision_log.sinks[{index}]", sink) for index, sink in enumerate(config.decision_log.sinks)
        ]
    taken: dict[Path, str] = {}
    for where, sink in places:
        files = (
            [(f"{where}.path", sink.path)] if isinstance(sink, FileSink) and sink.path != Path("-") else []
        )
        if isinstance(sink, KafkaSink):
            buffer = sink.buffer
            if (buffer.path is None) != (buffer.type == "memory"):
                what = "a file" if buffer.path is None else "nothing with type: memory; or set type: disk"
                shown = "nothing" if buffer.path is None else f'"{buffer.path}"'
                yield Problem(file, f"{where}.buffer.path", what, shown)
            if buffer.path is not None:
                files.append((f"{where}.buffer.path", buffer.path))
            if sink.dead_letters is not None:
                files.append((f"{where}.dead_letters.path", sink.dead_letters.path))
            if sink.tls is not None and (sink.tls.cert is None) != (sink.tls.key is None):
                yield Problem(file, f"{where}.tls", "cert and key belong together; give both or none")
        role = "report" if where.startswith("telemetry") else "check"
        count = getattr(config.workers, role)
        for at, path in files:
            if count > 1 and isinstance(sink, KafkaSink) and WORKER not in str(path):
                own = path.with_stem(f"{path.stem}-{WORKER}")
                what = f"belongs to one process, and workers.{role} is {count}; name it by worker, {own}"
                yield Problem(file, at, what)
            if path in taken:
                yield Problem(file, at, f"{path} is taken by {taken[path]}; give each its own")
            taken.setdefault(path, at)


def _of_opa(policy: Policy, file: str) -> list[Problem]:
    problems: list[Problem] = []

    def refuse(path: str, message: str) -> None:
        problems.append(Problem(file, path, message))

    if policy.opa.push and policy.engine != "opa":
        refuse("policy.opa.push", "pushes to an OPA server that decides; set engine: opa, or leave it out")
    elif policy.opa.push and not policy.paths:
        refuse("policy.opa.push", "there is nothing to push; name policies in policy.paths")
    if policy.engine == "opa" and policy.keys and not policy.opa.push:
        refuse(
            "policy.keys",
            "the OPA server verifies its bundles itself; set policy.opa.push: true, or use engine: embedded",
        )
    if policy.engine == "opa" and policy.bundles:
        refuse(
            "policy.bundles",
            "the OPA server polls bundles itself, and takes a new one at once: name them in its own settings; "
            "or use engine: embedded",
        )
    return problems


def _of_bundles(policy: Policy, file: str) -> list[Problem]:
    problems: list[Problem] = []
    seen: set[str] = set()
    for index, key in enumerate(policy.keys):
        where = f"policy.keys[{index}]"
        if (key.key is None) == (key.file is None):
            problems.append(Problem(file, where, "give either key or file"))
        if key.id in seen:
            problems.append(Problem(file, f"{where}.id", f'"{key.id}" is taken; give each key its own'))
        seen.add(key.id)
    places = [(f"policy.bundles[{index}]", bundle) for index, bundle in enumerate(policy.bundles)]
    if policy.shadow is not None:
        own = enumerate(policy.shadow.bundles)
        places += [(f"policy.shadow.bundles[{index}]", bundle) for index, bundle in own]
    names: set[str] = set()
    for where, bundle in places:
        if bundle.name in names:
            problems.append(Problem(file, f"{where}.name", f'"{bundle.name}" is taken; give each its own'))
        names.add(bundle.name)
        problems += _of_bundle(bundle, seen, where, file)
    return problems


def _of_bundle(bundle: Bundle, keys: Collection[str], where: str, file: str) -> Iterator[Problem]:
    if bundle.token is not None and bundle.token_file is not None:
        yield Problem(file, f"{where}.token_file", "give either token or token_file")
    if bundle.tls != ClientTls() and not bundle.url.startswith("https:"):
        yield Problem(file, f"{where}.tls", "has no meaning for http; use https in url")
    if (bundle.tls.cert is None) != (bundle.tls.key is None):
        yield Problem(file, f"{where}.tls", "cert and key belong together; give both or none")
    if bundle.signing != Signing() and not keys:
        yield Problem(file, f"{where}.signing", "needs the keys; give them in policy.keys")
    elif bundle.signing.key_id is not None and bundle.signing.key_id not in keys:
        known = ", ".join(sorted(keys))
        yield Problem(file, f"{where}.signing.key_id", f"one of {known}", f'"{bundle.signing.key_id}"')


def _of_shadow(policy: Policy, file: str) -> list[Problem]:
    if (shadow := policy.shadow) is None:
        return []
    problems = list(_of_shadow_decisions(policy, shadow, file))
    if shadow.own:
        return problems
    if policy.bundles:
        own = "with policy.bundles, the candidate needs paths or bundles of its own"
        return [*problems, Problem(file, "policy.shadow.paths", own)]
    if not policy.paths:
        needed = "the embedded engine evaluates the candidate, also with engine: opa; it needs at least one .rego file"
        return [*problems, Problem(file, "policy.shadow.paths", f"{needed} or folder")]
    if all(live == candidate for live, (candidate, _) in policy.compared().items()):
        same = "names neither paths nor a decision of its own; there is nothing to compare"
        problems.append(Problem(file, "policy.shadow", same))
    return problems


def _of_shadow_decisions(policy: Policy, shadow: Shadow, file: str) -> Iterator[Problem]:
    taken = {policy.decision: "policy.decision"}
    for name in shadow.decisions:
        where = f"policy.shadow.decisions.{name}"
        if (path := policy.decisions.get(name)) is None:
            known = ", ".join(sorted(policy.decisions)) or "nothing, since it is empty"
            yield Problem(file, where, f"a name in policy.decisions: {known}")
        elif path in taken:
            what = (
                f"{path} is {taken[path]} too, and a decision is compared with one candidate; leave one out"
            )
            yield Problem(file, where, what)
        else:
            taken[path] = f"policy.decisions.{name}"


def of_worker(config: Config, number: int) -> Config:
    """The settings of one worker: in the paths of sinks, its number stands for `{worker}`."""

    def named(value: Any) -> Any:
        if isinstance(value, Settings):
            return value.model_copy(
                update={name: named(getattr(value, name)) for name in type(value).model_fields}
            )
        if isinstance(value, tuple):
            return tuple(map(named, value))
        return Path(str(value).replace(WORKER, str(number))) if isinstance(value, Path) else value

    changes: dict[str, Any] = {"telemetry": named(config.telemetry)}
    if config.decision_log is not None:
        changes["decision_log"] = named(config.decision_log)
    return config.model_copy(update=changes)


def _anchored(config: Config, folder: Path) -> Config:
    """The same settings with relative paths taken from `folder`."""

    def anchor(value: Any) -> Any:
        if isinstance(value, Settings):
            changes = {}
            for name in type(value).model_fields:
                old = getattr(value, name)
                if (new := anchor(old)) is not old:
                    changes[name] = new
            return value.model_copy(update=changes) if changes else value
        if isinstance(value, Path):
            return value if str(value) == "-" else folder / value
        if isinstance(value, tuple) and any(isinstance(item, Path | Settings) for item in value):
            return tuple(anchor(item) for item in value)
        return value

    return anchor(config)  # type: ignore[no-any-return]
