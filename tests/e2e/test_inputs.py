"""What a policy sees of a request, by the settings of a real Envoy's filter. Here the policy answers with its input."""

import contextlib
import copy
import http.client
import json
import socket
import ssl
from base64 import b64decode
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest

from tests.authz import test_messages as shop
from tests.components.processes import wait_until
from tests.e2e.fleet import Fleet, filter_configs
from tests.e2e.test_response_details import told
from tests.server.certificates import Authority, Pair, write

POLICY = """package envoy.authz

allow := {"allowed": false, "body": input} if input.attributes.request.http

allow := input.attributes.tlsSession.sni == "open.example" if not input.attributes.request.http
"""

TYPES = "type.googleapis.com/envoy.extensions"
PRINCIPAL = "spiffe://mesh.example/ns/shop/sa/web"
MOST = 64  # bytes of a body that the filter sends along


class Place:
    """The fleet with the listeners of these tests: its decision log, and the certificates."""

    def __init__(self, running: Fleet, log: Path, authority: Authority, client: Path) -> None:
        self.running = running
        self._log = log
        self._authority = authority
        self._client = client

    def input(self, listener: str, method: str = "GET", path: str = "/", **sent: Any) -> Any:
        """The input document of a request: its headers as pairs, so that names may come twice, and its body."""
        status, body = self.call(listener, method, path, **sent)
        assert status == 403, body
        return json.loads(body)

    def call(
        self,
        listener: str,
        method: str = "GET",
        path: str = "/",
        headers: Iterable[tuple[str, str | bytes]] = (),
        body: bytes | None = None,
    ) -> tuple[int, str]:
        connection = http.client.HTTPConnection(self.running.envoy.listener(listener), timeout=30)
        if listener == "https":
            connection.sock = self._tls(listener, "web.example")
        with contextlib.closing(connection):
            connection.putrequest(method, path)
            for name, value in headers:
                connection.putheader(name, value)
            if body is not None:
                connection.putheader("content-length", str(len(body)))
            connection.endheaders(body)
            answer = connection.getresponse()
            # To a caller by gRPC, Envoy sends the body of a denial as the call's message.
            if (message := answer.getheader("grpc-message")) is not None:
                return 403, unquote(message)
            return answer.status, answer.read().decode()

    @property
    def certificate(self) -> Path:
        """The client's."""
        return self._client / "cert.pem"

    def _tls(self, listener: str, server_name: str, certificate: bool = True) -> ssl.SSLSocket:
        context = ssl.create_default_context(cadata=self._authority.cert.decode())
        context.check_hostname = False
        if certificate:
            context.load_cert_chain(self.certificate, self._client / "key.pem")
        host, _, port = self.running.envoy.listener(listener).rpartition(":")
        plain = socket.create_connection((host, int(port)), 30)
        return context.wrap_socket(plain, server_hostname=server_name)

    def connect(self, server_name: str, certificate: bool = True) -> tuple[bytes, dict[str, Any]]:
        """Send "ping" over TLS to the TCP listener: what came back, and the input of the decision."""
        with self._tls("tcps", server_name, certificate) as connection:
            own = connection.getsockname()[1]
            connection.sendall(b"ping")
            try:
                answer = connection.recv(64)
            except ConnectionResetError:
                answer = b""

        def found() -> list[dict[str, Any]]:
            inputs = [json.loads(line)["input"] for line in self._log.read_text().splitlines(keepends=True)]
            return [input for input in inputs if port_of(input["attributes"]["source"]) == own]

        wait_until(lambda: bool(found()), what="the decision's event")
        [document] = found()
        return answer, document


def port_of(peer: dict[str, Any]) -> int:
    port: int = peer["address"]["socketAddress"]["portValue"]
    return port


def filters_of(listener: dict[str, Any]) -> list[dict[str, Any]]:
    filters: list[dict[str, Any]] = listener["filter_chains"][0]["filters"]
    return filters


def http_authz(listener: dict[str, Any]) -> dict[str, Any]:
    [manager] = filters_of(listener)
    chosen: dict[str, Any] = manager["typed_config"]["http_filters"][0]["typed_config"]
    return chosen


def with_tls(listener: dict[str, Any], server: dict[str, str], authority: Path) -> None:
    """A certificate is asked for, not demanded."""
    pair = {"certificate_chain": {"filename": server["cert"]}, "private_key": {"filename": server["key"]}}
    listener["filter_chains"][0]["transport_socket"] = {
        "name": "envoy.transport_sockets.tls",
        "typed_config": {
            "@type": f"{TYPES}.transport_sockets.tls.v3.DownstreamTlsContext",
            "common_tls_context": {
                "tls_certificates": [pair],
                "validation_context": {"trusted_ca": {"filename": str(authority)}},
            },
        },
    }


