"""Bundles of a real HTTP server, in a service that is asked meanwhile."""

import asyncio
import contextlib
import json
import ssl
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import grpc
import pytest
from aiohttp import web
from envoy.service.auth.v3.external_auth_pb2 import CheckRequest, CheckResponse
from google.protobuf.json_format import MessageToDict
from structlog.testing import capture_logs

from mixer import config
from mixer.errors import PolicyError
from mixer.runtime import Runtime
from tests.loop import on_loop
from tests.policy.bundles import signed, tarball
from tests.server.certificates import Authority, write

POLL = "50ms"


def policy(revision: str, body: str = "", roots: str = '["envoy"]') -> bytes:
    """A bundle whose decision tells the bundle's revision."""
    rego = (
        f'package envoy.authz\n\nallow := {{"allowed": true, "dynamic_metadata": {{"told": "{revision}"}}}}\n'
    )
    manifest = f'{{"revision": "{revision}", "roots": {roots}}}'
    return tarball({"authz.rego": body or rego, ".manifest": manifest})


@dataclass
class Shelf:
    """An HTTP server with one bundle at each path, and what it was asked."""

    files: dict[str, bytes] = field(default_factory=dict)
    status: int = 200
    etags: bool = True
    slow: float = 0.0  # seconds before an answer
    drips: float = 0.0  # seconds between the bytes of an answer
    location: str = ""  # where an answer sends on to
    tls: ssl.SSLContext | None = None
    asked: list[tuple[str, dict[str, str], int]] = field(default_factory=list)
    url: str = ""

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        await asyncio.sleep(self.slow)
        status = self.status
        raw = self.files.get(request.path, b"")
        etag = f'"{hash(raw):x}"'
        headers = {"ETag": etag} if self.etags else {}
        if self.location:
            headers["Location"] = self.location
        if status == 200 and request.headers.get("If-None-Match") == etag:
            status = 304
        self.asked.append((request.path, dict(request.headers), status))
        if self.drips:
            answer = web.StreamResponse(status=status)
            await answer.prepare(request)
            for byte in raw:
                await answer.write(bytes([byte]))
                await asyncio.sleep(self.drips)
            return answer
        return web.Response(status=status, body=raw if status == 200 else None, headers=headers)

    @contextlib.asynccontextmanager
    async def open(self, port: int = 0) -> AsyncIterator["Shelf"]:
        app = web.Application()
        app.router.add_get("/{path:.*}", self._answer)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", port, ssl_context=self.tls).start()
        scheme = "http" if self.tls is None else "https"
        self.url = f"{scheme}://127.0.0.1:{runner.addresses[0][1]}"
        try:
            yield self
        finally:
            await runner.cleanup()

    def settings(self, *names: str, **more: Any) -> dict[str, Any]:
        found = [{"name": name, "url": f"{self.url}/{name}", "poll": POLL, **more} for name in names]
        return {"bundles": found}


class Service:
    """A started Mixer in this process, asked over gRPC."""

    def __init__(self, decision_log: dict[str, Any] | None = None, **policy: Any) -> None:
        listeners = {name: {"address": "127.0.0.1:0"} for name in ("check", "report", "admin")}
        sections = {"listeners": listeners, "policy": policy, "decision_log": decision_log}
        settings = config.Config.model_validate({name: part for name, part in sections.items() if part})
        self.runtime = Runtime.build(settings, "check", "0")

    async def __aenter__(self) -> "Service":
        await self.runtime.start()
        self._channel = grpc.aio.insecure_channel(self.runtime.fronts["check"].address)
        self._call = self._channel.unary_unary(
            "/envoy.service.auth.v3.Authorization/Check",
            CheckRequest.SerializeToString,
            CheckResponse.FromString,
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._channel.close()
        await self.runtime.close(1.0)

    async def check(self, path: str = "/") -> dict[str, Any]:
        """The answer's dynamic metadata."""
        request = CheckRequest()
        request.attributes.request.http.method, request.attributes.request.http.path = "GET", path
        answer = await self._call(request, timeout=10)
        return {**MessageToDict(answer.dynamic_metadata), "code": answer.status.code}

    def count(self, name: str, **labels: str) -> float:
        return self.runtime.registry.get_sample_value(f"mixer_{name}", labels) or 0.0

    def polls(self, outcome: str, bundle: str = "b") -> float:
        return self.count("bundle_polls_total", bundle=bundle, outcome=outcome)

    def revision(self) -> str | None:
        labels = {"engine": "embedded", "decision": "envoy/authz/allow"}
        for metric in self.runtime.registry.collect():
            for sample in metric.samples:
                if sample.name == "mixer_policy_info" and labels.items() <= sample.labels.items():
                    return sample.labels["revision"]
        return None


async def until(condition: Any, what: str) -> None:
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.01)
    assert condition(), what


