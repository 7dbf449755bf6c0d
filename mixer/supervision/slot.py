"""A worker's place."""

import asyncio
from dataclasses import dataclass, field

from mixer.supervision import WorkerRole
from mixer.supervision.backoff import Backoff
from mixer.supervision.process import Process


@dataclass(eq=False)
class Slot:
    """A worker's place: its role, its number and its address outlive the process."""

    role: WorkerRole
    number: int
    address: str
    process: Process | None = None  # that serves
    trouble: str = "is being started"  # why there is none
    backoff: Backoff = field(default_factory=Backoff)
    changing: asyncio.Lock = field(default_factory=asyncio.Lock)  # held by whoever starts a process for it