def with_metadata(listener: dict[str, Any]) -> None:
    """Metadata of the request, of its route, and of namespaces that Check is not to see."""
    [manager] = filters_of(listener)
    values = [
        {"metadata_namespace": "seen", "value": {"tier": "gold", "n": 3, "deep": {"on": [True, None, 1.5]}}},
        {"metadata_namespace": "unseen", "value": {"tier": "gold"}},
        {
            "metadata_namespace": "typed",
            "typed_value": {"@type": "type.googleapis.com/google.protobuf.StringValue", "value": "x"},
        },
    ]
    setter = {
        "name": "envoy.filters.http.set_metadata",
        "typed_config": {"@type": f"{TYPES}.filters.http.set_metadata.v3.Config", "metadata": values},
    }
    authz = http_authz(listener)
    authz |= {
        "metadata_context_namespaces": ["seen", "nowhere"],
        "typed_metadata_context_namespaces": ["typed"],
        "route_metadata_context_namespaces": ["of.route"],
    }
    manager["typed_config"]["http_filters"].insert(0, setter)
    [everything] = manager["typed_config"]["route_config"]["virtual_hosts"][0]["routes"]
    everything["metadata"] = {"filter_metadata": {"of.route": {"owner": "shop"}, "other": {"owner": "shop"}}}


def with_routes(listener: dict[str, Any]) -> None:
    """One route is not checked, one is asked about without its body, one says something of itself."""
    [manager] = filters_of(listener)
    routes = manager["typed_config"]["route_config"]["virtual_hosts"][0]["routes"]
    [everything] = routes
    of_routes: dict[str, dict[str, Any]] = {
        "/off": {"disabled": True},
        "/bodiless": {"check_settings": {"disable_request_body_buffering": True}},
        "/said": {"check_settings": {"context_extensions": {"tier": "gold"}}},
    }
    for prefix, settings in of_routes.items():
        own = {"@type": f"{TYPES}.filters.http.ext_authz.v3.ExtAuthzPerRoute", **settings}
        routes.insert(
            0,
            {
                "match": {"prefix": prefix},
                "route": everything["route"],
                "typed_per_filter_config": {"envoy.filters.http.ext_authz": own},
            },
        )


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """One Envoy with listeners `http` (as the operators' file), `raw`, `metadata`, `https`, `tcps`."""
    folder = tmp_path_factory.mktemp("inputs")
    authority = Authority()
    (folder / "ca.pem").write_bytes(authority.cert)
    pairs: dict[str, Pair] = {
        "server": authority.issue("server"),
        "client": authority.issue("client", PRINCIPAL),
    }
    for name, pair in pairs.items():
        (folder / name).mkdir()
        write(folder / name, pair)
    server = {"cert": str(folder / "server" / "cert.pem"), "key": str(folder / "server" / "key.pem")}

    def listeners(document: dict[str, Any]) -> None:
        for config in filter_configs(document):
            if "with_request_body" in config:
                config["with_request_body"]["max_request_bytes"] = MOST
        plain, tcp = document["static_resources"]["listeners"]
        raw, metadata, https = (
            copy.deepcopy(plain) | {"name": name} for name in ("raw", "metadata", "https")
        )
        tcps = copy.deepcopy(tcp) | {"name": "tcps"}
        http_authz(raw)["encode_raw_headers"] = True
        http_authz(raw)["with_request_body"]["pack_as_bytes"] = True
        with_metadata(metadata)
        http_authz(https)["include_tls_session"] = True
        for listener in (https, tcps):
            with_tls(listener, server, folder / "ca.pem")
        with_routes(plain)
        document["static_resources"]["listeners"] += [raw, metadata, https, tcps]

    descriptors = folder / "shop.binpb"
    descriptors.write_bytes(shop.descriptors(shop.ITEMS, shop.OLD).SerializeToString())
    log = folder / "decisions.jsonl"
    log.touch()
    with told(
        listeners,
        policy=POLICY,
        decision_log={"sinks": [{"type": "file", "path": log}]},
        proto_descriptor=str(descriptors),
    ) as running:
        yield Place(running, log, authority, folder / "client")


def headers_of(document: dict[str, Any]) -> dict[str, str]:
    found: dict[str, str] = document["attributes"]["request"]["http"]["headers"]
    return found


def test_raw_headers_are_shown_as_they_came_and_as_text(place: Place) -> None:
    sent = [("x-twice", "1"), ("x-bytes", b"a\xff\xc3\xa9"), ("x-twice", "2"), ("x-empty", "")]
    document = place.input("raw", headers=sent)
    lines = document["attributes"]["request"]["http"]["headerMap"]["headers"]
    came = [(line["key"], b64decode(line.get("rawValue", ""))) for line in lines]
    assert [value for name, value in came if name == "x-twice"] == [b"1", b"2"]
    assert dict(came)["x-bytes"] == b"a\xff\xc3\xa9"
    assert dict(came)["x-empty"] == b""
    assert all("value" not in line for line in lines)
    text = headers_of(document)
    assert (text["x-twice"], text["x-bytes"], text["x-empty"]) == ("1,2", "a\ufffdé", "")
    assert text[":path"] == "/"