@on_loop
async def test_bundle_decides_and_its_revision_shows() -> None:
    async with (
        Shelf({"/b": policy("v1")}).open() as shelf,
        Service(**shelf.settings("b", token="sesame")) as service,
    ):
        found = await service.check()
        assert (found["code"], found["told"], found["mixer"]["revision"]) == (0, "v1", "v1")
        assert await service.runtime.not_ready() == []
        assert service.runtime.serving() == ["policy: revision v1"]
        assert service.revision() == "v1"
        await until(lambda: service.polls("unchanged") >= 2, "polls")
        assert [status for _, _, status in shelf.asked[:3]] == [200, 304, 304]
        assert shelf.asked[0][1]["Authorization"] == "Bearer sesame"
        assert "If-None-Match" not in shelf.asked[0][1]
        assert service.polls("activated") == 1


@on_loop
async def test_same_bytes_are_not_activated_again_without_an_etag() -> None:
    async with (
        Shelf({"/b": policy("v1")}, etags=False).open() as shelf,
        Service(**shelf.settings("b")) as service,
    ):
        await until(lambda: service.polls("unchanged") >= 2, "polls")
        assert {status for _, _, status in shelf.asked} == {200}
        assert service.polls("activated") == 1


@on_loop
async def test_new_bundle_takes_over_with_an_empty_cache() -> None:
    async with Shelf({"/b": policy("v1")}).open() as shelf, Service(**shelf.settings("b")) as service:
        assert [(await service.check())["mixer"]["cache"] for _ in range(2)] == ["miss", "hit"]
        assert service.count("decision_cache_entries") == 1
        shelf.files["/b"] = policy("v2")
        await until(lambda: service.revision() == "v2", "v2")
        assert service.count("decision_cache_entries") == 0
        found = await service.check()
        assert (found["told"], found["mixer"]) == (
            "v2",
            {"policy": "envoy/authz/allow", "revision": "v2", "cache": "miss"},
        )


BROKEN = {
    "archive": b"no gzip",
    "manifest": tarball({".manifest": "{"}),
    "roots": policy("v2", roots='["envoy", "envoy/x"]'),
    "content": policy("v2", "x := 1"),
    "activation": policy("v2", "package envoy.authz\n\nallow if {\n"),
    "signature": tarball(signed({"authz.rego": "package envoy.authz\n\nallow := true\n"})),
}


@pytest.mark.parametrize("reason", BROKEN)
@on_loop
async def test_broken_bundle_never_replaces_a_good_one(reason: str) -> None:
    with capture_logs() as logs:
        async with Shelf({"/b": policy("v1")}).open() as shelf, Service(**shelf.settings("b")) as service:
            shelf.files["/b"] = BROKEN[reason]
            await until(lambda: service.polls(reason) >= 1, reason)
            seen = len(shelf.asked)
            await until(lambda: len(shelf.asked) >= seen + 3, "more polls")
            assert (await service.check())["told"] == "v1"
            assert await service.runtime.not_ready() == []
            [problem] = service.runtime.degraded()
            assert problem.startswith("bundle b: serving revision v1: b")
            assert service.revision() == "v1"
            shelf.files["/b"] = policy("v3")
            await until(lambda: service.revision() == "v3", "v3")
            assert service.runtime.degraded() == []
            assert (await service.check())["told"] == "v3"
    refused = [entry for entry in logs if entry["event"] == "bundle_refused"]
    assert [(entry["bundle"], entry["reason"], entry["serving"]) for entry in refused] == [
        ("b", reason, "v1")
    ]


@on_loop
async def test_refused_bundle_that_is_taken_back_is_forgotten() -> None:
    async with Shelf({"/b": policy("v1")}).open() as shelf, Service(**shelf.settings("b")) as service:
        shelf.files["/b"] = BROKEN["activation"]
        await until(lambda: service.polls("activation") == 1, "refused")
        shelf.files["/b"] = policy("v1")
        await until(lambda: not service.runtime.degraded(), "forgotten")
        assert service.revision() == "v1"


