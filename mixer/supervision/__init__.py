"""Workers: processes by role, kept running and exchanged by a supervisor."""

from typing import Literal

from mixer import config

WorkerRole = Literal["check", "report"]


def counts(workers: config.Workers, role: str) -> dict[WorkerRole, int]:
    """How many there are of each role that is served."""
    found: dict[WorkerRole, int] = {}
    if role in ("all", "check"):
        found["check"] = workers.check
    if role in ("all", "report"):
        found["report"] = workers.report
    return found


def needed(workers: config.Workers, role: str) -> bool:
    """Whether there is a supervisor; else one process serves all of it, which takes the least memory."""
    return workers.supervised or max(counts(workers, role).values()) > 1


FAMILIES = "/families"  # page of a worker, on which it tells its metrics to the supervisor
