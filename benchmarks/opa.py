"""Check with engine: opa, an OPA server on the other core, beside `AsyncOpaClient` that asks it for each input.

Both ask the same server for the same decisions about the same requests, 64 at a time (one Envoy under load), and 256
(several). Mixer has the first core and
answers gRPC besides, and its load shares OPA's core; the client has the first core for itself.

OPA verifies the signature of a token each time that it sees it, which is half of its work for the JWT policy, and the
same for both sides; with its own cache of tokens (`caching.inter_query_builtin_value_cache`) it does once, as Mixer's
embedded engine does. Both are measured.

`python -m benchmarks.opa ADDRESS FILE IN_FLIGHT`: decisions a second by the client, for the inputs of a file.
"""

import asyncio
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

from envoy.service.auth.v3.external_auth_pb2 import CheckRequest
from opa_client.opa_async import AsyncOpaClient

from benchmarks.check import JWT_POLICY, METHOD, PLAIN_POLICY, Traffic, write_policy
from benchmarks.harness import LOAD_CPU, SERVER_CPU, BenchmarkError, Row, in_turns
from benchmarks.load import distinct
from mixer.authz.input import InputBuilder
from tests.components import processes

CALLS, IN_FLIGHT = 6_000, (64, 256)
TOKENS_KEPT = ("--set", "caching.inter_query_builtin_value_cache.named.io_jwt.max_num_entries=2000")
DECISION = "envoy/authz/allow"


def run(runs: int) -> list[Row]:
    traffic = Traffic()
    return [
        row
        for name, policy, options in (
            ("JWT policy over 1,000 users, OPA keeps tokens", JWT_POLICY, TOKENS_KEPT),
            ("policy on method, path and headers", PLAIN_POLICY, ()),
            ("JWT policy over 1,000 users, OPA verifies each time", JWT_POLICY, ()),
        )
        for row in _rows(runs, f"Check, engine OPA, {name}, distinct inputs", policy, traffic, options)
    ]


def _rows(runs: int, work: str, policy: str, traffic: Traffic, options: Sequence[str]) -> Iterator[Row]:
    messages = traffic.distinct()[:CALLS]
    with tempfile.TemporaryDirectory() as folder:
        write_policy(Path(folder), policy, traffic.data)
        with (
            processes.opa(*options, folder, cpu=LOAD_CPU) as server,
            tempfile.NamedTemporaryFile("w") as inputs,
        ):
            build = InputBuilder([()]).build
            json.dump([build(CheckRequest.FromString(message)) for message in messages], inputs)
            inputs.flush()
            settings = {
                "listeners": {name: {"address": "127.0.0.1:0"} for name in ("check", "report", "admin")},
                "policy": {"engine": "opa", "opa": {"url": server.url}, "decision": DECISION},
            }
            with processes.mixer(settings, cpu=SERVER_CPU) as mixer:
                for number in IN_FLIGHT:
                    ours, peers = in_turns(
                        runs,
                        partial(distinct, mixer.check, METHOD, messages, calls=CALLS, in_flight=number),
                        partial(_client, server.address, inputs.name, number),
                    )
                    peer = "AsyncOpaClient, a query each"
                    yield Row(f"{work}, {number} in flight", "calls/s", ours, peer, peers, at_least=3.0)


def _client(address: str, file: str, in_flight: int) -> float:
    arguments = ("-m", "benchmarks.opa", address, file, str(in_flight))
    command = ("taskset", "-c", str(SERVER_CPU), sys.executable, *arguments)
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    if done.returncode:
        raise BenchmarkError(done.stderr.strip().splitlines()[-1])
    return float(done.stdout)


async def _ask(address: str, inputs: list[object], in_flight: int) -> float:
    host, port = address.split(":")
    async with AsyncOpaClient(host=host, port=int(port), timeout=30) as client:
        room = asyncio.Semaphore(in_flight)

        async def one(document: object) -> None:
            async with room:
                if "result" not in await client.query_rule(document, DECISION):
                    raise BenchmarkError("OPA gave no decision")

        await asyncio.gather(*map(one, inputs[: len(inputs) // 10]))
        start = time.perf_counter()
        await asyncio.gather(*map(one, inputs))
        return len(inputs) / (time.perf_counter() - start)


if __name__ == "__main__":
    import uvloop

    documents = json.loads(Path(sys.argv[2]).read_text())
    print(uvloop.run(_ask(sys.argv[1], documents, int(sys.argv[3]))))
