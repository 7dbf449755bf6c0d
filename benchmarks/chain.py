"""Load of clients that make several unary calls one after the other for each request, as Envoy's filters do.

`python -m benchmarks.chain ADDRESS REQUESTS CLIENTS METHOD FILE [METHOD FILE …]` runs as a process of its own, pinned
by the caller. A file has messages with their length before each; they are sent in turn.
"""

import select
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from benchmarks.harness import LOAD_CPU, BenchmarkError, call
from benchmarks.load import Connection

Step = tuple[str, Sequence[bytes]]  # a method, and what is sent to it


def drive(address: str, steps: Sequence[Step], requests: int, clients: int) -> float:
    """Requests a second of so many clients. Raises BenchmarkError for an answer without a message."""
    connections = [Connection(address, method) for method, _ in steps]
    places = {connection.socket: place for place, connection in enumerate(connections)}
    begun = done = 0
    start = time.perf_counter()

    def send(place: int, count: int) -> None:
        connection, messages = connections[place], steps[place][1]
        first = connection.sent
        connection.send(messages[number % len(messages)] for number in range(first, first + count))

    while done < requests:
        if room := min(clients - (begun - done), requests - begun):
            send(0, room)
            begun += room
        for sock in select.select(list(places), [], [])[0]:
            place = places[sock]
            ended = len(connections[place].receive())
            if place + 1 == len(steps):
                done += ended
            elif ended:
                send(place + 1, ended)
    seconds = time.perf_counter() - start
    for connection in connections:
        connection.close()
    return requests / seconds


def rate(address: str, steps: Sequence[Step], *, requests: int, clients: int) -> float:
    """`drive` in a process on the load's core, after a look at one answer of each step and a warm-up."""
    with ExitStack() as stack:
        arguments: list[str] = []
        for method, messages in steps:
            call(address, method, messages[0])
            file = stack.enter_context(tempfile.NamedTemporaryFile())
            file.write(b"".join(len(message).to_bytes(4, "big") + message for message in messages))
            file.flush()
            arguments += method, file.name
        for count in (requests // 10, requests):
            command = [
                sys.executable,
                "-m",
                "benchmarks.chain",
                address,
                str(count),
                str(clients),
                *arguments,
            ]
            run = subprocess.run(
                ("taskset", "-c", str(LOAD_CPU), *command),
                capture_output=True,
                text=True,
                timeout=300,
                check=False,
            )
            if run.returncode:
                raise BenchmarkError(run.stderr.strip().splitlines()[-1])
    return float(run.stdout)


def _messages(file: str) -> list[bytes]:
    content, at, found = Path(file).read_bytes(), 0, []
    while at < len(content):
        size = int.from_bytes(content[at : at + 4], "big")
        found.append(content[at + 4 : at + 4 + size])
        at += 4 + size
    return found


def main() -> None:
    address, requests, clients, *rest = sys.argv[1:]
    steps = [(method, _messages(file)) for method, file in zip(rest[::2], rest[1::2], strict=True)]
    print(drive(address, steps, int(requests), int(clients)))


if __name__ == "__main__":
    main()