@on_loop
async def test_unsigned_bundle_never_replaces_a_signed_one() -> None:
    rego = 'package envoy.authz\n\nallow := {"allowed": true, "dynamic_metadata": {"told": "signed"}}\n'
    key = {"id": "default", "algorithm": "HS256", "key": "sesame".ljust(32)}
    async with (
        Shelf({"/b": tarball(signed({"a.rego": rego}))}).open() as shelf,
        Service(**shelf.settings("b"), keys=[key]) as service,
    ):
        assert (await service.check())["told"] == "signed"
        shelf.files["/b"] = policy("v2")
        await until(lambda: service.polls("signature") >= 1, "refused")
        assert (await service.check())["told"] == "signed"


@pytest.mark.parametrize("status", [204, 302, 401, 403, 500])
@on_loop
async def test_server_in_trouble_is_told_and_the_old_bundle_serves(status: int) -> None:
    with capture_logs() as logs:
        async with Shelf({"/b": policy("v1")}).open() as shelf, Service(**shelf.settings("b")) as service:
            shelf.status = status
            await until(lambda: service.polls("download") >= 3, "failures")
            assert service.runtime.degraded() == [
                f"bundle b: serving revision v1: b: {shelf.url}/b: HTTP {status}, expected 200"
            ]
            assert (await service.check())["told"] == "v1"
            shelf.status = 200
            await until(lambda: not service.runtime.degraded(), "recovered")
    assert [entry["event"] for entry in logs if entry["event"].startswith("bundle_")] == [
        "bundle_activated",
        "bundle_refused",
        "bundle_recovered",
    ]


@on_loop
async def test_without_a_first_bundle_not_ready_and_unavailable() -> None:
    async with Shelf(status=503).open() as shelf, Service(**shelf.settings("b")) as service:
        assert await service.runtime.not_ready() == [
            "no policy yet: its bundles have not come",
            f"bundle b: b: {shelf.url}/b: HTTP 503, expected 200",
        ]
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await service.check()
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        shelf.files["/b"], shelf.status = policy("v1"), 200
        await until(lambda: service.revision() == "v1", "v1")
        assert await service.runtime.not_ready() == []
        assert (await service.check())["told"] == "v1"


@on_loop
async def test_bundle_larger_than_the_limit_is_not_taken() -> None:
    async with (
        Shelf({"/b": b"\0" * 5000}).open() as shelf,
        Service(**shelf.settings("b"), bundle_size_limit=4096) as service,
    ):
        assert service.polls("download") == 1
        assert service.runtime.degraded()[0].endswith("is larger than 4096 bytes (policy.bundle_size_limit)")


@on_loop
async def test_server_that_hangs_is_left_after_the_timeout() -> None:
    async with (
        Shelf({"/b": policy("v1")}, slow=0.5).open() as shelf,
        Service(**shelf.settings("b", timeout="100ms")) as service,
    ):
        assert service.runtime.degraded()[0].endswith(": no answer within 0.1 s")


@on_loop
async def test_server_that_drips_is_left_after_the_timeout() -> None:
    async with (
        Shelf({"/b": policy("v1")}, drips=0.02).open() as shelf,
        Service(**shelf.settings("b", timeout="200ms")) as service,
    ):
        assert service.runtime.degraded()[0].endswith(": no answer within 0.2 s")


@on_loop
async def test_redirect_is_not_followed_and_the_token_stays() -> None:
    async with Shelf({"/b": policy("v1")}).open() as other:
        async with (
            Shelf(status=302, location=f"{other.url}/b").open() as shelf,
            Service(**shelf.settings("b", token="sesame")) as service,
        ):
            assert service.runtime.degraded()[0].endswith(": HTTP 302, expected 200")
        assert other.asked == []


@on_loop
async def test_token_in_a_file_may_be_renewed(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text("one\n")
    async with (
        Shelf({"/b": policy("v1")}).open() as shelf,
        Service(**shelf.settings("b", token_file=file)) as service,
    ):
        assert shelf.asked[0][1]["Authorization"] == "Bearer one"
        file.write_text("two\n")
        await until(lambda: shelf.asked[-1][1]["Authorization"] == "Bearer two", "the new token")
        file.write_bytes(b"\xff")
        await until(lambda: service.polls("download") >= 1, "the failure")
        told = f"b: {shelf.url}/b: the token in {file} cannot be read: is not ASCII"
        assert service.runtime.degraded() == [f"bundle b: serving revision v1: {told}"]


class Certificates:
    """A server's, its authority's and a client's, as files and as settings."""

    def __init__(self, folder: Path) -> None:
        self.authority = Authority()
        self.ca = folder / "ca.pem"
        self.ca.write_bytes(self.authority.cert)
        for name in ("server", "client"):
            (folder / name).mkdir()
        self._server = write(folder / "server", self.authority.issue("bundles"))
        self.client = write(folder / "client", self.authority.issue("mixer"))

    def server(self, *, asks: bool = False) -> ssl.SSLContext:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=self.ca)
        context.load_cert_chain(self._server["cert"], self._server["key"])
        context.verify_mode = ssl.CERT_REQUIRED if asks else ssl.CERT_NONE
        return context


