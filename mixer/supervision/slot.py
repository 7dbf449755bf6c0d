"""A worker's place."""

import asyncio
import socket
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
    kept: dict[str, list[socket.socket]] = field(default_factory=dict)  # what it listens on, by listener
    process: Process | None = None  # that serves
    trouble: str = "is being started"  # why there is none
    backoff: Backoff = field(default_factory=Backoff)
    changing: asyncio.Lock = field(default_factory=asyncio.Lock)  # held by whoever starts a process for it

    def stop_listening(self) -> None:
        """What has connected meanwhile is told so, and comes again: to others."""
        for sockets in self.kept.values():
            for each in sockets:
                each.close()
        self.kept = {}
