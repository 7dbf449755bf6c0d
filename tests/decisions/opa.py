"""A real OPA with its decision log on the console."""

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.components import processes
from tests.components.processes import Opa

NOT_OF_THE_EVENT = {
    "level",
    "msg",
    "time",
    "req_id",
    "requested_by",
}  # of the console, and of OPA's HTTP server


class Logging:
    """What OPA answers and logs."""

    def __init__(self, server: Opa) -> None:
        self._server = server
        self._read = 0

    def event(self, document: object, path: str = "p/allow") -> dict[str, Any] | None:
        """The event of one decision; None where OPA logs none. It logs before it answers."""
        self._server.call("POST", f"/v1/data/{path}", {"input": document})
        with self._server.log.open("rb") as file:
            file.seek(self._read)
            text = file.read()
            self._read += len(text)
        events = [json.loads(line) for line in text.splitlines() if b'"Decision Log"' in line]
        assert len(events) <= 1
        if not events:
            return None
        return {name: value for name, value in events[0].items() if name not in NOT_OF_THE_EVENT}


@contextlib.contextmanager
def logging_opa(*policies: str | Path) -> Iterator[Logging]:
    with processes.opa(*policies, "--set", "decision_logs.console=true", "--set", "labels.a=b") as server:
        yield Logging(server)
