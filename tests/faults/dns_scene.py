"""The rows of DNS, played in namespaces of their own, where this process is the resolver.

Prints what became of each, as JSON: an empty text, or the error.
"""

import json
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

from tests.components import processes
from tests.components.backends import Redis
from tests.components.resolver import Resolver, enter
from tests.components.server import running, scratch
from tests.faults import stage
from tests.faults.scene import Scene, scene
from tests.faults.table import Row, rows

OPA, REDIS = "opa.faults.test", "redis.faults.test"


class Stage:
    def __init__(self, folder: Path, resolver: Resolver, opa: processes.Opa, redis: Redis) -> None:
        self.resolver, self.opa, self.redis = resolver, opa, redis
        self.settings = stage.embedded(folder, {})
        self.settings["policy"] = {
            "engine": "opa",
            "opa": {"url": f"http://{OPA}:{opa.port}", "push": True},
            "paths": [str(folder / "policies")],
        }
        self.settings["rate_limits"] |= {
            "counters": "redis",
            "redis": {"url": f"redis://{REDIS}:{redis.port}/0"},
        }
        self.folder = folder

    def play(self, row: Row, made: Scene) -> None:
        if row.fault == "returns":
            self.move(row, made)
            return
        made.play(row, lambda: self.begin(row), self.well)

    def begin(self, row: Row) -> None:
        modes: dict[str, Callable[[], None]] = {
            "dies": self.resolver.stop,
            "hangs": lambda: setattr(self.resolver, "mode", "silent"),
            "slow": lambda: setattr(self.resolver, "delay", 0.3),
            "garbage": lambda: setattr(self.resolver, "mode", "garbage"),
        }
        modes[row.fault]()
        if "is lost" in row.how:
            self.redis.call("CLIENT KILL TYPE normal")

    def well(self) -> None:
        self.resolver.mode, self.resolver.delay = "answer", 0.0
        self.resolver.stop()
        self.resolver.start()

    def move(self, row: Row, made: Scene) -> None:
        """Redis goes, and its name leads to another."""
        made.is_as_before(30)
        other = Redis(self.folder, ("--bind", "127.0.0.2"), port=self.redis.port)
        other.address = f"127.0.0.2:{other.port}"
        with running(other):
            self.resolver.names[REDIS] = "127.0.0.2"
            self.redis.kill()
            made.is_as_before(row.back)
            assert b"mixer:" in other.call("RANDOMKEY")
        self.redis.start()
        self.resolver.names[REDIS] = "127.0.0.1"

    def absent(self, row: Row) -> None:
        self.resolver.stop()
        with processes.mixer(self.settings) as mixer, scene(mixer) as late:
            late.shows(row)
            self.well()
            late.is_as_before(row.back)


def main() -> dict[str, str]:
    found: dict[str, str] = {}

    def note(row: Row, play: Callable[[], None]) -> None:
        try:
            play()
            found[row.name] = ""
        except Exception:
            found[row.name] = traceback.format_exc()

    with scratch("dns") as folder:
        enter(folder)
        resolver = Resolver()
        resolver.names |= {OPA: "127.0.0.1", REDIS: "127.0.0.1"}
        resolver.start()
        with processes.opa() as opa, processes.redis() as redis:
            made = Stage(stage.folder_of(folder), resolver, opa, redis)
            listed = rows("DNS")
            with processes.mixer(made.settings) as mixer, scene(mixer) as running_scene:
                for row in listed:
                    if row.fault != "absent at start":
                        note(row, lambda row=row: made.play(row, running_scene))
            for row in listed:
                if row.fault == "absent at start":
                    note(row, lambda row=row: made.absent(row))
    return found


if __name__ == "__main__":
    outcome = main()
    json.dump(outcome, sys.stdout)
