"""What TCP clients see."""

from tests.components.processes import wait_until
from tests.e2e.fleet import Fleet


def test_connection_from_an_allowed_network_reaches_the_upstream(any_fleet: Fleet) -> None:
    assert any_fleet.connect("127.0.0.1")[0] == b"ping"


def test_connection_from_elsewhere_is_closed_before_the_upstream_hears_of_it(any_fleet: Fleet) -> None:
    before = any_fleet.stat("cluster.upstream-tcp.upstream_cx_total")
    denied = any_fleet.stat("ext_authz.mixer.denied")
    assert any_fleet.connect("127.0.0.2")[0] == b""
    wait_until(lambda: any_fleet.stat("ext_authz.mixer.denied") > denied)
    assert any_fleet.stat("cluster.upstream-tcp.upstream_cx_total") == before
