"""Check, embedded, beside a grpcio server that answers a constant.

The JWT policy verifies a token (ES256), looks its user up, and the path among the role's prefixes; the plain one reads
method, path and headers. Where inputs are distinct, each request has another path and request id, users take turns,
and the decision cache is off. Signatures are verified once a token, as in production.
"""

import json
import random
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import jwt
from cryptography.hazmat.primitives.asymmetric import ec
from envoy.service.auth.v3.external_auth_pb2 import CheckRequest

from benchmarks.harness import SERVER_CPU, Row, baseline, in_turns, resident_mib
from benchmarks.load import distinct, latencies
from tests.components import processes
from tests.components.processes import Mixer

METHOD = "/envoy.service.auth.v3.Authorization/Check"
USERS, MANY_USERS, PATHS = 1000, 100_000, 200
REQUESTS, CALLS = 20_000, 40_000
RATE = 1000  # calls a second, for latencies

JWT_POLICY = """\
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


PLAIN_POLICY = """\
package envoy.authz

import input.attributes.request.http

default allow := false

allow if {
	http.method in {"GET", "HEAD"}
	startswith(http.path, "/orders/")
	http.headers["x-tenant"] in {"blue", "green"}
}
"""


class Traffic:
    """The JWT policy's data, and serialised CheckRequests of about 600 bytes."""

    def __init__(self, users: int = USERS) -> None:
        self._chance = random.Random(11)
        key = ec.generate_private_key(ec.SECP256R1())
        # As many active users whatever their number, so that as many signatures are verified.
        names = [f"user{n * users // USERS}" for n in range(USERS)]
        self._tokens = [
            jwt.encode({"sub": name, "iss": "benchmark", "exp": 4_000_000_000}, key, "ES256")
            for name in names
        ]
        self.data = {
            "users": {f"user{n}": f"role{n % 10}" for n in range(users)},
            "permissions": {
                f"role{n}": [
                    {"methods": ["GET", "POST"], "prefix": f"/{area}/{n}/"} for area in ("orders", "reports")
                ]
                for n in range(10)
            },
            "jwks": jwt.algorithms.ECAlgorithm.to_jwk(key.public_key()),
        }

    def distinct(self) -> list[bytes]:
        """No two alike."""
        return [self._request(n, n % USERS, f"/orders/{n % 10}/{n}") for n in range(REQUESTS)]

    def skewed(self) -> list[bytes]:
        """Users by Zipf's law (exponent 1.1), and one of 200 paths."""
        weights = [rank**-1.1 for rank in range(1, USERS + 1)]
        users = self._chance.choices(range(USERS), weights, k=REQUESTS)
        return [
            self._request(n, user, f"/orders/{user % 10}/{self._chance.randrange(PATHS)}")
            for n, user in enumerate(users)
        ]

    def _request(self, number: int, user: int, path: str) -> bytes:
        request = CheckRequest()
        attributes = request.attributes
        attributes.source.address.socket_address.address = "10.0.0.1"
        attributes.source.address.socket_address.port_value = 40_000
        attributes.destination.address.socket_address.address = "10.0.0.2"
        attributes.destination.address.socket_address.port_value = 8443
        attributes.request.time.seconds = 1_790_000_000 + number
        http = attributes.request.http
        http.id, http.method, http.path = str(number), "GET", path
        http.host, http.scheme, http.protocol = "shop.example", "https", "HTTP/2"
        for name, value in {
            ":authority": "shop.example",
            ":method": "GET",
            ":path": path,
            "authorization": f"Bearer {self._tokens[user]}",
            "user-agent": "benchmark/1.0",
            "x-request-id": f"{number:032x}",
            "x-tenant": "green",
            "accept": "application/json",
        }.items():
            http.headers[name] = value
        return request.SerializeToString()


