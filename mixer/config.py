"""Settings: one YAML file, validated whole, frozen afterwards.

`load(path)` answers a `Config`, or raises `SettingsError` that names every mistake by file, key path,
what was expected and what was got. `${NAME}` and `${NAME:-default}` are expanded in values.
"""

import difflib
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
    SecretStr,
    ValidationError,
    model_validator,
)

from mixer.errors import Problem, SettingsError

_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h)")
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
_ENV = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)(?::-([^}]*))?\}")
# Without it, each process would admit all of the limit.
INSTANCES = "local needs rate_limits.instances, the number of Mixer processes that share the counters"
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


def _header_name(value: str) -> str:
    if not _HEADER_NAME.fullmatch(value):
        raise ValueError("an HTTP header name")
    return value


def _http_or_unix_url(value: str) -> str:
    if not re.fullmatch(r"https?://[^/\s]+/?|unix:(//)?/\S+", value):
        raise ValueError('"http://host:port", "https://host:port" or "unix:/path"')
    return value.rstrip("/")


def _bundle_url(value: str) -> str:
    if not re.fullmatch(r"https?://[^/\s@?#]+/[^\s#]*", value):
        raise ValueError('"https://host/path" or "http://host:port/path", secrets in `token`')
    return value


def _redis_url(value: SecretStr) -> SecretStr:
    if not re.fullmatch(r"(rediss?://|unix:/)\S+", value.get_secret_value()):
        raise ValueError('"redis://host:port/db", "rediss://…" or "unix:///path"')
    return value


def _off(value: object) -> object:
    """YAML 1.1 reads a bare `off` as false."""
    return None if value is False or value == "off" else value


Seconds = Annotated[float, BeforeValidator(_seconds)]
Address = Annotated[str, AfterValidator(_address)]
TcpAddress = Annotated[str, AfterValidator(_tcp_address)]
DecisionPath = Annotated[str, AfterValidator(_decision)]
DecisionName = Annotated[str, AfterValidator(_decision_name)]
HeaderName = Annotated[str, AfterValidator(_header_name)]
RedisUrl = Annotated[SecretStr, AfterValidator(_redis_url)]
OnError = Literal["error", "allow", "deny", "local"]


class Settings(BaseModel):
    """Base of every section: frozen, and an unknown key is a mistake."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Tls(Settings):
    """Certificates of a listener, PEM files. With `client_ca`, clients must show a certificate of it."""

    cert: Path
    key: Path
    client_ca: Path | None = None


class Listener(Settings):
    """A gRPC listener."""

    address: Address
    server: Literal["native", "grpcio"]
    tls: Tls | None = None


class CheckListener(Listener):
    """Envoy's ext_authz and rate limit filters call here: short unary calls, for which native is fastest."""

    address: Address = "127.0.0.1:9191"
    server: Literal["native", "grpcio"] = "native"


class ReportListener(Listener):
    """Envoy's access loggers stream here; streams are grpcio's."""

    address: Address = "127.0.0.1:9192"
    server: Literal["native", "grpcio"] = "grpcio"


class OtlpHttpListener(Settings):
    """OTLP over HTTP (`POST /v1/logs`), for exporters that do not speak gRPC."""

    address: Address = "127.0.0.1:4318"
    tls: Tls | None = None


class AdminListener(Settings):
    """`/metrics`, `/healthz` and `/readyz` over HTTP; to callers on the same machine the pages on rate limits, too."""

    address: TcpAddress = "127.0.0.1:9901"


class Listeners(Settings):
    check: CheckListener = CheckListener()
    report: ReportListener = ReportListener()
    otlp_http: OtlpHttpListener | None = None
    admin: AdminListener = AdminListener()


class Workers(Settings):
    check: PositiveInt = 1
    report: PositiveInt = 1


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
        64  # checks that share a query; with 1 each is a decision of its own in OPA's log
    )
    concurrency: PositiveInt = 2  # queries on their way
    max_waiting: PositiveInt = 10_000  # checks that wait for one; more are answered UNAVAILABLE at once


