"""`python -m tests.components`: fetch the components that tests need, and say where each one is.

First the toolchains that this needs are checked: one message names all that is missing (exit code 2).
"""

import argparse
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from tests.components import binaries, fetch, preflight
from tests.components.binaries import ComponentError

LINE_EVERY = 15.0  # seconds between two lines of a component that is under way, in a log


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.components", description=__doc__)
    parser.add_argument("--check", action="store_true", help="only check the toolchains; fetch nothing")
    options = parser.parse_args(argv)
    try:
        if found := preflight.lacks():
            print(preflight.message(found), file=sys.stderr)
            return 2
        if options.check:
            return 0
        with fetch.alone(lambda: print("waiting for another fetch of components to end", flush=True)):
            failed = [one for one in _fetch_all(_missing()) if one.error]
        for one in failed:
            again = "run the command again; what is complete stays"
            print(f"\n{one.recipe.name} could not be fetched ({again}).\n{one.error}", file=sys.stderr)
        if failed:
            return 1
        _show_table()
    except ComponentError as error:
        print(error, file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted; what is complete stays", file=sys.stderr)
        return 130
    return 0


def _missing() -> list[fetch.Recipe]:
    wanted: list[tuple[Callable[[], object], Callable[[], fetch.Recipe]]] = [
        (binaries.opa, fetch.opa),
        (binaries.kafka_classpath, fetch.kafka),
        (binaries.redis_server, fetch.redis),
        (binaries.ratelimit_peer, fetch.ratelimit_peer),
        (binaries.h2spec, fetch.h2spec),
    ]
    return [recipe() for find, recipe in wanted if preflight.absent(find)]


def _fetch_all(recipes: list[fetch.Recipe]) -> list[fetch.Fetch]:
    fetches = [fetch.Fetch(recipe) for recipe in recipes]
    for one in fetches:
        one.start()
    try:
        if fetches and sys.stdout.isatty():
            _watch_on_terminal(fetches)
        else:
            _watch_in_log(fetches)
    except BaseException:
        for one in fetches:
            one.cancel()
        raise
    return fetches


def _watch_in_log(fetches: list[fetch.Fetch]) -> None:
    """A line at the start, now and then, and at the end of each."""
    for one in fetches:
        print(f"{_title(one)}  {one.status}", flush=True)
    last, open_ones = time.monotonic(), list(fetches)
    while open_ones:
        time.sleep(0.2)
        for one in [one for one in open_ones if one.done]:
            print(f"{_title(one)}  {'failed' if one.error else 'done'} in {one.elapsed:.0f} s", flush=True)
            open_ones.remove(one)
        if time.monotonic() - last >= LINE_EVERY:
            for one in open_ones:
                print(f"{_title(one)}  {one.status}, {one.elapsed:.0f} s", flush=True)
            last = time.monotonic()


def _watch_on_terminal(fetches: list[fetch.Fetch]) -> None:
    """One line each, brought up to date in place."""
    from rich.live import Live
    from rich.text import Text

    def lines() -> Text:
        text = Text()
        for one in fetches:
            state = ("failed" if one.error else "done") if one.done else one.status
            style = ("red" if one.error else "green") if one.done else ""
            text.append(f"{_title(one)}  {one.elapsed:4.0f} s  {state}\n", style)
        return text

    with Live(lines(), refresh_per_second=4) as live:
        while not all(one.done for one in fetches):
            time.sleep(0.2)
            live.update(lines())


def _title(one: fetch.Fetch) -> str:
    return f"{one.recipe.name:<9}  {one.recipe.version.rpartition('-')[2]:<12}"


def _show_table() -> None:
    rows: list[tuple[str, Path, str]] = [
        ("Envoy", binaries.envoy(), _version(binaries.envoy(), "--version", r"/(\d+\.\d+\.\d+)/")),
        ("Redis", binaries.redis_server(), _version(binaries.redis_server(), "--version", r"v=([\d.]+)")),
        ("OPA", binaries.opa(), _version(binaries.opa(), "version", r"Version: (\S+)")),
        ("Kafka", Path(binaries.kafka_classpath()).parent, _kafka_version()),
        ("Java", binaries.java(), _version(binaries.java(), "-version", r'version "([^"]+)"')),
        ("ratelimit", binaries.ratelimit_peer(), binaries.RATELIMIT_VERSION),
        ("h2spec", binaries.h2spec(), binaries.H2SPEC_VERSION),
    ]
    width = max(len(version) for _, _, version in rows)
    print(f"{'component':<9}  {'version':<{width}}  path")
    for name, path, version in rows:
        print(f"{name:<9}  {version:<{width}}  {path}")


def _version(binary: Path, argument: str, pattern: str) -> str:
    done = subprocess.run(
        [binary, argument], capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL
    )
    match = re.search(pattern, done.stdout + done.stderr)
    return match[1] if match else "?"


def _kafka_version() -> str:
    (jar,) = Path(binaries.kafka_classpath()).parent.glob("kafka_2*.jar")
    return jar.stem.partition("-")[2]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
