"""The revision of a bundle from a server, wherever it shows: in the record of a request, the metrics, `/readyz`, the
decision log."""

import functools
import json
import threading
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tests.components.processes import wait_until
from tests.e2e.fleet import fleet
from tests.policy.bundles import tarball

POLICY = (
    'package envoy.authz\n\nallow := {"allowed": true, "headers": {"x-tier": data.tiers[data.levels.used]}}\n'
)


def bundle(revision: str) -> bytes:
    return tarball(
        {
            ".manifest": json.dumps({"revision": revision, "roots": ["envoy", "tiers", "levels"]}),
            "authz.rego": POLICY,
            "tiers/data.json": '{"one": "gold"}',
            "levels/data.yaml": "used: one\n",
        }
    )


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        """Silent."""


@pytest.fixture
def shelf(tmp_path: Path) -> Iterator[str]:
    """The URL of a server of the folder `bundles`."""
    (tmp_path / "bundles").mkdir()
    handler = functools.partial(Quiet, directory=str(tmp_path / "bundles"))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()


def test_revision_shows_in_record_metrics_readyz_and_decision_log(shelf: str, tmp_path: Path) -> None:
    file, log = tmp_path / "bundles" / "authz.tar.gz", tmp_path / "decisions.jsonl"
    file.write_bytes(bundle("v1"))
    bundles = [{"name": "authz", "url": f"{shelf}/authz.tar.gz", "poll": "50ms"}]
    with fleet(
        policy={"paths": [], "bundles": bundles}, decision_log={"sinks": [{"type": "file", "path": log}]}
    ) as running:
        for revision in ("v1", "v2"):
            replaced = tmp_path / "new.tar.gz"
            replaced.write_bytes(bundle(revision))
            replaced.rename(file)
            ready = (200, f"ready\npolicy: revision {revision}\n")
            wait_until(lambda ready=ready: running.mixer.call("/readyz") == ready, what=revision)  # type: ignore[misc]
            assert running.series().total("mixer_policy_info", revision=revision) == 1
            answer = running.call("GET", "/")
            assert answer.status == 200
            record = running.record(answer.request_id)
            assert (record["mixer.policy"], record["mixer.policy.revision"]) == (
                "envoy/authz/allow",
                revision,
            )
        wait_until(lambda: log.read_text().count("\n") == 2)
    events = [json.loads(line) for line in log.read_text().splitlines()]
    assert [event["bundles"] for event in events] == [{"authz": {"revision": name}} for name in ("v1", "v2")]
