"""Settings: what is read, and each mistake's message."""

from pathlib import Path

import pytest

from mixer import config
from mixer.errors import SettingsError

DEPLOYED = Path(__file__).parents[1] / "deploy" / "mixer.yaml"


def load(tmp_path: Path, text: str, **env: str) -> config.Config:
    file = tmp_path / "mixer.yaml"
    file.write_text(text)
    return config.load(file, env)


def mistakes(tmp_path: Path, text: str, **env: str) -> list[str]:
    with pytest.raises(SettingsError) as caught:
        load(tmp_path, text, **env)
    prefix = f"{tmp_path / 'mixer.yaml'}: "
    lines = str(caught.value).splitlines()
    assert all(line.startswith(prefix) for line in lines)
    return [line.removeprefix(prefix) for line in lines]


def test_empty_file_is_all_defaults(tmp_path: Path) -> None:
    settings = load(tmp_path, "")
    assert settings.listeners.check.address == "127.0.0.1:9191"
    assert settings.listeners.check.server == "asyncio"
    assert settings.listeners.report.server == "asyncio"
    assert settings.policy is None
    assert settings.rate_limits is None
    assert settings.telemetry.sinks == ()


def test_settings_of_the_design_are_read(tmp_path: Path) -> None:
    settings = load(
        tmp_path,
        """
listeners:
  check:  {address: "127.0.0.1:9191", server: asyncio}
  report: {address: "unix:/run/mixer/report.sock"}
  admin:  {address: "127.0.0.1:9901"}
workers: {check: 1, report: 1}
policy:
  engine: embedded
  opa: {url: "http://127.0.0.1:8181"}
  paths: [policies/]
  decision: envoy/authz/allow
  cache: {max_entries: 100000, ttl: 60s}
rate_limits:
  paths: [policies/limits/]
  counters: redis
  redis: {url: "redis://127.0.0.1:6379/0"}
  shadow_mode: false
  response_headers: {enabled: true, limit: RateLimit-Limit, remaining: RateLimit-Remaining, reset: RateLimit-Reset}
telemetry:
  sinks:
    - {type: kafka, bootstrap_servers: ["127.0.0.1:9092"], topic: mixer.access}
    - {type: file, path: "-"}
""",
    )
    assert settings.policy is not None
    assert settings.policy.cache == config.Cache(max_entries=100_000, ttl="60s")  # type: ignore[arg-type]
    assert settings.policy.paths == (tmp_path / "policies",)
    assert [sink.type for sink in settings.telemetry.sinks] == ["kafka", "file"]


def test_relative_paths_count_from_the_files_folder(tmp_path: Path) -> None:
    settings = load(
        tmp_path,
        'policy: {paths: [a, /b]}\ntelemetry: {sinks: [{type: file, path: c.jsonl}, {type: file, path: "-"}]}',
    )
    assert settings.policy is not None
    assert settings.policy.paths == (tmp_path / "a", Path("/b"))
    assert [str(sink.path) for sink in settings.telemetry.sinks if sink.type == "file"] == [
        str(tmp_path / "c.jsonl"),
        "-",
    ]


def test_buffer_on_disk_is_bounded_by_bytes(tmp_path: Path) -> None:
    sink = "{type: kafka, bootstrap_servers: [a], buffer: {type: disk, path: spool/access.db}}"
    (kafka,) = load(tmp_path, f"telemetry: {{sinks: [{sink}]}}").telemetry.sinks
    assert kafka.type == "kafka"
    assert (kafka.buffer.max_records, kafka.buffer.max_bytes) == (10_000_000, 1024**3)
    assert kafka.buffer.path == tmp_path / "spool/access.db"


def test_decision_log_has_sinks_of_its_own(tmp_path: Path) -> None:
    sinks = "[{type: kafka, bootstrap_servers: [a]}, {type: file, path: d.jsonl}]"
    log = load(tmp_path, f"policy: {{paths: [a]}}\ndecision_log: {{sinks: {sinks}}}").decision_log
    assert log is not None
    kafka, file = log.sinks
    assert isinstance(kafka, config.KafkaSink)
    assert (kafka.topic, kafka.format) == ("mixer.decisions", "json")
    assert isinstance(file, config.FileSink)
    assert file.path == tmp_path / "d.jsonl"
    assert (log.sample.allowed, log.sample.denied, log.input) == (1, 1, "all")


