"""Mixer's own metrics, all of them, each with what to do when it moves.

One `Metrics` belongs to one runtime and one registry; nothing is registered at import. A hot path keeps the
child (`calls.labels(...)`) rather than looking it up again.
"""

from prometheus_client import CollectorRegistry, Counter, Gauge, Info

from mixer.histogram import Histograms
from mixer.tallies import Counts, Tallies, Tally

# Seconds. A cached check takes 50 µs, Envoy's default ext_authz timeout is 200 ms, and 1 s is far too late.
CALL_BUCKETS = (
    0.00005, 0.0001, 0.0002, 0.0003, 0.0005, 0.00075, 0.001, 0.002, 0.003, 0.005,
    0.0075, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.2, 0.3, 0.5, 1.0,
)  # fmt: skip

QUOTA_OUTCOMES = ("ok", "over_limit", "shadow", "unlimited", "no_limit")
LIMIT_HITS = ("within", "near", "over", "over_local", "shadow", "given_back")
MAX_LIMITS = 1000  # with series of their own


class Metrics:
    """Every metric of Mixer itself. Istio's standard metrics of the proxied traffic are `telemetry.prometheus`'s."""

    def __init__(self, registry: CollectorRegistry) -> None:  # noqa: PLR0915 (one list)
        self.registry = registry

        # Calls answered, by gRPC method ("Check") and code ("OK"). UNAVAILABLE: look at the error counters
        # below; INVALID_ARGUMENT: the caller's filter is set up wrongly; DEADLINE_EXCEEDED: Envoy gave up first.
        self.calls = Counts(
            "mixer_calls", "Calls answered, by method and gRPC code.", ("method", "code"), registry=registry
        )
        # Time from a call's decoding to its answer. If it grows with load, add a worker; if not, look at the
        # engine's and the counters' backends.
        self.call_seconds = Histograms(
            "mixer_call_duration_seconds",
            "Time to answer a call.",
            ("method",),
            buckets=CALL_BUCKETS,
            registry=registry,
        )
        # Calls refused so that others are answered in time, by method and reason. late: more came than one loop can
        # answer within their deadlines: add a Mixer; full: listeners' overload.max_in_flight waited already, and
        # backend: OPA, Redis or an http.send is too slow for what comes: mend it, or give it more.
        self.calls_shed = Counts(
            "mixer_calls_shed",
            "Calls refused under overload, by reason.",
            ("method", "reason"),
            registry=registry,
        )
        # Calls that are read and wait for the loop. Not 0 for long: more comes than can be answered; calls wait half of
        # their time at most.
        self.calls_waiting = Gauge(
            "mixer_calls_waiting", "Calls that wait for the loop.", ("listener",), registry=registry
        )
        # Calls being answered now. Near Envoy's circuit breaker (1,024 requests): too slow or too few workers.
        self.calls_in_flight = Gauge(
            "mixer_calls_in_flight", "Calls being answered.", ("method",), registry=registry
        )

        # When a listener's certificate ends, by its file. Renew it before: the file is read again when it changes.
        self.certificate_ends = Gauge(
            "mixer_certificate_not_after_timestamp_seconds",
            "When a listener's certificate ends, in Unix time.",
            ("file",),
            registry=registry,
        )

        # Changed certificates, by their file and outcome: loaded; failed: the one of before is still in use, the log
        # says what is wrong with the new one.
        self.certificate_reloads = Counter(
            "mixer_certificate_reloads",
            "Certificates read again, by file and outcome.",
            ("file", "outcome"),
            registry=registry,
        )
        # Connections to TLS listeners by outcome. certificate: the client has none, or one that has ended or is of
        # another authority; identity: listeners' tls.spiffe keeps it out; protocol: no TLS, or too old a version;
        # closed: it went away, or took longer than 5 s. With logging.level debug the log has the reason of each.
        self.tls_handshakes = Counter(
            "mixer_tls_handshakes",
            "TLS connections, by listener and outcome.",
            ("listener", "outcome"),
            registry=registry,
        )

        # Decisions by decision (its path) and outcome (allowed, denied; over_limit: allowed, but over a limit that the
        # decision asks for; error: the policy answered with an error_response). A jump of denied: look at
        # `mixer.decision.reason` of the records; of over_limit: at `mixer.limit`.
        self.decisions = Counts(
            "mixer_decisions",
            "Decisions, by decision and outcome.",
            ("decision", "outcome"),
            registry=registry,
        )
        # What policy.dry_run let pass though the policy, or a limit of its decision, did not. At rest: dry_run can go.
        self.dry_run_passed = Counter(
            "mixer_dry_run_passed", "Requests not allowed that a dry run let pass.", registry=registry
        )
        # Decisions and limits of policies that could not be made, by reason. undefined, illegal, evaluation, timeout,
        # unavailable, overload: the log names the rule and line; Envoy's failure mode decided meanwhile. limit: it was
        # cut off (policy.max_evaluation, max_evaluation_memory): a policy that loops over what a client sends.
        # request_malformed: a path, query or body that cannot be parsed, answered 400; much of it is a client's
        # mistake, or one who tries.
        self.engine_errors = Counter(
            "mixer_engine_errors", "Failed decisions, by reason.", ("engine", "reason"), registry=registry
        )
        # Checks for a decision that `policy.decisions` has not, answered INVALID_ARGUMENT. The log names it: correct
        # `mixer_decision` in the context extensions of Envoy's route, or add the decision.
        self.unknown_decisions = Counter(
            "mixer_unknown_decisions", "Checks that name an unknown decision.", registry=registry
        )
        # Time of one evaluation by the engine, cache hits not counted.
        self.evaluation_seconds = Histograms(
            "mixer_evaluation_duration_seconds",
            "Time of one evaluation.",
            ("engine",),
            buckets=CALL_BUCKETS,
            registry=registry,
        )
        # Decision cache by outcome (hit, miss, joined: waited for an equal call's evaluation, bypass). All bypass: the
        # policy reads the clock or chance, and its decisions say no cache_ttl; few hits: it reads a field that differs
        # in every request. `mixer policy deps` shows both.
        self.cache_lookups = Counts(
            "mixer_decision_cache_lookups",
            "Decision cache lookups, by outcome.",
            ("outcome",),
            registry=registry,
        )
        # Entries now, of all decisions' caches; at a bound, and with evictions, raise policy.cache.max_entries or
        # max_bytes, which large inputs reach first.
        self.cache_entries = Gauge(
            "mixer_decision_cache_entries", "Entries in the decision caches.", registry=registry
        )
        self.cache_evictions = Counter(
            "mixer_decision_cache_evictions", "Entries evicted to make room.", registry=registry
        )

        # Decisions that are not in the decision log, by reason. sampled, policy (`system.log.drop`): as asked for.
        # drop_failed, mask_failed, failed: the log names the error; the event might have shown a secret. buffer_full:
        # more decisions than the process can log beside answering; log a smaller share of the allowed ones.
        self.decision_log_dropped = Counter(
            "mixer_decision_log_dropped", "Decisions not logged, by reason.", ("reason",), registry=registry
        )
        self.decision_log_waiting = Gauge(
            "mixer_decision_log_waiting", "Decisions whose event is not made yet.", registry=registry
        )

        # Decisions compared with the shadow policy's, by decision (its path) and outcome. would_allow, would_deny: the
        # candidate decides otherwise; the decision log shows both. error: it has no legal decision, or took longer than
        # policy.shadow.timeout. When agree alone moves, it may become the policy.
        self.shadow_decisions = Counter(
            "mixer_shadow_decisions",
            "Decisions compared with the shadow policy's, by decision and outcome.",
            ("decision", "outcome"),
            registry=registry,
        )
        # Decisions not compared, by decision and reason. sampled: as policy.shadow.sample says; overload: the candidate
        # is slower than the traffic: give the machine a core more, or lower the sample; undecided: the live policy has
        # no legal decision; unavailable: the candidate's process broke down, the log says why; shutdown.
        self.shadow_skipped = Counter(
            "mixer_shadow_skipped",
            "Decisions not compared with the shadow policy's, by decision and reason.",
            ("decision", "reason"),
            registry=registry,
        )
        # Decisions that wait to be compared; at policy.shadow.buffer.max_records, further ones are skipped.
        self.shadow_waiting = Gauge(
            "mixer_shadow_waiting", "Decisions that wait for the shadow policy.", registry=registry
        )

        # Polls of bundles, by outcome (activated, unchanged, or why not: download, archive, signature, manifest, roots,
        # content, activation, internal). Anything but the first two: the log and `/readyz` say what is wrong, and
        # the bundle before it is served.
        self.bundle_polls = Counter(
            "mixer_bundle_polls", "Polls of bundles, by outcome.", ("bundle", "outcome"), registry=registry
        )

        # Descriptors and limits of policies judged, by outcome (ok, over_limit, shadow, unlimited, no_limit). Much
        # no_limit: Envoy's descriptors and the limits file do not fit together (right where a policy has the limits).
        self.quota_descriptors = Tally(
            "mixer_quota_descriptors",
            "Descriptors judged, by outcome.",
            "outcome",
            kinds=QUOTA_OUTCOMES,
            registry=registry,
        )
        # Hits by limit (its name, or its place in the file) and what became of them: within; near: above 0.8 of the
        # limit, and still passed; over: refused; over_local: refused from this process's memory; shadow: over, and
        # passed for shadow_mode; given_back. envoyproxy/ratelimit's total_hits is the sum without the last, its
        # within_limit has near in it, its over_limit the next three. Beyond 1,000 limits (or values, with
        # detailed_metric or value_to_metric) the rest is "(other)": name fewer, or take those flags away.
        self.limit_hits = Tallies(
            "mixer_limit_hits",
            "Hits by limit and outcome.",
            ("limit", "outcome"),
            kinds=LIMIT_HITS,
            bound=MAX_LIMITS,
            registry=registry,
        )
        # Slots of concurrency limits given back by the access log, by outcome: released, as it told that their request
        # was over; dropped: ends of requests that the counters could not be told, so that slots stay taken until their
        # lease ends: look at mixer_counter_errors. None at all though slots are taken: Envoy's access log does not come
        # here, or comes without the filters' metadata.
        self.slot_releases = Counter(
            "mixer_slot_releases", "Slots given back, by outcome.", ("outcome",), registry=registry
        )
        # Counter calls that failed, by reason (unavailable, timeout, script, overload: look at Redis; full: more
        # counters than fit into memory, use Redis).
        self.counter_errors = Counter(
            "mixer_counter_errors", "Failed counter calls, by reason.", ("store", "reason"), registry=registry
        )
        # Changes of the circuit breakers, one a Redis server: open (it failed, redis_away in the log says why),
        # half_open (a probe), closed (it is back). Calls meanwhile are answered as the limits' on_error says.
        self.counter_breaker_changes = Counter(
            "mixer_counter_breaker_changes", "Circuit breakers' changes.", ("to",), registry=registry
        )
        # Open ones now. Not 0: look at that Redis; `/readyz` names it.
        self.counter_breakers_open = Gauge(
            "mixer_counter_breakers_open", "Redis servers that are not asked.", registry=registry
        )
        # Descriptors whose counter could not be had, by what their on_error made of it: error (of the call), allow,
        # deny, local (this process's share decided). When it moves, look at the errors above.
        self.counter_on_error = Counter(
            "mixer_counter_on_error",
            "Descriptors whose counter could not be had, by on_error.",
            ("on_error",),
            registry=registry,
        )
        # Calls that shared one round trip to the counters. Rises with load, which is right.
        self.counter_batch = Histograms(
            "mixer_counter_batch_size", "Calls in one round trip to the counters.", ("store",),
            buckets=(1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0), registry=registry,
        )  # fmt: skip

        # Access-log entries received, by kind (http, tcp).
        self.entries = Counter(
            "mixer_report_entries", "Access-log entries received, by kind.", ("kind",), registry=registry
        )
        # Streams open now; one per Envoy worker thread and logger.
        self.streams = Gauge("mixer_report_streams", "Access-log streams open.", registry=registry)
        # Streams by how they ended (closed, cancelled, error). Envoy may have lost entries with each not closed.
        self.streams_ended = Counter(
            "mixer_report_streams_ended", "Access-log streams ended, by how.", ("how",), registry=registry
        )
        # Records that no sink was given because telemetry.mask failed; the log says how. What they had to hide is not
        # stored in the clear: correct the rule.
        self.mask_failed = Counter(
            "mixer_report_mask_failed", "Records not stored because their mask failed.", registry=registry
        )
        # Streams ended for their age, by gRPC method: one for each in every telemetry.max_stream_age. Faster: it is too
        # short. Envoy opens another with the next entries, at any Mixer behind the same address.
        self.streams_aged = Counter(
            "mixer_streams_aged", "Streams ended for their age, by method.", ("method",), registry=registry
        )
        # Log records of OTLP Exports, by answer. rejected: malformed or too large, the log says what; look at
        # Envoy's attributes. unacknowledged: a sink was away or full; without a retry policy Envoy drops them.
        self.exported = Counter(
            "mixer_report_exported", "Log records of OTLP Exports, by answer.", ("answer",), registry=registry
        )
        # Records a sink has made durable (Kafka: acknowledged; file: written).
        self.sink_records = Counter(
            "mixer_sink_records", "Records delivered, by sink.", ("sink",), registry=registry
        )
        # Records given to a sink, and those that an earlier process left on its disk. At any moment
        # received + recovered = delivered (above) + buffered + dropped + dead letters (below).
        self.sink_received = Counter(
            "mixer_sink_received", "Records given to a sink.", ("sink",), registry=registry
        )
        self.sink_recovered = Counter(
            "mixer_sink_recovered", "Records found on disk at start, by sink.", ("sink",), registry=registry
        )
        # Records lost, by reason. buffer_full: the sink is slower than the traffic or away: raise buffer.max_records or
        # max_bytes, look at the broker, or let Envoy wait (when_full: block). too_large, refused: no broker takes them;
        # give a file for dead_letters. corrupt: the disk lost them; shutdown: drain_timeout was too short.
        self.sink_dropped = Counter(
            "mixer_sink_dropped",
            "Records dropped, by sink and reason.",
            ("sink", "reason"),
            registry=registry,
        )
        # Records that no broker takes, kept in the file of dead letters, by reason (too_large: raise the topic's
        # max.message.bytes; refused: the log says why).
        self.sink_dead_letters = Counter(
            "mixer_sink_dead_letters",
            "Records put into the file of dead letters, by sink and reason.",
            ("sink", "reason"),
            registry=registry,
        )
        # Corrupt spool files that were renamed. The disk is failing, or somebody wrote to it; what was in them may be
        # read by `sqlite3 FILE .recover`.
        self.sink_spools_set_aside = Counter(
            "mixer_sink_spools_set_aside", "Corrupt spool files, by sink.", ("sink",), registry=registry
        )
        # Seconds that streams waited for a sink with when_full: block. When it rises, Envoy's own buffers fill, and it
        # drops beyond them (logs_dropped).
        self.sink_blocked_seconds = Counter(
            "mixer_sink_blocked_seconds", "Seconds waited for room, by sink.", ("sink",), registry=registry
        )
        # Records that wait for a sink, and the bound of that buffer.
        self.sink_buffered = Gauge(
            "mixer_sink_buffered", "Records waiting, by sink.", ("sink",), registry=registry
        )
        self.sink_capacity = Gauge(
            "mixer_sink_buffer_capacity", "Records a sink's buffer can hold.", ("sink",), registry=registry
        )
        # Spans that the collector of `tracing` took.
        self.spans_exported = Counter("mixer_spans_exported", "Spans exported.", registry=registry)
        # Spans lost, by reason. buffer_full: more are sampled than go out: a smaller tracing.sample, or look at the
        # collector; unavailable, rejected: by the collector, the log says why; shutdown.
        self.spans_dropped = Counter(
            "mixer_spans_dropped", "Spans dropped, by reason.", ("reason",), registry=registry
        )
        # Samples that went into a metric's overflow series; metrics with the same labels go together, and the first of
        # them is named. Raise telemetry.max_series, drop or template a label (telemetry.overrides), or set series_ttl.
        self.series_overflow = Counter(
            "mixer_series_overflow",
            "Samples counted in the overflow series, by metric.",
            ("metric",),
            registry=registry,
        )

        # What runs: version, and the first 12 hex digits of the SHA-256 over the settings file.
        self.build = Info("mixer_build", "Version of Mixer and of its parts.", registry=registry)
        self.settings = Info("mixer_settings", "Revision of the settings in use.", registry=registry)
        self.policy = Info(
            "mixer_policy", "Engine, decision and revision of the policy in use.", registry=registry
        )


