"""`python -m benchmarks.breakdown`: where the processor time of one evaluated check goes, in µs.

A real server under load says what a call costs, by thread, as Linux counts it. The parts of the service, in this
process and in batches as the front makes them, say what of that is what; the rest of the loop's thread is the front's.
"""

import asyncio
import os
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import orjson
from envoy.service.auth.v3.external_auth_pb2 import CheckRequest
from prometheus_client import CollectorRegistry
from rich.console import Console
from rich.table import Table

from benchmarks.check import JWT_POLICY, METHOD, Traffic, serving, write_policy
from benchmarks.harness import SERVER_CPU, BenchmarkError, require_two_cores
from benchmarks.load import distinct
from mixer import config
from mixer.authz.input import InputBuilder
from mixer.authz.response import Answers
from mixer.authz.service import CheckService
from mixer.metrics import Metrics
from mixer.policy.regorus import EmbeddedEngine

CALLS, TURNS, TOGETHER = 20_000, 15, 16
PARTS = 960  # messages of one turn, in batches of TOGETHER


def main() -> int:
    try:
        require_two_cores()
        traffic = Traffic()
        messages = traffic.distinct()
        rows = _threads(traffic, messages)
        parts = asyncio.run(_parts(traffic, messages[:PARTS]))
    except BenchmarkError as error:
        print(error, file=sys.stderr)
        return 2
    loop = rows.pop("python")
    table = Table("part", "µs a check")
    for name, cost in parts.items():
        table.add_row(f"loop: {name}", f"{cost:.1f}")
    table.add_row("loop: the front, asyncio, the kernel", f"{loop - sum(parts.values()):.1f}")
    for name, cost in rows.items():
        table.add_row(f"thread {name}", f"{cost:.1f}")
    table.add_row("all", f"{loop + sum(rows.values()):.1f}")
    Console().print(table)
    return 0


def _threads(traffic: Traffic, messages: list[bytes]) -> dict[str, float]:
    """µs a call by thread, of a server that has a core for itself; the loop's thread is `python`."""
    with serving(JWT_POLICY, traffic.data) as mixer:
        distinct(mixer.check, METHOD, messages, calls=CALLS // 10)
        before = _spent(mixer.pid)
        distinct(mixer.check, METHOD, messages, calls=CALLS)
        after = _spent(mixer.pid)
    calls = CALLS * 1.1  # with the warm-up
    spent: dict[str, float] = {}
    for thread, (kernel_name, seconds) in after.items():
        others = "dispatch" if kernel_name == "python" else kernel_name
        name = "python" if thread == mixer.pid else others
        used = seconds - before.get(thread, ("", 0.0))[1]
        if used:
            spent[name] = spent.get(name, 0.0) + used / calls * 1e6
    return spent


def _spent(pid: int) -> dict[int, tuple[str, float]]:
    """Name and processor seconds by thread; /proc counts in ticks of 10 ms."""
    found = {}
    for task in Path(f"/proc/{pid}/task").iterdir():
        head, _, tail = (task / "stat").read_text().rpartition(")")
        user, system = map(int, tail.split()[11:13])
        found[int(task.name)] = (head.partition("(")[2], (user + system) / os.sysconf("SC_CLK_TCK"))
    return found


async def _parts(traffic: Traffic, messages: list[bytes]) -> dict[str, float]:
    """µs a check by part of the service."""
    os.sched_setaffinity(0, {SERVER_CPU})
    with tempfile.TemporaryDirectory() as folder:
        write_policy(Path(folder), JWT_POLICY, traffic.data)
        engine = EmbeddedEngine(config.Policy(paths=(Path(folder),)))
        await engine.start()
    service = CheckService(engine, None, Metrics(CollectorRegistry()))
    build, answers = InputBuilder(engine.references.paths).build, Answers(engine.decision, engine.revision)

    def read(requests: Sequence[CheckRequest]) -> list[bytes]:
        return [orjson.dumps(build(request), option=orjson.OPT_SORT_KEYS) for request in requests]

    def decide(documents: Sequence[bytes]) -> list[str]:
        return [engine.evaluate(document, None).decision for document in documents]  # type: ignore[union-attr]

    def answer(decisions: Sequence[str]) -> None:
        for decision in decisions:
            answers.of(decision, "off").with_id("0" * 36)

    def check(requests: Sequence[CheckRequest]) -> None:
        service.check_all([(request, None) for request in requests])

    def parse(lot: Sequence[bytes]) -> list[CheckRequest]:
        return [CheckRequest.FromString(message) for message in lot]

    lots = [messages[at : at + TOGETHER] for at in range(0, len(messages), TOGETHER)]
    requests = [parse(lot) for lot in lots]
    documents = [read(lot) for lot in requests]
    decisions = [decide(lot) for lot in documents]
    costs = {
        "parsing the message": _least(parse, lots),
        "building the input": _least(read, requests),
        "evaluating": _least(decide, documents),
        "making the answer": _least(answer, decisions),
    }
    whole = _least(check, requests) + costs["parsing the message"]
    return costs | {"the rest of the service: ids, counting": whole - sum(costs.values())}


def _least(work: Callable[[Any], object], lots: Sequence[Sequence[object]]) -> float:
    """µs an item, of the fastest turn."""
    times = []
    for _ in range(TURNS):
        start = time.process_time()
        for lot in lots:
            work(lot)
        times.append(time.process_time() - start)
    return min(times) / sum(map(len, lots)) * 1e6


if __name__ == "__main__":
    sys.exit(main())
