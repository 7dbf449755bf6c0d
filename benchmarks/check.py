"""Check: every decision evaluated by the embedded engine, beside a grpcio server that answers a constant.

The policy verifies a token (ES256), looks its user up among 1,000, and the path among the role's prefixes. Each
request has another path and request id, users take turns; the decision cache is off. Signatures are verified
once a token, as in production.
"""

import json
import tempfile
from pathlib import Path

import jwt
from cryptography.hazmat.primitives.asymmetric import ec
from envoy.service.auth.v3.external_auth_pb2 import CheckRequest

from benchmarks.harness import SERVER_CPU, Row, baseline, in_turns, resident_mib
from benchmarks.load import distinct
from tests.components import processes

METHOD = "/envoy.service.auth.v3.Authorization/Check"
USERS, REQUESTS, CALLS = 1000, 20_000, 40_000

POLICY = """\
package envoy.authz

import input.attributes.request.http

default allow := {"allowed": false, "http_status": 403, "dynamic_metadata": {"reason": "role_lacks_path"}}

allow := {"allowed": true, "headers": {"x-user": claims.sub}, "dynamic_metadata": {"reason": "ok"}} if {
	some permission in data.roles.permissions[data.roles.users[claims.sub]]
	http.method in permission.methods
	startswith(http.path, permission.prefix)
}

claims := payload if {
	[valid, _, payload] := io.jwt.decode_verify(
		substring(http.headers.authorization, 7, -1),
		{"cert": data.roles.jwks, "alg": "ES256", "iss": "benchmark"},
	)
	valid
}
"""


def requests() -> tuple[dict[str, object], list[bytes]]:
    """The policy's data, and serialised CheckRequests of about 600 bytes, no two alike."""
    key = ec.generate_private_key(ec.SECP256R1())
    jwk = jwt.algorithms.ECAlgorithm.to_jwk(key.public_key())
    tokens = [
        jwt.encode({"sub": f"user{n}", "iss": "benchmark", "exp": 4_000_000_000}, key, "ES256")
        for n in range(USERS)
    ]
    data = {
        "users": {f"user{n}": f"role{n % 10}" for n in range(USERS)},
        "permissions": {
            f"role{n}": [
                {"methods": ["GET", "POST"], "prefix": f"/{area}/{n}/"} for area in ("orders", "reports")
            ]
            for n in range(10)
        },
        "jwks": jwk,
    }
    messages = []
    for n in range(REQUESTS):
        request = CheckRequest()
        attributes = request.attributes
        attributes.source.address.socket_address.address = "10.0.0.1"
        attributes.source.address.socket_address.port_value = 40_000
        attributes.destination.address.socket_address.address = "10.0.0.2"
        attributes.destination.address.socket_address.port_value = 8443
        attributes.request.time.seconds = 1_790_000_000 + n
        http = attributes.request.http
        http.id, http.method, http.host, http.scheme, http.protocol = (
            str(n),
            "GET",
            "shop.example",
            "https",
            "HTTP/2",
        )
        http.path = f"/orders/{n % 10}/{n}"
        for name, value in {
            ":authority": "shop.example",
            ":method": "GET",
            ":path": http.path,
            "authorization": f"Bearer {tokens[n % USERS]}",
            "user-agent": "benchmark/1.0",
            "x-request-id": f"{n:032x}",
            "accept": "application/json",
        }.items():
            http.headers[name] = value
        messages.append(request.SerializeToString())
    return data, messages


def run(runs: int) -> list[Row]:
    data, messages = requests()
    with tempfile.TemporaryDirectory() as folder:
        roles = Path(folder) / "roles"
        roles.mkdir()
        (Path(folder) / "authz.rego").write_text(POLICY)
        (roles / "data.json").write_text(json.dumps(data))
        settings = {
            "listeners": {name: {"address": "127.0.0.1:0"} for name in ("check", "report", "admin")},
            "policy": {"paths": [folder], "cache": "off"},
        }
        with processes.mixer(settings, cpu=SERVER_CPU) as mixer, baseline("benchmarks.constant") as constant:
            idle = resident_mib(mixer.pid)
            ours, peers = in_turns(
                runs,
                lambda: distinct(mixer.check, METHOD, messages, calls=CALLS),
                lambda: distinct(constant, METHOD, messages, calls=CALLS // 2),
            )
    return [
        Row(
            "Check, embedded, JWT policy over 1,000 users, distinct inputs, every decision evaluated",
            "calls/s", ours, "grpc.server, 4 threads, a constant answer", peers, at_least=1.2,
        ),
        Row("mixer serve, idle, embedded: resident memory", "MiB", (idle,), at_most=120),
    ]  # fmt: skip
