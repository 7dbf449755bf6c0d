"""`python -m benchmarks.workers`: check workers beside each other, and who of them Envoy calls.

Not among the benchmarks with a peer: it takes both cores, load included. First, calls a second of one and of two check
workers, every decision evaluated, by h2load over sixteen connections. Then the share that the busiest of two workers
has when an Envoy with one worker thread calls them, as it keeps one connection an address.
"""

import http.client
import re
import shutil
import socket
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.check import METHOD, PLAIN_POLICY, Traffic, write_policy
from benchmarks.harness import BenchmarkError, call
from tests.components import processes
from tests.components.processes import Mixer, free_port

CALLS, RUNS = 60_000, 3
REQUESTS = 2_000


def settings(folder: str, workers: int, addresses: list[str]) -> dict[str, Any]:
    listeners: dict[str, Any] = {name: {"address": "127.0.0.1:0"} for name in ("check", "report", "admin")}
    if addresses:
        listeners["check"] = {"addresses": addresses}
    return {
        "listeners": listeners,
        "workers": {"check": workers},
        "policy": {"paths": [folder], "cache": "off"},
    }


def rate(address: str, message: bytes) -> float:
    """Calls a second."""
    call(address, METHOD, message)
    with tempfile.NamedTemporaryFile() as body:
        body.write(b"\0" + len(message).to_bytes(4, "big") + message)
        body.flush()
        done = subprocess.run(
            [
                *(
                    shutil.which("h2load") or "h2load",
                    "-n",
                    str(CALLS),
                    "-c",
                    "16",
                    "-m",
                    "8",
                    "-d",
                    body.name,
                ),
                *("-H", "content-type: application/grpc", "-H", "te: trailers", f"http://{address}{METHOD}"),
            ],
            capture_output=True,
            text=True,
            timeout=120,
            check=True,
        )
    if f"{CALLS} succeeded" not in done.stdout:
        raise BenchmarkError(done.stdout)
    found = re.search(r"([\d.]+) req/s", done.stdout)
    return float(found[1]) if found else 0.0


def cluster(name: str, addresses: list[str]) -> dict[str, Any]:
    endpoints = []
    for address in addresses:
        host, _, port = address.rpartition(":")
        socket_address = {"address": host, "port_value": int(port)}
        endpoints.append({"endpoint": {"address": {"socket_address": socket_address}}})
    options = {"explicit_http_config": {"http2_protocol_options": {}}}
    kind = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
    return {
        "name": name,
        "load_assignment": {"cluster_name": name, "endpoints": [{"lb_endpoints": endpoints}]},
        "typed_extension_protocol_options": {
            kind: {"@type": f"type.googleapis.com/{kind}", **options},
        },
    }


def bootstrap(addresses: list[str]) -> dict[str, Any]:
    """An Envoy that asks Mixer, and answers 200."""
    filters = "type.googleapis.com/envoy.extensions.filters"
    routes = [{"match": {"prefix": "/"}, "direct_response": {"status": 200}}]
    manager = {
        "@type": f"{filters}.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "http",
        "route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": routes}]},
        "http_filters": [
            {
                "name": "envoy.filters.http.ext_authz",
                "typed_config": {
                    "@type": f"{filters}.http.ext_authz.v3.ExtAuthz",
                    "transport_api_version": "V3",
                    "grpc_service": {"envoy_grpc": {"cluster_name": "mixer"}, "timeout": "5s"},
                },
            },
            {
                "name": "envoy.filters.http.router",
                "typed_config": {"@type": f"{filters}.http.router.v3.Router"},
            },
        ],
    }
    chain = {"filters": [{"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}]}
    listener = {
        "name": "http",
        "address": {"socket_address": {"address": "127.0.0.1", "port_value": 0}},
        "filter_chains": [chain],
    }
    return {"static_resources": {"listeners": [listener], "clusters": [cluster("mixer", addresses)]}}


def calls_by_worker(mixer: Mixer) -> list[float]:
    """From the workers' own admin sockets, since `/metrics` is the sum."""
    found = []
    for path in sorted(set(re.findall(r"(/\S+/check-\d+-\d+\.sock)", Path("/proc/net/unix").read_text()))):
        connection = http.client.HTTPConnection("worker")
        connection.sock = socket.socket(socket.AF_UNIX)
        connection.sock.connect(path)
        connection.request("GET", "/metrics")
        text = connection.getresponse().read().decode()
        calls = re.search(r'mixer_calls_total\{.*method="Check"\} (\S+)', text)
        found.append(float(calls[1]) if calls else 0.0)
        connection.close()
    return found


def share(folder: str, addresses: list[str]) -> float:
    """Of the calls of an Envoy that the busiest of two workers gets."""
    with processes.mixer(settings(folder, 2, addresses)) as mixer:
        asked = addresses or [mixer.check]
        with processes.envoy(bootstrap(asked)) as envoy:
            connection = http.client.HTTPConnection(envoy.listener("http"))
            for _ in range(REQUESTS):
                connection.request("GET", "/orders/1", headers={"x-tenant": "green"})
                connection.getresponse().read()
            calls = calls_by_worker(mixer)
    return max(calls) / sum(calls)


def main() -> None:
    traffic = Traffic()
    message = traffic.distinct()[0]
    with tempfile.TemporaryDirectory() as folder:
        write_policy(Path(folder), PLAIN_POLICY, traffic.data)
        for workers in (1, 2):
            with processes.mixer(settings(folder, workers, [])) as mixer:
                rate(mixer.check, message)
                rates = [rate(mixer.check, message) for _ in range(RUNS)]
            print(
                f"{workers} check workers: {', '.join(f'{each:,.0f}' for each in sorted(rates))} calls/s",
                flush=True,
            )
        own = [f"127.0.0.1:{free_port()}" for _ in range(2)]
        print(
            f"Envoy, one address that both share: busiest has {share(folder, []):.0%} of the calls",
            flush=True,
        )
        print(f"Envoy, an address each: busiest has {share(folder, own):.0%} of the calls", flush=True)


if __name__ == "__main__":
    main()