@contextmanager
def serving(policy: str, data: dict[str, object], cache: object = "off") -> Iterator[Mixer]:
    """Mixer with a policy, on the server's core."""
    with tempfile.TemporaryDirectory() as folder:
        write_policy(Path(folder), policy, data)
        settings = {
            "listeners": {name: {"address": "127.0.0.1:0"} for name in ("check", "report", "admin")},
            "policy": {"paths": [folder], "cache": cache},
        }
        with processes.mixer(settings, cpu=SERVER_CPU) as mixer:
            yield mixer


def write_policy(folder: Path, policy: str, data: dict[str, object]) -> None:
    (folder / "roles").mkdir()
    (folder / "authz.rego").write_text(policy)
    (folder / "roles" / "data.json").write_text(json.dumps(data))


def run(runs: int) -> list[Row]:
    traffic, many = Traffic(), Traffic(MANY_USERS)
    distinct_requests, skewed = traffic.distinct(), traffic.skewed()
    peer = "grpc.server, 4 threads, a constant answer"
    rows: list[Row] = []
    with baseline("benchmarks.constant") as constant:

        def compare(work: str, address: str, messages: list[bytes], at_least: float) -> None:
            ours, peers = in_turns(
                runs,
                lambda: distinct(address, METHOD, messages, calls=CALLS),
                lambda: distinct(constant, METHOD, messages, calls=CALLS // 2),
            )
            rows.append(Row(f"Check, embedded, {work}", "calls/s", ours, peer, peers, at_least=at_least))

        with serving(JWT_POLICY, traffic.data) as mixer:
            idle = resident_mib(mixer.pid)
            work = "JWT policy over 1,000 users, distinct inputs, every decision evaluated"
            compare(work, mixer.check, distinct_requests, 2.0)
            rows += _latencies(runs, mixer.check, constant, distinct_requests)
        with serving(JWT_POLICY, traffic.data, {}) as mixer:
            compare("the same over Zipf-distributed users and 200 paths, cache on", mixer.check, skewed, 4.0)
        with serving(PLAIN_POLICY, {}) as mixer:
            work = "policy on method, path and headers, distinct inputs, every decision evaluated"
            compare(work, mixer.check, distinct_requests, 2.5)
    rows += _many_users(runs, traffic, many)
    rows.append(Row("mixer serve, idle, embedded: resident memory", "MiB", (idle,), at_most=120))
    return rows


def _latencies(runs: int, ours: str, constant: str, messages: list[bytes]) -> Iterator[Row]:
    taken: dict[str, list[tuple[float, float]]] = {ours: [], constant: []}

    def take(address: str) -> float:
        taken[address].append(latencies(address, METHOD, messages, calls=5 * RATE, rate=RATE))
        return 0.0

    in_turns(runs, lambda: take(ours), lambda: take(constant))
    for number, name in enumerate(("p50", "p99")):
        figures = {address: tuple(pair[number] for pair in pairs) for address, pairs in taken.items()}
        yield Row(
            f"{name} of a check at 1,000 a second, JWT policy, every decision evaluated",
            "µs", figures[ours], "the constant", figures[constant], at_most_ratio=1.0,
        )  # fmt: skip


def _many_users(runs: int, traffic: Traffic, many: Traffic) -> Iterator[Row]:
    """What data of 100,000 users cost."""
    start = time.perf_counter()
    with serving(JWT_POLICY, traffic.data) as few:
        started = time.perf_counter() - start
        with serving(JWT_POLICY, many.data) as mixer:
            loaded = time.perf_counter() - start - started
            memory = resident_mib(mixer.pid), resident_mib(few.pid)
            ours, peers = in_turns(
                runs,
                lambda: distinct(mixer.check, METHOD, many.distinct(), calls=CALLS),
                lambda: distinct(few.check, METHOD, traffic.distinct(), calls=CALLS),
            )
    users = "Check, embedded, JWT policy over 100,000 users"
    yield Row(users, "calls/s", ours, "the same over 1,000 users", peers, at_least=1 / 1.3)
    yield Row(f"{users}: start", "ms", (loaded * 1e3,), "over 1,000 users", (started * 1e3,))
    yield Row(f"{users}: resident memory", "MiB", memory[:1], "over 1,000 users", memory[1:])