class Http(Settings):
    """`http.send` and `net.lookup_ip_addr` in the embedded engine."""

    timeout: Seconds = 5.0  # of a request that names none; Envoy's deadline bounds the whole check
    max_response_size: PositiveInt = 8 * 1024 * 1024  # bytes; the evaluation fails for more
    max_cache_size: NonNegativeInt = 64 * 1024 * 1024  # bytes of replies kept for `cache` and `force_cache`
    max_waiting: PositiveInt = 1_000  # checks that wait for replies; more are answered UNAVAILABLE at once


class Cache(Settings):
    """The decision cache."""

    max_entries: PositiveInt = 100_000
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
    cache: Annotated[Cache | None, BeforeValidator(_off)] = Cache()
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
    key_prefix: str = "mixer:"
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
    local_cache: Annotated[LocalCache | None, BeforeValidator(_off)] = LocalCache()
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


class Telemetry(Settings):
    sinks: tuple[Sink, ...] = ()
    redaction: Redaction = Redaction()
    mask: DecisionPath | None = None  # a rule of policy.paths that says what is masked in a record
    dynamic_metadata: tuple[str, ...] = ()  # filters of Envoy whose metadata a record has, by their names
    # After which a stream of access logs is ended, so that Envoy opens another, at another Mixer where there are some.
    max_stream_age: Annotated[Annotated[Seconds, Field(gt=0)] | None, BeforeValidator(_off)] = None
    export_timeout: Annotated[Seconds, Field(gt=0)] = 10.0  # until an OTLP Export's records must be durable
    max_series: PositiveInt = 10_000  # label sets a metric; the rest goes to one overflow series


class Config(Settings):
    """All settings. A section left out switches its call off: no `policy`, no Check; no `rate_limits`, no Quota."""

    listeners: Listeners = Listeners()
    workers: Workers = Workers()
    logging: Logging = Logging()
    drain_timeout: Seconds = 10.0  # SIGTERM: calls in flight and sinks get this long together
    policy: Policy | None = None
    rate_limits: RateLimits | None = None
    telemetry: Telemetry = Telemetry()
    decision_log: DecisionLog | None = None


class _UniqueKeyLoader(yaml.CSafeLoader):
    """YAML 1.1 that refuses a key given twice, where plain YAML would silently take the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[object] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
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
        document = yaml.load(path.read_text("utf-8"), Loader=_UniqueKeyLoader)  # noqa: S506 (a SafeLoader)
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
    except ValidationError as error:
        unset = {problem.path for problem in missing}
        problems += [p for p in _problems(error, file, document) if p.path not in unset]
        raise SettingsError(problems) from None
    problems += _combinations(config, file)
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
        name = match[1]
        default: str | None = match[2]
        if (found := env.get(name, default)) is None:
            hint = f'set it, or give a default: "${{{name}:-…}}"'
            missing.append(Problem(file, _key_path(at), f"environment variable {name} is not set; {hint}"))
            return match[0]
        return found

    return _ENV.sub(replace, value)


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


def _combinations(config: Config, file: str) -> list[Problem]:
    """Settings that are right alone and dangerous together, each with the way out."""
    problems: list[Problem] = []

    def refuse(path: str, message: str) -> None:
        problems.append(Problem(file, path, message))

    workers = config.workers
    for role in ("check", "report"):
        if (count := getattr(workers, role)) > 1:
            refuse(
                f"workers.{role}",
                f"expected 1, got {count}: one process serves one worker of a role; start more with "
                f"`mixer serve --role {role}` on addresses of their own, and let Envoy balance over them",
            )
    listeners = config.listeners
    addresses: dict[str, str] = {}
    for name in ("check", "report", "otlp_http", "admin"):
        if getattr(listeners, name) is None:
            continue
        address = getattr(listeners, name).address
        if not address.endswith(":0") and address in addresses:
            refuse(
                f"listeners.{name}.address",
                f"{address} is taken by listeners.{addresses[address]}; give each its own",
            )
        addresses.setdefault(address, name)
    for name in ("check", "report"):
        listener: Listener = getattr(listeners, name)
        if listener.tls is not None and listener.server == "native":
            refuse(
                f"listeners.{name}.tls", "the native server has no TLS; set server: grpcio for this listener"
            )
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
    return problems


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
        for at, path in files:
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
