"""`python -m benchmarks [NAME …] [--runs N]`: run them, or all, and print ours beside the peer's.

A target that is not met is said so plainly; it is no error (exit code 0), because machines differ.
"""

import argparse
import importlib
import os
import platform
import re
import statistics
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks.harness import BenchmarkError, Row, require_two_cores
from tests.components import binaries
from tests.components.binaries import ComponentError
from tests.components.processes import StartError

PARTS = ("mixer", "grpcio", "gordon-to-regorus", "aiokafka", "redis", "protobuf", "uvloop")
NAMES = ("check", "opa", "quota", "onehop", "report", "flood", "overload")


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="|".join(NAMES), help="which to run; all without")
    parser.add_argument("--runs", type=int, default=3, help="runs of each side, in turns (default 3)")
    options = parser.parse_args(argv)
    if unknown := [name for name in options.names if name not in NAMES]:
        parser.error(f"no benchmark {', '.join(unknown)}; there are {', '.join(NAMES)}")
    if options.runs < 1:
        parser.error("--runs: expected at least 1")
    console = Console() if sys.stdout.isatty() else Console(width=140)
    rows: list[Row] = []
    try:
        require_two_cores()
        for what, value in _machine():
            console.print(f"{what + ':':<10}{value}", highlight=False, soft_wrap=True)
        for name in options.names or NAMES:
            console.print(f"running {name}, {options.runs} times each side …", highlight=False)
            rows += importlib.import_module(f"benchmarks.{name}").run(options.runs)
    except (BenchmarkError, ComponentError, StartError) as error:
        print(error, file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    console.print(_table(rows))
    for row in rows:
        if row.met is False:
            console.print(f"Target not met: {row.work}: {_target(row)}, got {_got(row)}.", highlight=False)
    return 0


def _machine() -> list[tuple[str, str]]:
    """What this runs on."""
    model = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    cores = len(os.sched_getaffinity(0))
    redis = subprocess.run([binaries.redis_server(), "--version"], capture_output=True, text=True, check=True)
    found = re.search(r"v=(\S+)", redis.stdout)
    return [
        ("CPU", f"{model[1] if model else platform.machine()}, {cores} cores"),
        ("system", f"Linux {platform.release()}, Python {platform.python_version()}"),
        ("parts", ", ".join(f"{name} {version(name)}" for name in PARTS)),
        (
            "servers",
            f"Redis {found[1] if found else '?'}, Kafka {binaries.KAFKA_VERSION}, "
            f"envoyproxy/ratelimit {binaries.RATELIMIT_VERSION}",
        ),
    ]


def _table(rows: list[Row]) -> Table:
    table = Table(
        title="Medians, with the least and the greatest of the runs in brackets", title_justify="left"
    )
    for heading in ("work", "Mixer", "peer", "ratio", "target", "met"):
        table.add_column(heading, overflow="fold")
    for row in rows:
        peer = f"{_figures(row.peers, row.unit)}\n{row.peer}" if row.peers else "-"
        ratio = f"{row.ratio:.2f}" if row.ratio is not None else "-"
        met = {True: "[green]yes[/]", False: "[red]no[/]", None: "-"}[row.met]
        table.add_row(row.work, _figures(row.ours, row.unit), peer, ratio, _target(row), met)
    return table


def _figures(figures: tuple[float, ...], unit: str) -> str:
    """Median, unit, spread."""
    median, least, greatest = statistics.median(figures), min(figures), max(figures)
    if len(figures) == 1:
        return f"{median:,.0f} {unit}"
    return f"{median:,.0f} {unit} ({least:,.0f} to {greatest:,.0f})"


def _target(row: Row) -> str:
    if row.at_least is not None:
        return f"at least {row.at_least:.3g} times the peer"
    if row.at_most_ratio is not None:
        return f"at most {row.at_most_ratio:.3g} times the peer"
    if row.at_most is not None:
        return f"at most {row.at_most:,g} {row.unit}"
    return "-"


def _got(row: Row) -> str:
    if row.at_most is None:
        return f"{row.ratio:.2f}" if row.ratio is not None else "no peer's figure"
    return f"{statistics.median(row.ours):,.1f} {row.unit}"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