@pytest.mark.parametrize("off", ["off", '"off"', "false"])
def test_cache_off(tmp_path: Path, off: str) -> None:
    settings = load(tmp_path, f"policy: {{paths: [a], cache: {off}}}")
    assert settings.policy is not None
    assert settings.policy.cache is None


def test_candidate_of_the_shadow_is_as_the_policy_where_nothing_else_is_said(tmp_path: Path) -> None:
    settings = load(tmp_path, "policy: {paths: [a], decision: p/old, shadow: {decision: p/new}}")
    assert settings.policy is not None
    candidate = settings.policy.candidate()
    assert candidate is not None
    assert candidate.paths == (tmp_path / "a",)
    assert settings.policy.compared() == {"p/old": ("p/new", True)}
    settings = load(tmp_path, "policy: {engine: opa, decision: p/old, shadow: {paths: [b]}}")
    assert settings.policy is not None
    candidate = settings.policy.candidate()
    assert candidate is not None
    assert (candidate.engine, candidate.paths) == ("embedded", (tmp_path / "b",))
    assert settings.policy.compared() == {"p/old": ("p/old", True)}


@pytest.mark.parametrize(
    ("shadow", "compared"),
    [
        ("{paths: [b]}", {"p/allow": ("p/allow", True), "p/a": ("p/a", False), "p/b": ("p/b", False)}),
        ("{decision: p/new}", {"p/allow": ("p/new", True)}),
        ("{decisions: {b: p/new}}", {"p/b": ("p/new", True)}),
        (
            "{paths: [b], decision: p/new, decisions: {b: p/b2}}",
            {"p/allow": ("p/new", True), "p/a": ("p/a", False), "p/b": ("p/b2", True)},
        ),
    ],
)
def test_shadow_compares_each_decision_that_it_names_or_that_its_own_policies_may_give(
    tmp_path: Path, shadow: str, compared: dict[str, tuple[str, bool]]
) -> None:
    decisions = "{a: p/a, again: p/a, b: p/b, same: p/allow}"
    settings = load(
        tmp_path, f"policy: {{paths: [a], decision: p/allow, decisions: {decisions}, shadow: {shadow}}}"
    )
    assert settings.policy is not None
    assert settings.policy.compared() == compared


@pytest.mark.parametrize(("text", "seconds"), [("250ms", 0.25), ("1.5s", 1.5), ("2m", 120), ("1h", 3600)])
def test_durations(tmp_path: Path, text: str, seconds: float) -> None:
    assert load(tmp_path, f"drain_timeout: {text}").drain_timeout == seconds


def test_least_version_of_tls_may_be_written_as_a_number(tmp_path: Path) -> None:
    text = "listeners: {check: {tls: {cert: a, key: b, min_version: 1.3}}}"
    assert (tls := load(tmp_path, text).listeners.check.tls) is not None
    assert tls.min_version == "1.3"


def test_environment_is_expanded_in_values(tmp_path: Path) -> None:
    settings = load(
        tmp_path,
        'listeners: {check: {address: "${HOST}:${PORT:-9000}"}}\nworkers: {check: "${N}"}',
        HOST="127.0.0.1",
        N="1",
    )
    assert settings.listeners.check.address == "127.0.0.1:9000"
    assert settings.workers.check == 1