@on_loop
async def test_bundle_comes_over_https_from_an_authority_of_the_operators(tmp_path: Path) -> None:
    certificates = Certificates(tmp_path)
    async with Shelf({"/b": policy("v1")}, tls=certificates.server()).open() as shelf:
        async with Service(**shelf.settings("b", tls={"ca": certificates.ca}, token="sesame")) as service:
            assert (await service.check())["told"] == "v1"
            await until(lambda: service.polls("unchanged") >= 1, "a poll")
        assert shelf.asked[0][1]["Authorization"] == "Bearer sesame"


@pytest.mark.parametrize("own", [True, False])
@on_loop
async def test_server_of_an_unknown_authority_is_not_asked(tmp_path: Path, own: bool) -> None:
    server = Certificates(tmp_path).server()
    stranger = tmp_path / "stranger.pem"
    stranger.write_bytes(Authority().cert)
    async with (
        Shelf({"/b": policy("v1")}, tls=server).open() as shelf,
        Service(**shelf.settings("b", tls={"ca": stranger} if own else {}, token="sesame")) as service,
    ):
        [problem] = service.runtime.degraded()
        whom = stranger if own else "the system's authorities"
        assert problem.startswith(f"bundle b: b: {shelf.url}/b: its certificate is not trusted by {whom}: ")
        assert shelf.asked == []


@on_loop
async def test_server_that_asks_for_a_certificate_gets_it(tmp_path: Path) -> None:
    certificates = Certificates(tmp_path)
    async with Shelf({"/b": policy("v1")}, tls=certificates.server(asks=True)).open() as shelf:
        async with Service(
            **shelf.settings("b", tls={"ca": certificates.ca, **certificates.client})
        ) as service:
            assert (await service.check())["told"] == "v1"
        async with Service(**shelf.settings("b", tls={"ca": certificates.ca})) as service:
            assert service.polls("download") == 1


@pytest.mark.parametrize("wrong", ["ca", "cert", "absent"])
@on_loop
async def test_certificate_that_cannot_be_used_is_named_at_start(tmp_path: Path, wrong: str) -> None:
    certificates = Certificates(tmp_path)
    tls = {"ca": str(certificates.ca), **certificates.client}
    if wrong == "absent":
        tls["ca"] = str(tmp_path / "nowhere.pem")
    else:
        Path(tls[wrong]).write_text("no certificate")
    with pytest.raises(PolicyError) as caught:
        async with Service(bundles=[{"name": "b", "url": "https://127.0.0.1:1/b", "tls": tls}]):
            pass
    [told] = str(caught.value).splitlines()
    assert told.startswith(tls["cert" if wrong == "cert" else "ca"] + ": expected ")


@on_loop
async def test_two_bundles_and_a_folder_make_one_policy(tmp_path: Path) -> None:
    (tmp_path / "lib.rego").write_text("package lib\n\nsame(x) := x\n")
    body = """package envoy.authz

import data.lib

allow := {"allowed": true, "dynamic_metadata": {"told": lib.same(data.roles.told)}}
"""

    def roles(revision: str, roots: str = '["roles"]') -> bytes:
        manifest = f'{{"revision": "{revision}", "roots": {roots}}}'
        return tarball({"roles/data.json": json.dumps({"told": revision}), ".manifest": manifest})

    files = {"/p": policy("p1", body), "/d": roles("d1")}
    async with (
        Shelf(files).open() as shelf,
        Service(**shelf.settings("p", "d"), paths=[tmp_path]) as service,
    ):
        found = await service.check()
        assert (found["told"], found["mixer"]["revision"][:6]) == ("d1", "p1+d1+")
        shelf.files["/d"] = roles("d2", '["envoy/authz", "roles"]')
        await until(lambda: service.polls("activation", "d") == 1, "overlap refused")
        assert 'root "envoy/authz" overlaps root "envoy" of p' in service.runtime.degraded()[0]
        # A bad one holds no good one back.
        shelf.files["/p"] = policy("p2", body)
        await until(lambda: (service.revision() or "").startswith("p2+d1+"), "p2")
        shelf.files["/d"] = roles("d3")
        await until(lambda: (service.revision() or "").startswith("p2+d3+"), "d3")
        assert (await service.check())["told"] == "d3"
        assert service.runtime.degraded() == []


