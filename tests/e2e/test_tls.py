"""Mutual TLS between a real Envoy and Mixer, by the example of deploy/envoy/tls.yaml."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from mixer.demo import assets
from tests.components.processes import wait_until
from tests.components.server import scratch
from tests.e2e.fleet import Fleet, fleet, proxy
from tests.server.certificates import Authority, Pair, write

ENVOY = "spiffe://example.org/ns/edge/sa/envoy"
AUTHORITY, STRANGER = Authority(), Authority()


@dataclass(frozen=True, slots=True)
class Shown:
    """An edit of Envoy's configuration: it shows this certificate, and trusts this authority."""

    folder: Path
    own: Pair
    trusted: Authority = AUTHORITY

    def __call__(self, document: dict[str, Any]) -> None:
        example = yaml.safe_load((assets.envoy_configuration().parent / "tls.yaml").read_text("utf-8"))
        common = example["transport_socket"]["typed_config"]["common_tls_context"]
        files = write(self.folder, self.own)
        (self.folder / "ca.pem").write_bytes(self.trusted.cert)
        (certificate,) = common["tls_certificates"]
        certificate["certificate_chain"]["filename"] = files["cert"]
        certificate["private_key"]["filename"] = files["key"]
        certificate["watched_directory"]["path"] = str(self.folder)
        common["validation_context"]["trusted_ca"]["filename"] = str(self.folder / "ca.pem")
        for cluster in document["static_resources"]["clusters"]:
            if cluster["name"].startswith("mixer-"):
                cluster.update(example)


@pytest.fixture(scope="module", params=["asyncio", "grpcio"])
def secured(request: pytest.FixtureRequest) -> Iterator[Fleet]:
    """A fleet whose Envoy shows the certificate that Mixer asks for."""
    with scratch("mixer-tls") as folder, scratch("envoy-tls") as other:
        (folder / "ca.pem").write_bytes(AUTHORITY.cert)
        tls = {
            **write(folder, AUTHORITY.issue("mixer")),
            "client_ca": folder / "ca.pem",
            "spiffe": {"allow": ["spiffe://example.org/ns/edge/*"]},
            "min_version": "1.3",
        }
        listeners = {
            "check": {"address": "127.0.0.1:0", "server": request.param, "tls": tls},
            "report": {"address": "127.0.0.1:0", "tls": tls},
        }
        edits = (Shown(other, AUTHORITY.issue("envoy", ENVOY)),)
        with fleet(edits=edits, listeners=listeners) as running:
            yield running


def handshakes(running: Fleet, listener: str, outcome: str) -> float:
    series = running.series()
    return series.total("mixer_tls_handshakes_total", listener=listener, outcome=outcome)


def test_requests_are_decided_limited_and_reported_over_mutual_tls(secured: Fleet) -> None:
    answer = secured.call("GET", "/api/orders", secured.user())
    assert answer.status == 200
    record = secured.record(answer.request_id)
    assert record["mixer.decision.reason"] == "ok"
    assert secured.call("GET", "/api/orders").status == 401
    assert handshakes(secured, "check", "ok") >= 1
    assert handshakes(secured, "report", "ok") >= 1


WRONG = {
    "ended": (AUTHORITY.issue("envoy", ENVOY, hours=0), "certificate"),
    "of another authority": (STRANGER.issue("envoy", ENVOY), "certificate"),
    "of another SPIFFE ID": (AUTHORITY.issue("envoy", "spiffe://example.org/ns/other/sa/envoy"), "identity"),
    "of no SPIFFE ID": (AUTHORITY.issue("envoy"), "identity"),
}


@pytest.mark.parametrize("which", WRONG)
def test_envoy_with_a_certificate_that_is(secured: Fleet, which: str) -> None:
    """…kept out: it gets no decision, and lets nobody in; the reports that it keeps trying to send are refused."""
    own, outcome = WRONG[which]
    before = handshakes(secured, "check", outcome)
    with scratch("envoy-tls") as folder:
        edits = (Shown(folder, own),)
        with proxy(secured.issuer, secured.mixer.check, secured.mixer.report, *edits) as other:
            assert other.call("GET", "/api/orders", "user-0").status == 503
    assert handshakes(secured, "check", outcome) > before


def test_envoy_that_trusts_another_authority_calls_nobody(secured: Fleet) -> None:
    with scratch("envoy-tls") as folder:
        edits = (Shown(folder, AUTHORITY.issue("envoy", ENVOY), STRANGER),)
        with proxy(secured.issuer, secured.mixer.check, secured.mixer.report, *edits) as other:
            assert other.call("GET", "/api/orders", "user-0").status == 503
            wait_until(
                lambda: other.stat("cluster.mixer-check.ssl.fail_verify_error") > 0,
                within=10,
                what="a refusal",
            )