def test_a_policy_on_headers_sees_the_same_whether_they_come_raw_or_not(place: Place) -> None:
    sent = [("x-twice", "1"), ("cookie", "a=1"), ("x-twice", "2"), ("cookie", "b=2"), ("x-empty", "")]
    sent = [*sent, ("content-type", "application/json")]
    plain, raw = (place.input(name, "POST", headers=sent, body=b'{"a": 1}') for name in ("http", "raw"))
    of_each_request = {"x-request-id", ":authority", "host"}
    shown = [
        {name: value for name, value in headers_of(document).items() if name not in of_each_request}
        for document in (plain, raw)
    ]
    assert shown[0] == shown[1]
    assert (plain["parsed_body"], raw["parsed_body"]) == ({"a": 1}, {"a": 1})
    http = raw["attributes"]["request"]["http"]
    assert (b64decode(http["rawBody"]), "body" in http) == (b'{"a": 1}', False)


@pytest.mark.parametrize("listener", ["http", "raw"])
def test_body_that_is_longer_than_the_filter_takes_is_truncated(place: Place, listener: str) -> None:
    body = json.dumps({"a": "x" * MOST}).encode()
    document = place.input(listener, "POST", headers=[("content-type", "application/json")], body=body)
    http = document["attributes"]["request"]["http"]
    sent = http["body"].encode() if listener == "http" else b64decode(http["rawBody"])
    assert sent == body[:MOST]
    assert (document["parsed_body"], document["truncated_body"]) == (None, True)
    assert headers_of(document)["x-envoy-auth-partial-body"] == "true"


@pytest.mark.parametrize("listener", ["http", "raw"])
def test_body_that_just_fits_is_whole(place: Place, listener: str) -> None:
    body = json.dumps("x" * (MOST - 2)).encode()
    document = place.input(listener, "POST", headers=[("content-type", "application/json")], body=body)
    assert (document["parsed_body"], document["truncated_body"]) == ("x" * (MOST - 2), False)


def test_message_of_a_grpc_call_comes_as_bytes(place: Place) -> None:
    grpc = [("content-type", "application/grpc")]
    call = "/shop.Orders/Put"
    document = place.input("raw", "POST", call, headers=grpc, body=shop.frame(b"\x18\x05"))
    assert (document["parsed_body"], document["truncated_body"]) == ({"count": 5}, False)
    document = place.input("raw", "POST", call, headers=grpc, body=shop.frame(b"\x18\x05" * MOST))
    assert (document["parsed_body"], document["truncated_body"]) == (None, True)
    document = place.input("http", "POST", call, headers=grpc, body=shop.frame(b"\x18\x05"))
    assert document["parsed_body"] is None  # without pack_as_bytes


def test_metadata_of_the_named_namespaces_is_shown(place: Place) -> None:
    attributes = place.input("metadata")["attributes"]
    assert attributes["metadataContext"]["filterMetadata"] == {
        "seen": {"tier": "gold", "n": 3, "deep": {"on": [True, None, 1.5]}}
    }
    typed = attributes["metadataContext"]["typedFilterMetadata"]["typed"]
    assert typed == {"typeUrl": "type.googleapis.com/google.protobuf.StringValue", "value": "CgF4"}
    assert attributes["routeMetadataContext"]["filterMetadata"] == {"of.route": {"owner": "shop"}}


def test_clients_certificate_is_shown_and_names_the_principal(place: Place) -> None:
    document = place.input("https")
    source = document["attributes"]["source"]
    assert (source["principal"], document["source_principal"]) == (PRINCIPAL, PRINCIPAL)
    shown = ssl.PEM_cert_to_DER_cert(unquote(source["certificate"]))
    assert shown == ssl.PEM_cert_to_DER_cert(place.certificate.read_text())
    assert document["attributes"]["tlsSession"] == {"sni": "web.example"}


def test_route_that_disables_the_filter_is_not_checked(place: Place) -> None:
    checks = place.running.series().total("mixer_calls_total", method="Check")
    assert place.call("http", path="/off")[0] == 200
    assert place.running.series().total("mixer_calls_total", method="Check") == checks


def test_routes_say_what_is_sent_along(place: Place) -> None:
    sent: dict[str, Any] = {"headers": [("content-type", "application/json")], "body": b"[1]"}
    assert place.input("http", "POST", "/", **sent)["parsed_body"] == [1]
    document = place.input("http", "POST", "/bodiless", **sent)
    assert (document["parsed_body"], document["truncated_body"]) == (None, False)
    assert place.input("http", path="/said")["attributes"]["contextExtensions"] == {"tier": "gold"}


def test_connection_over_tls_is_decided_by_its_server_name(place: Place) -> None:
    answer, document = place.connect("open.example")
    assert answer == b"ping"
    assert document["attributes"]["tlsSession"] == {"sni": "open.example"}
    assert document["source_principal"] == PRINCIPAL
    assert "certificate" in document["attributes"]["source"]
    assert "http" not in document["attributes"].get("request", {})
    assert place.connect("closed.example")[0] == b""


def test_connection_without_a_certificate_has_no_principal(place: Place) -> None:
    answer, document = place.connect("open.example", certificate=False)
    assert (answer, "source_principal" in document) == (b"ping", False)
    assert "certificate" not in document["attributes"]["source"]