class ProcessMetrics:
    """Of what reads settings again and keeps processes running: of the one process, or of the supervisor."""

    def __init__(self, registry: CollectorRegistry) -> None:
        # Reads of settings, policies, data and limits while Mixer ran, by result. failed: reload_failed in the log
        # names file, key, what was expected and what was got; all is served as before. unchanged: nothing is new.
        self.reloads = Counter("mixer_reloads", "Reloads, by result.", ("result",), registry=registry)
        # 1 while the last one failed. Correct the files; `/readyz` names the first mistake.
        self.reload_failing = Gauge(
            "mixer_reload_failing", "Whether the last reload failed.", registry=registry
        )
        # Settings in the file that need a restart to take effect; `/readyz` names them.
        self.restart_needed = Gauge(
            "mixer_restart_needed_settings", "Changed settings that need a restart.", registry=registry
        )
        for result in ("applied", "unchanged", "failed"):
            self.reloads.labels(result)


class SupervisorMetrics(ProcessMetrics):
    """Of the supervisor."""

    def __init__(self, registry: CollectorRegistry) -> None:
        super().__init__(registry)
        # Workers started again, by role and reason. exit, signal: it ended by itself, worker_ended in the log says how;
        # hang: no sign of life for workers.hang_timeout, so it was killed: is the machine overloaded, or an evaluation
        # endless? start: it could not start again, its own log line says why. rolling: as SIGUSR2 asked for.
        self.restarts = Counter(
            "mixer_worker_restarts", "Workers started again, by role and reason.", ("role", "reason"),
            registry=registry,
        )  # fmt: skip
        # Workers that serve now. Less than settings' workers: one is being started again.
        self.serving = Gauge("mixer_workers_serving", "Workers that serve.", ("role",), registry=registry)