@on_loop
async def test_no_call_fails_or_is_decided_by_a_mixture_while_bundles_are_swapped() -> None:
    async with Shelf({"/b": policy("v0")}).open() as shelf, Service(**shelf.settings("b")) as service:
        seen: list[str] = []
        done = False

        async def ask(number: int) -> None:
            while not done:
                found = await service.check(f"/{number}")
                assert found["code"] == 0
                assert found["told"] == found["mixer"]["revision"]
                seen.append(found["told"])

        askers = [asyncio.create_task(ask(number)) for number in range(16)]
        for version in range(1, 6):
            shelf.files["/b"] = policy(f"v{version}")
            await until(lambda now=f"v{version}": service.revision() == now, f"v{version}")
            await until(lambda now=f"v{version}": now in seen, "decided by it")
        done = True
        await asyncio.gather(*askers)
        assert set(seen) == {f"v{version}" for version in range(6)}
        assert service.count("engine_errors_total", engine="embedded", reason="unavailable") == 0


@on_loop
async def test_decision_log_is_masked_by_the_bundle_that_decided(tmp_path: Path) -> None:
    rego = 'package system.log\n\nmask contains "/input/attributes"\n\nmask contains "/input/parsed_path"\n'
    masked = tarball(
        {
            "authz.rego": 'package envoy.authz\n\nallow if input.attributes.request.http.path != "/no"\n',
            "log.rego": rego,
            ".manifest": '{"revision": "v1"}',
        }
    )
    file = tmp_path / "decisions.jsonl"
    log = {"sinks": [{"type": "file", "path": str(file)}]}
    async with Shelf(status=503).open() as shelf, Service(log, **shelf.settings("b")) as service:
        with pytest.raises(grpc.aio.AioRpcError):
            await service.check("/sesame")
        shelf.files["/b"], shelf.status = masked, 200
        await until(lambda: service.revision() == "v1", "v1")
        assert (await service.check("/sesame"))["code"] == 0
    text = file.read_text()
    assert "sesame" not in text
    [event] = map(json.loads, text.splitlines())
    assert set(event["erased"]) == {"/input/attributes", "/input/parsed_path"}


@on_loop
async def test_readyz_tells_the_revision_and_what_is_degraded() -> None:
    from mixer.admin.server import AdminServer

    async with Shelf({"/b": policy("v1")}).open() as shelf, Service(**shelf.settings("b")) as service:
        runtime = service.runtime
        admin = AdminServer(
            "127.0.0.1:0", runtime.registry, runtime.not_ready, runtime.degraded, runtime.serving
        )
        await admin.start()
        shelf.status = 500
        await until(runtime.degraded, "degraded")
        try:
            async with (
                aiohttp.ClientSession() as session,
                session.get(f"http://{admin.address}/readyz") as answer,
            ):
                assert (answer.status, await answer.text()) == (
                    200,
                    "ready\npolicy: revision v1\n"
                    f"degraded: bundle b: serving revision v1: b: {shelf.url}/b: HTTP 500, expected 200\n",
                )
        finally:
            await admin.close()


@on_loop
async def test_decision_log_is_masked_by_the_rules_of_the_latest_bundle(tmp_path: Path) -> None:
    def bundle(revision: str, masked: str) -> bytes:
        manifest = f'{{"revision": "{revision}", "roots": ["envoy", "system/log"]}}'
        rules = f"package system.log\n\nmask contains {masked}\n"
        return tarball(
            {"a.rego": "package envoy.authz\n\nallow := true\n", "l.rego": rules, ".manifest": manifest}
        )

    http = "/input/attributes/request/http"
    file = tmp_path / "decisions.jsonl"
    log = {"sinks": [{"type": "file", "path": str(file)}]}
    async with (
        Shelf({"/b": bundle("v1", f'"{http}/path"')}).open() as shelf,
        Service(log, **shelf.settings("b")) as service,
    ):
        await service.check()
        shelf.files["/b"] = bundle("v2", f'"{http}/method"')
        await until(lambda: service.revision() == "v2", "v2")
        await service.check()
        shelf.files["/b"] = bundle("v3", "http.send({})")
        await until(lambda: service.polls("activation") >= 1, "the refusal")
        await service.check()
    events = [json.loads(line) for line in file.read_text().splitlines()]
    assert [event["revision"] for event in events] == ["v1", "v2", "v2"]
    assert [event["bundles"] for event in events] == [
        {"b": {"revision": name}} for name in ("v1", "v2", "v2")
    ]
    assert [event["erased"] for event in events] == [[f"{http}/path"], [f"{http}/method"], [f"{http}/method"]]
