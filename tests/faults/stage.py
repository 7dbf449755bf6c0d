"""The settings of a Mixer that stands on everything, and what it is told to decide and to count."""

from pathlib import Path
from typing import Any

POLICY = """package envoy.authz

default allow := false

request := input.attributes.request.http

allow if {
	request.path != "/no"
	not request.headers["x-token"]
}
"""
SECRET = "a secret of thirty-two characters"
TOKENS = f"""{POLICY}
allow if {{
	[valid, _, _] := io.jwt.decode_verify(request.headers["x-token"], {{"secret": "{SECRET}", "alg": "HS256"}})
	valid
}}
"""
LIMITS = """domain: faults
descriptors:
  - key: caller
    rate_limit: {unit: hour, requests_per_unit: 1000}
  - key: twice
    rate_limit: {unit: day, requests_per_unit: 2}
  - key: flow
    rate_limit: {window: 2s, requests_per_unit: 2, algorithm: token_bucket}
  - key: allowed
    rate_limit: {unit: hour, requests_per_unit: 1000, on_error: allow}
  - key: denied
    rate_limit: {unit: hour, requests_per_unit: 1000, on_error: deny}
  - key: local
    rate_limit: {unit: day, requests_per_unit: 4, on_error: local}
"""
LISTENERS = {name: {"address": "127.0.0.1:0"} for name in ("check", "report", "admin")}


def folder_of(folder: Path, policy: str = POLICY) -> Path:
    """With the policy and the limits."""
    (folder / "policies").mkdir(parents=True, exist_ok=True)
    (folder / "policies" / "authz.rego").write_text(policy)
    (folder / "limits.yaml").write_text(LIMITS)
    return folder


def kafka(broker: str, topic: str, **buffer: Any) -> dict[str, Any]:
    """The sink."""
    return {
        "type": "kafka",
        "bootstrap_servers": [broker],
        "topic": topic,
        "request_timeout": "2s",
        "buffer": buffer or {"type": "memory"},
    }


def settings(folder: Path, opa: str, redis: str, broker: str, topic: str) -> dict[str, Any]:
    """Times are the defaults, but for those of which a test would have to wait: `request_timeout` (30 s) and
    `export_timeout` (10 s)."""
    return {
        "listeners": LISTENERS,
        "policy": {"engine": "opa", "opa": {"url": opa, "push": True}, "paths": [str(folder / "policies")]},
        "rate_limits": {
            "paths": [str(folder / "limits.yaml")],
            "counters": "redis",
            "redis": {"url": redis},
            "instances": 2,
        },
        "telemetry": {
            "export_timeout": "600ms",
            "sinks": [kafka(broker, topic)],
        },
        "drain_timeout": "1s",
    }


def embedded(folder: Path, policy: dict[str, Any], *sinks: dict[str, Any]) -> dict[str, Any]:
    """With nothing behind it but files: this policy, counters in memory, and these sinks, or one file."""
    return {
        "listeners": LISTENERS,
        "policy": policy,
        "rate_limits": {"paths": [str(folder / "limits.yaml")], "counters": "memory", "instances": 2},
        "telemetry": {
            "export_timeout": "600ms",
            "sinks": sinks or [{"type": "file", "path": str(folder / "access.jsonl")}],
        },
        "drain_timeout": "1s",
    }