def test_files_are_expanded_in_values_without_the_end_of_their_last_line(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("s3same\n")
    settings = load(tmp_path, 'policy: {engine: opa, opa: {token: "${file:token}"}}')
    assert settings.policy is not None
    assert settings.policy.opa.token is not None
    assert settings.policy.opa.token.get_secret_value() == "s3same"


WRITTEN = """
policy:
  engine: opa
  opa: {token: s3same, push: true}
  paths: [a]
  keys: [{id: a, algorithm: HS256, key: s3same}, {id: b, key: "-----BEGIN PUBLIC KEY-----"}, {id: c, key: "${K}"}]
  shadow: {bundles: [{name: a, url: "http://x/y", token: "${T}"}, {name: b, url: "http://x/y", token: s3same}]}
rate_limits: {paths: [a], redis: {url: "redis://u:${P}@h/0", sentinel: {master: m, urls: ["redis://:s3same@s:1"]}}}
telemetry:
  sinks:
    - {type: kafka, bootstrap_servers: [a], key: enduser.id, tls: {cert: a, key: b}, sasl: {password: "${file:p}"}}
tracing: {headers: {api-key: s3same}}
"""


def test_secrets_that_stand_in_the_file_are_named(tmp_path: Path) -> None:
    file = tmp_path / "mixer.yaml"
    file.write_text(WRITTEN)
    assert config.written_secrets(file) == [
        "policy.opa.token",
        "policy.keys[0].key",
        "policy.shadow.bundles[1].token",
        "rate_limits.redis.sentinel.urls[0]",
        "tracing.headers.api-key",
    ]
    assert config.written_secrets(DEPLOYED) == []


@pytest.mark.parametrize(
    ("text", "mistake"),
    [
        (
            'policy: {engine: opa, opa: {token: "${file:none}"}}',
            "policy.opa.token: none cannot be read: No such file or directory",
        ),
        ("- a", "expected a mapping of sections (listeners, policy, …), got a list"),
        ("a: [", "line 2, column 1: did not find expected node content"),
        ("workers: {check: 1, check: 2}", 'line 1, column 21: key "check" is given twice'),
        ("polcy: {}", 'polcy: unknown key; did you mean "policy"?'),
        (
            "xyz: {}",
            "xyz: unknown key; known here: decision_log, drain_timeout, listeners, logging, policy, rate_limits, "
            "reload, telemetry, tracing, workers",
        ),
        ("policy: {paths: [a], engin: opa}", 'policy.engin: unknown key; did you mean "engine"?'),
        (
            "listeners: {check: {adress: x}}",
            'listeners.check.adress: unknown key; did you mean "address"?',
        ),
        (
            "listeners: {check: {address: localhost}}",
            'listeners.check.address: expected "host:port", "[::1]:port" or "unix:/path", got "localhost"',
        ),
        (
            'listeners: {check: {address: "a:99999"}}',
            'listeners.check.address: expected "host:port", "[::1]:port" or "unix:/path", got "a:99999"',
        ),
        (
            'listeners: {check: {address: "unix:x"}}',
            'listeners.check.address: expected an absolute path after "unix:", such as '
            '"unix:/run/mixer/check.sock", got "unix:x"',
        ),
        (
            'listeners: {admin: {address: "unix:/x"}}',
            'listeners.admin.address: expected "host:port": Prometheus and probes come over TCP, got "unix:/x"',
        ),
        (
            "listeners: {check: {server: rust}}",
            'listeners.check.server: expected asyncio or grpcio, got "rust"',
        ),
        ("listeners: 5", "listeners: expected a mapping, got 5"),
        ("workers: {check: 0}", "workers.check: expected a number above 0, got 0"),
        ("workers: {check: many}", 'workers.check: expected a whole number, got "many"'),
        ("logging: {level: loud}", 'logging.level: expected debug, info, warning or error, got "loud"'),
        (
            "drain_timeout: 10",
            'drain_timeout: expected a duration such as "500ms", "10s", "5m" or "1h", got 10',
        ),
        ("policy: {paths: a}", 'policy.paths: expected a list, got "a"'),
        ("policy: {paths: [5]}", "policy.paths[0]: expected a path, got 5"),
        (
            "policy: {paths: [a], decision: allow}",
            'policy.decision: expected a rule\'s path such as "envoy/authz/allow", got "allow"',
        ),
        (
            "policy: {paths: [a], decisions: {x: allow}}",
            'policy.decisions.x: expected a rule\'s path such as "envoy/authz/allow", got "allow"',
        ),
        (
            "policy: {paths: [a], decisions: {a b: x/y}}",
            "policy.decisions.a b: expected a name of up to 64 letters, digits, dots, dashes and underscores, "
            'got "a b"',
        ),
        ("policy: {paths: [a], decisions: [x/y]}", "policy.decisions: expected a mapping, got a list"),
        (
            "policy: {paths: [a], shadow: {paths: [b], sample: 1.5}}",
            "policy.shadow.sample: expected at most 1, got 1.5",
        ),
        (
            "policy: {paths: [a], shadow: {paths: [b], sample: 0}}",
            "policy.shadow.sample: expected a number above 0, got 0",
        ),
        (
            "policy: {paths: [a], shadow: {decison: a/b}}",
            'policy.shadow.decison: unknown key; did you mean "decision"?',
        ),
        (
            "policy: {paths: [a], shadow: {decision: allow}}",
            'policy.shadow.decision: expected a rule\'s path such as "envoy/authz/allow", got "allow"',
        ),
        ("policy: {paths: [a], engine: wasm}", 'policy.engine: expected embedded or opa, got "wasm"'),
        (
            "policy: {paths: [a], opa: {url: localhost}}",
            'policy.opa.url: expected "http://host:port", "https://host:port" or "unix:/path", got "localhost"',
        ),
        (
            "policy: {paths: [a], cache: {ttl: 0s}}",
            'policy.cache.ttl: expected a number above 0, got "0s"',
        ),
        (
            "policy: {paths: [a], keys: [{key: x}]}",
            "policy.keys[0].id: expected a value (this key is required), got nothing",
        ),
        (
            "policy: {paths: [a], keys: [{id: a, algorithm: none}]}",
            "policy.keys[0].algorithm: expected RS256, RS384, RS512, PS256, PS384, PS512, ES256, ES384, ES512, "
            'HS256, HS384 or HS512, got "none"',
        ),
        ("policy: {paths: [a], keys: [{id: a}]}", "policy.keys[0]: give either key or file"),
        ("policy: {paths: [a], keys: [{id: a, key: b, file: c}]}", "policy.keys[0]: give either key or file"),
        (
            "policy: {paths: [a], keys: [{id: a, file: b}, {id: a, file: c}]}",
            'policy.keys[1].id: "a" is taken; give each key its own',
        ),
        (
            "policy: {engine: opa, keys: [{id: a, file: b}]}",
            "policy.keys: the OPA server verifies its bundles itself; set policy.opa.push: true, or use "
            "engine: embedded",
        ),
        (
            'policy: {bundles: [{name: a, url: "ftp://x/y"}]}',
            'policy.bundles[0].url: expected "https://host/path" or "http://host:port/path", secrets in `token`, '
            'got "ftp://x/y"',
        ),
        (
            'policy: {bundles: [{name: a, url: "https://me:sesame@x/y"}]}',
            'policy.bundles[0].url: expected "https://host/path" or "http://host:port/path", secrets in `token`, '
            "got a value that is kept secret",
        ),
        (
            'policy: {bundles: [{name: a, url: "http://x/y"}, {name: a, url: "http://x/z"}]}',
            'policy.bundles[1].name: "a" is taken; give each its own',
        ),
        (
            'policy: {bundles: [{name: a, url: "http://x/y", poll: 0s}]}',
            'policy.bundles[0].poll: expected a number above 0, got "0s"',
        ),
        (
            'policy: {bundles: [{name: a, url: "http://x/y", pol: 1s}]}',
            'policy.bundles[0].pol: unknown key; did you mean "poll"?',
        ),
        (
            'policy: {bundles: [{name: a, url: "http://x/y", signing: {scope: b}}]}',
            "policy.bundles[0].signing: needs the keys; give them in policy.keys",
        ),
        (
            'policy: {keys: [{id: k, file: f}], bundles: [{name: a, url: "http://x/y", signing: {key_id: b}}]}',
            'policy.bundles[0].signing.key_id: expected one of k, got "b"',
        ),
        (
            'policy: {bundles: [{name: a, url: "https://x/y", token: t, token_file: f}]}',
            "policy.bundles[0].token_file: give either token or token_file",
        ),
        (
            'policy: {bundles: [{name: a, url: "http://x/y", tls: {ca: f}}]}',
            "policy.bundles[0].tls: has no meaning for http; use https in url",
        ),
        (
            'policy: {bundles: [{name: a, url: "https://x/y", tls: {key: f}}]}',
            "policy.bundles[0].tls: cert and key belong together; give both or none",
        ),
        (
            'policy: {bundles: [{name: a, url: "http://x/y"}], shadow: {decision: a/b}}',
            "policy.shadow.paths: with policy.bundles, the candidate needs paths or bundles of its own",
        ),
        (
            'policy: {engine: opa, bundles: [{name: a, url: "http://x/y"}]}',
            "policy.bundles: the OPA server polls bundles itself, and takes a new one at once: name them in its own "
            "settings; or use engine: embedded",
        ),
        (
            "policy: {paths: [a], opa: {push: true}}",
            "policy.opa.push: pushes to an OPA server that decides; set engine: opa, or leave it out",
        ),
        (
            "policy: {engine: opa, opa: {push: true}}",
            "policy.opa.push: there is nothing to push; name policies in policy.paths",
        ),
        (
            'policy: {paths: [a], opa: {url: "${OPA}"}}',
            'policy.opa.url: environment variable OPA is not set; set it, or give a default: "${OPA:-…}"',
        ),
        (
            "rate_limits: {paths: [a], shadow_mode: maybe}",
            'rate_limits.shadow_mode: expected true or false, got "maybe"',
        ),
        (
            "rate_limits: {paths: [a], key_format: istio}",
            'rate_limits.key_format: expected mixer or ratelimit, got "istio"',
        ),
        (
            "rate_limits: {paths: [a], local_cache: {max_age: 1}}",
            'rate_limits.local_cache.max_age: expected a duration such as "500ms", "10s", "5m" or "1h", got 1',
        ),
        (
            "rate_limits: {paths: [a], on_error: pass}",
            'rate_limits.on_error: expected error, allow, deny or local, got "pass"',
        ),
        (
            "rate_limits: {paths: [a], redis: {mode: clustre}}",
            'rate_limits.redis.mode: expected single, sentinel or cluster, got "clustre"',
        ),
        (
            "rate_limits: {paths: [a], redis: {key_prefix: 'a{}:'}}",
            'rate_limits.redis.key_prefix: expected text without {}, got "a{}:"',
        ),
        (
            "rate_limits: {paths: [a], redis: {mode: cluster, nodes: [localhost]}}",
            'rate_limits.redis.nodes[0]: expected "host:port", "[::1]:port" or "unix:/path", got "localhost"',
        ),
        (
            "rate_limits: {paths: [a], redis: {mode: sentinel, sentinel: {master: m, urls: ['http://:s3same@h']}}}",
            'rate_limits.redis.sentinel.urls[0]: expected "redis://host:port/db", "rediss://…" or "unix:///path", '
            "got a value that is kept secret",
        ),
        (
            "rate_limits: {paths: [a], counters: disk}",
            'rate_limits.counters: expected memory or redis, got "disk"',
        ),
        (
            "rate_limits: {paths: [a], response_headers: {limit: 'a b'}}",
            'rate_limits.response_headers.limit: expected an HTTP header name, got "a b"',
        ),
        (
            "telemetry: {sinks: [{type: kafak}]}",
            'telemetry.sinks[0].type: expected kafka or file or python, got "kafak"',
        ),
        (
            "telemetry: {mask: a/b}",
            "telemetry.mask: needs policy.paths: the rule is one of theirs, and the embedded "
            "engine evaluates it",
        ),
        (
            "telemetry: {max_stream_age: 5}",
            'telemetry.max_stream_age: expected a duration such as "500ms", "10s", "5m" or "1h", got 5',
        ),
        (
            'listeners: {otlp_http: {address: "127.0.0.1:9901"}}',
            "listeners.admin.address: 127.0.0.1:9901 is taken by listeners.otlp_http.address; give each its own",
        ),
        (
            "telemetry: {sinks: [{path: x}]}",
            "telemetry.sinks[0].type: expected kafka or file or python, got nothing",
        ),
        (
            "telemetry: {sinks: [{type: file}, {type: kafka}]}",
            "telemetry.sinks[1].bootstrap_servers: expected a value (this key is required), got nothing",
        ),
        (
            "telemetry: {sinks: [{type: kafka, bootstrap_servers: []}]}",
            "telemetry.sinks[0].bootstrap_servers: expected at least 1 entry, got a list",
        ),
        (
            "telemetry: {sinks: [{type: kafka, bootstrap_servers: [a], topic: 'a b'}]}",
            'telemetry.sinks[0].topic: expected text that matches ^[A-Za-z0-9._-]{1,249}$, got "a b"',
        ),
        (
            "telemetry: {sinks: [{type: kafka, bootstrap_servers: [a], buffer: {when_full: drop}}]}",
            'telemetry.sinks[0].buffer.when_full: expected block or drop_newest, got "drop"',
        ),
        (
            "telemetry: {sinks: [{type: kafka, bootstrap_servers: [a], "
            "sasl: {mechanism: GSSAPI, username: u, password: p}}]}",
            'telemetry.sinks[0].sasl.mechanism: expected PLAIN, SCRAM-SHA-256 or SCRAM-SHA-512, got "GSSAPI"',
        ),
        (
            "telemetry: {sinks: [{type: file, pth: x}]}",
            'telemetry.sinks[0].pth: unknown key; did you mean "path"?',
        ),
        (
            "policy: {paths: [a]}\ndecision_log: {}",
            "decision_log.sinks: expected a value (this key is required), got nothing",
        ),
        (
            "policy: {paths: [a]}\ndecision_log: {sinks: [{type: kafka, bootstrap_servers: [a], format: protobuf}]}",
            'decision_log.sinks[0].format: expected json, got "protobuf"',
        ),
        (
            "policy: {paths: [a]}\ndecision_log: {sinks: [{type: file}], sample: {allowed: 10}}",
            "decision_log.sample.allowed: expected at most 1, got 10",
        ),
        (
            "policy: {paths: [a]}\ndecision_log: {sinks: [{type: file}], sample: {denied: some}}",
            'decision_log.sample.denied: expected a number, got "some"',
        ),
        (
            "policy: {paths: [a]}\ndecision_log: {sinks: [{type: file}], labels: [a]}",
            "decision_log.labels: expected a mapping, got a list",
        ),
        (
            "policy: {paths: [a]}\ndecision_log: {sinks: [{type: file, pth: x}]}",
            'decision_log.sinks[0].pth: unknown key; did you mean "path"?',
        ),
        (
            "policy: {paths: [a]}\ndecision_log: {sinks: [{type: file}], secret_headers: [a b]}",
            'decision_log.secret_headers[0]: expected an HTTP header name, got "a b"',
        ),
        (
            "listeners: {check: {tls: {cert: a, key: b, client_ca: c, spiffe: {allow: [spiffe://A/b]}}}}",
            'listeners.check.tls.spiffe.allow[0]: expected a SPIFFE ID such as "spiffe://example.org/envoy", or with '
            '"/*" all below one, got "spiffe://A/b"',
        ),
        (
            "listeners: {admin: {tls: {cert: a, key: b, min_version: 1.1}}}",
            "listeners.admin.tls.min_version: expected 1.2 or 1.3, got 1.1",
        ),
    ],
)
def test_mistake_says_where_what_was_expected_and_what_was_got(
    tmp_path: Path, text: str, mistake: str
) -> None:
    assert mistakes(tmp_path, text) == [mistake]


@pytest.mark.parametrize(
    ("text", "mistake"),
    [
        (
            "rate_limits: {paths: [a], key_format: ratelimit}",
            "rate_limits.key_format: ratelimit is a format of Redis keys; use counters: redis",
        ),
        (
            "workers: {check: 4}\nrate_limits: {paths: [a]}",
            "rate_limits.counters: memory with 4 check workers would admit 4 times the limit; "
            "use redis, or workers.check: 1",
        ),
        (
            'workers: {report: 2}\nlisteners: {report: {addresses: ["127.0.0.1:1"]}}',
            "listeners.report.addresses: expected one for each worker of workers.report, which are 2, got 1",
        ),
        (
            'listeners: {report: {address: "127.0.0.1:1", addresses: ["127.0.0.1:1"]}}',
            "listeners.report.addresses: give either address or addresses",
        ),
        (
            'workers: {check: 2}\nlisteners: {check: {address: "unix:/run/check.sock"}}',
            "listeners.check.address: a Unix socket has one worker behind it; give 2 in listeners.check.addresses, "
            "or use TCP",
        ),
        (
            "workers: {report: 2}\ntelemetry: {sinks: [{type: kafka, bootstrap_servers: [a], "
            "buffer: {type: disk, path: a.db}}]}",
            "telemetry.sinks[0].buffer.path: belongs to one process, and workers.report is 2; name it by worker, "
            "a-{worker}.db",
        ),
        (
            'listeners: {report: {address: "127.0.0.1:9191"}}',
            "listeners.report.address: 127.0.0.1:9191 is taken by listeners.check.address; give each its own",
        ),
        (
            "listeners: {check: {tls: {cert: a, key: b, spiffe: {allow: [spiffe://a/b]}}}}",
            "listeners.check.tls.spiffe: needs client_ca, whose certificates name the clients",
        ),
        (
            "policy: {paths: [a], proto_descriptor: b, skip_request_body_parse: true}",
            "policy.proto_descriptor: no body is parsed with skip_request_body_parse: true; leave one out",
        ),
        (
            "policy: {}",
            "policy.paths: the embedded engine needs at least one .rego file or folder; or use engine: opa",
        ),
        (
            "policy: {paths: [a]}\ndecision_log: {sinks: []}",
            "decision_log.sinks: at least one sink is needed; leave decision_log out to switch it off",
        ),
        (
            "telemetry: {sinks: [{type: kafka, bootstrap_servers: [a], buffer: {type: disk}}]}",
            "telemetry.sinks[0].buffer.path: expected a file, got nothing",
        ),
        (
            "telemetry: {sinks: [{type: kafka, bootstrap_servers: [a], buffer: {path: b}}]}",
            'telemetry.sinks[0].buffer.path: expected nothing with type: memory; or set type: disk, got "b"',
        ),
        (
            "telemetry: {sinks: [{type: file, path: b}, {type: kafka, bootstrap_servers: [a], "
            "dead_letters: {path: b}}]}",
            "telemetry.sinks[1].dead_letters.path: b is taken by telemetry.sinks[0].path; give each its own",
        ),
        (
            "telemetry: {sinks: [{type: kafka, bootstrap_servers: [a], tls: {cert: b}}]}",
            "telemetry.sinks[0].tls: cert and key belong together; give both or none",
        ),
        (
            "decision_log: {sinks: [{type: file}]}",
            "decision_log: there are no decisions to log without the section policy",
        ),
        (
            "policy: {paths: [a], shadow: {}}",
            "policy.shadow: names neither paths nor a decision of its own; there is nothing to compare",
        ),
        (
            'policy: {bundles: [{name: a, url: "http://x/y"}], shadow: {bundles: [{name: a, url: "http://x/z"}]}}',
            'policy.shadow.bundles[0].name: "a" is taken; give each its own',
        ),
        (
            'policy: {paths: [a], shadow: {bundles: [{name: a, url: "http://x/z", tls: {ca: f}}]}}',
            "policy.shadow.bundles[0].tls: has no meaning for http; use https in url",
        ),
        (
            "policy: {paths: [a], decisions: {x: p/x}, shadow: {decisions: {x: p/x}}}",
            "policy.shadow: names neither paths nor a decision of its own; there is nothing to compare",
        ),
        (
            "policy: {paths: [a], decisions: {x: p/x}, shadow: {paths: [b], decisions: {y: p/y}}}",
            "policy.shadow.decisions.y: a name in policy.decisions: x",
        ),
        (
            "policy: {paths: [a], decisions: {x: p/x, y: p/x}, shadow: {paths: [b], decisions: {x: p/y, y: p/z}}}",
            "policy.shadow.decisions.y: p/x is policy.decisions.x too, and a decision is compared with one candidate; "
            "leave one out",
        ),
        (
            "policy: {paths: [a], decision: p/x, decisions: {x: p/x}, shadow: {paths: [b], decisions: {x: p/y}}}",
            "policy.shadow.decisions.x: p/x is policy.decision too, and a decision is compared with one candidate; "
            "leave one out",
        ),
        (
            "policy: {engine: opa, shadow: {decision: a/b}}",
            "policy.shadow.paths: the embedded engine evaluates the candidate, also with engine: opa; "
            "it needs at least one .rego file or folder",
        ),
        (
            "rate_limits: {paths: [a], redis: {mode: sentinel}}",
            "rate_limits.redis.sentinel: mode: sentinel and a section with master and urls go together",
        ),
        (
            "rate_limits: {paths: [a], redis: {sentinel: {master: m, urls: ['redis://h']}}}",
            "rate_limits.redis.sentinel: mode: sentinel and a section with master and urls go together",
        ),
        (
            "rate_limits: {paths: [a], redis: {mode: sentinel, sentinel: {master: m, urls: []}}}",
            "rate_limits.redis.sentinel.urls: at least one is needed",
        ),
        (
            "rate_limits: {paths: [a], redis: {nodes: ['h:1']}}",
            "rate_limits.redis.nodes: has a meaning with mode: cluster alone",
        ),
        (
            "rate_limits: {paths: [a], on_error: local}",
            "rate_limits.on_error: local needs rate_limits.instances, the number of Mixer processes that share the "
            "counters",
        ),
        (
            "rate_limits: {}",
            "rate_limits.paths: at least one limits file or folder is needed, or a decision; "
            "leave rate_limits out to switch Quota off",
        ),
        (
            "rate_limits: {decision: mixer/ratelimit/limits}",
            "rate_limits.decision: needs the section policy, whose engine evaluates it",
        ),
    ],
)
def test_dangerous_combination_is_refused_with_the_way_out(tmp_path: Path, text: str, mistake: str) -> None:
    assert mistake in mistakes(tmp_path, text)


def test_several_mistakes_are_named_at_once(tmp_path: Path) -> None:
    found = mistakes(
        tmp_path, "workers: {check: 0}\npolicy: {engine: x}\ntelemetry: {sinks: [{type: y}]}\nz: 1"
    )
    assert [line.split(":")[0] for line in found] == [
        "workers.check",
        "policy.engine",
        "telemetry.sinks[0].type",
        "z",
    ]


def test_secret_of_a_wrong_url_is_not_shown(tmp_path: Path) -> None:
    text = 'rate_limits: {paths: [a], redis: {url: "${URL}"}}'
    found = mistakes(tmp_path, text, URL="reddis://user:hunter2@redis:6379")
    assert "hunter2" not in "\n".join(found)
    assert found[0].startswith("rate_limits.redis.url: expected ")


def test_secret_is_not_shown_where_it_stands_in_the_file_itself(tmp_path: Path) -> None:
    found = mistakes(tmp_path, "rate_limits: {paths: [a], redis: {url: 'http://u:hunter2@redis'}}")
    assert "hunter2" not in "\n".join(found)


def test_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="cannot be read: No such file or directory"):
        config.load(tmp_path / "mixer.yaml")


def test_file_that_is_not_text(tmp_path: Path) -> None:
    (tmp_path / "mixer.yaml").write_bytes(b"a: \xff")
    with pytest.raises(SettingsError, match="is not UTF-8 at byte 3"):
        config.load(tmp_path / "mixer.yaml")


def test_example_for_production_is_valid() -> None:
    settings = config.load(Path(__file__).parents[1] / "deploy" / "mixer.yaml", {})
    assert settings.rate_limits is not None
    assert settings.rate_limits.counters == "redis"
