"""Settings, policies and limits exchanged in a running Mixer: `mixer serve` as a child process, asked over gRPC."""

import json
import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from envoy.service.auth.v3.external_auth_pb2 import CheckRequest, CheckResponse
from envoy.service.ratelimit.v3.rls_pb2 import RateLimitRequest, RateLimitResponse

from tests.components.processes import Mixer, wait_until

StartMixer = Callable[..., Mixer]

# One revision is a rule and data that must be of one mind.
POLICY = """package envoy.authz

default allow := {{"allowed": false}}
allow := {{"allowed": true, "headers": {{"x-rule": "{revision}", "x-data": data.revision}}}}
"""
LIMITS = "domain: d\ndescriptors: [{{key: user, rate_limit: {{unit: day, requests_per_unit: {limit}}}}}]\n"
RELOADS = 100
CLIENTS, PAUSE = (
    4,
    0.002,
)  # and seconds between a client's calls: the processes that start need the machine, too


class Files:
    """A folder with settings, a policy with data, and limits."""

    def __init__(self, folder: Path, **sections: Any) -> None:
        self.folder = folder
        (folder / "policies").mkdir()
        self.sections: dict[str, Any] = {
            "listeners": {name: {"address": "127.0.0.1:0"} for name in ("check", "report", "admin")},
            "policy": {"paths": ["policies"]},
            "rate_limits": {"paths": ["limits.yaml"]},
            **sections,
        }
        self.settings = folder / "mixer.yaml"
        self.write_settings()
        self.write_policy("0")
        self.write_limit(10)

    def write_settings(self, **sections: Any) -> None:
        self.sections.update(sections)
        replace(self.settings, json.dumps(self.sections))

    def write_policy(self, revision: str) -> None:
        """Both files at one moment would need a ConfigMap; the rule is what tells, so it comes last."""
        replace(self.folder / "policies" / "data.json", json.dumps({"revision": revision}))
        replace(self.folder / "policies" / "authz.rego", POLICY.format(revision=revision))

    def write_limit(self, limit: int) -> None:
        replace(self.folder / "limits.yaml", LIMITS.format(limit=limit))


def replace(file: Path, text: str) -> None:
    fresh = file.with_suffix(".new")
    fresh.write_text(text)
    fresh.replace(file)


@contextmanager
def calls(mixer: Mixer) -> Iterator["Calls"]:
    with grpc.insecure_channel(mixer.check, [("grpc.use_local_subchannel_pool", 1)]) as channel:
        yield Calls(channel)


class Calls:
    def __init__(self, channel: grpc.Channel) -> None:
        self._check = channel.unary_unary(
            "/envoy.service.auth.v3.Authorization/Check",
            CheckRequest.SerializeToString,
            CheckResponse.FromString,
        )
        self._quota = channel.unary_unary(
            "/envoy.service.ratelimit.v3.RateLimitService/ShouldRateLimit",
            RateLimitRequest.SerializeToString,
            RateLimitResponse.FromString,
        )

    def revision(self) -> str:
        """Of the rule and the data that decided, which must be one."""
        answer = self._check(CheckRequest(), timeout=10)
        rule, data = (option.header.value for option in answer.ok_response.headers)
        assert rule == data
        return str(rule)

    def quota(self) -> Any:
        request = RateLimitRequest(domain="d")
        request.descriptors.add().entries.add(key="user", value="alice")
        return self._quota(request, timeout=10).statuses[0]


def reload(mixer: Mixer, result: str = "applied") -> None:
    """SIGHUP, and wait until it is done."""
    before = reloads(mixer, result)
    os.kill(mixer.pid, signal.SIGHUP)
    wait_until(lambda: reloads(mixer, result) > before, what=f"a reload that is {result}")


def reloads(mixer: Mixer, result: str) -> float:
    return value(mixer, f'mixer_reloads_total{{result="{result}"}}')


def value(mixer: Mixer, sample: str) -> float:
    text: str = mixer.call("/metrics")[1]
    found = [line.rpartition(" ")[2] for line in text.splitlines() if line.startswith(f"{sample} ")]
    assert found, f"{sample} is not there"
    return float(found[0])


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(tmp_path)


@contextmanager
def under_load(mixer: Mixer, ask: Callable[[Calls], str]) -> Iterator[Counter[str]]:
    """Clients, each on a connection of its own; what they heard, once it is over. A failed call fails the test."""
    stop, heard = threading.Event(), Counter[str]()

    def flow() -> Counter[str]:
        seen = Counter[str]()
        with calls(mixer) as client:
            while not stop.is_set():
                seen[ask(client)] += 1
                time.sleep(PAUSE)
        return seen

    with ThreadPoolExecutor(CLIENTS) as pool:
        flows = [pool.submit(flow) for _ in range(CLIENTS)]
        try:
            yield heard
        finally:
            stop.set()
        for done in flows:
            heard.update(done.result(30))


def test_a_hundred_reloads_under_load_fail_no_call_and_mix_no_revisions(
    files: Files, start_mixer: StartMixer
) -> None:
    mixer = start_mixer(files.settings)
    with under_load(mixer, Calls.revision) as heard:
        for number in range(1, RELOADS + 1):
            files.write_policy(str(number))
            reload(mixer)
    assert len(heard) > RELOADS // 2  # some may have passed unheard
    assert heard.keys() <= set(map(str, range(RELOADS + 1)))
    with calls(mixer) as client:
        assert client.revision() == str(RELOADS)
    assert reloads(mixer, "failed") == 0
    assert "Traceback" not in mixer.log.read_text()


def test_limits_are_exchanged_and_counters_go_on(files: Files, start_mixer: StartMixer) -> None:
    mixer = start_mixer(files.settings)
    with calls(mixer) as client:
        assert client.quota().limit_remaining == 9
        files.write_limit(5)
        reload(mixer)
        status = client.quota()
        assert (status.current_limit.requests_per_unit, status.limit_remaining) == (5, 3)
    assert "requests_per_unit=5," in mixer.call("/rlconfig")[1]


MISTAKES = {
    "policy": ("policies/authz.rego", "package envoy.authz\n\nallow := )\n", "authz.rego"),
    "data": ("policies/data.json", "{", "data.json"),
    "limits": ("limits.yaml", LIMITS.format(limit=5).replace("day", "fortnight"), "rate_limit.unit"),
    "settings": ("mixer.yaml", "polcy: {}\n", 'did you mean \\"policy\\"?'),
}


@pytest.mark.parametrize(("file", "wrong", "told"), MISTAKES.values(), ids=MISTAKES.keys())
def test_mistake_leaves_all_as_it_was_and_is_told(
    files: Files, start_mixer: StartMixer, file: str, wrong: str, told: str
) -> None:
    files.write_settings(logging={"format": "json"})
    mixer = start_mixer(files.settings)
    before = (files.folder / file).read_text()
    replace(files.folder / file, wrong)
    if file != "limits.yaml":
        files.write_limit(5)  # right, and yet not taken: all or nothing
    reload(mixer, "failed")
    with calls(mixer) as client:
        assert client.revision() == "0"
        assert client.quota().current_limit.requests_per_unit == 10
    [line] = [line for line in mixer.log.read_text().splitlines() if "reload_failed" in line]
    assert told in line
    status, text = mixer.call("/readyz")
    assert status == 200
    assert "degraded: reload: " in text
    assert value(mixer, "mixer_reload_failing") == 1
    replace(files.folder / file, before)
    files.write_policy("1")
    reload(mixer)
    assert "degraded" not in mixer.call("/readyz")[1]
    assert value(mixer, "mixer_reload_failing") == 0


def test_settings_that_need_a_restart_are_named_and_the_others_taken(
    files: Files, start_mixer: StartMixer
) -> None:
    mixer = start_mixer(files.settings)
    listeners = {**files.sections["listeners"], "admin": {"address": "127.0.0.1:1"}}
    files.write_settings(
        listeners=listeners, policy={"paths": ["policies"], "dry_run": True, "decision": "envoy/authz/deny"}
    )
    (files.folder / "policies" / "deny.rego").write_text("package envoy.authz\n\ndeny := false\n")
    reload(mixer)
    assert "degraded: settings: listeners.admin.address needs a restart" in mixer.call("/readyz")[1]
    assert value(mixer, "mixer_restart_needed_settings") == 1
    with calls(mixer) as client:
        client._check(CheckRequest(), timeout=10)
    assert value(mixer, "mixer_dry_run_passed_total") == 1


def test_nothing_new_is_not_taken_anew(files: Files, start_mixer: StartMixer) -> None:
    mixer = start_mixer(files.settings)
    with calls(mixer) as client:
        client.revision()
        reload(mixer, "unchanged")
        client.revision()
    assert value(mixer, 'mixer_decision_cache_lookups_total{outcome="hit"}') == 1


class ConfigMap:
    """A folder as Kubernetes mounts it: names are links through `..data`, which is exchanged for another."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()
        self._version = 0

    def write(self, files: dict[str, str]) -> None:
        self._version += 1
        version = self.folder / f"..{self._version}"
        for name, text in files.items():
            file = version / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text)
            if not (link := self.folder / name.partition("/")[0]).is_symlink():
                link.symlink_to(Path("..data") / link.name)
        fresh = self.folder / "..data_tmp"
        fresh.symlink_to(version.name)
        fresh.replace(self.folder / "..data")


def test_watched_config_map_is_taken_as_a_whole(files: Files, start_mixer: StartMixer) -> None:
    mounted = ConfigMap(files.folder / "mounted")

    def content(revision: str) -> dict[str, str]:
        return {
            "authz.rego": POLICY.format(revision=revision).replace("data.revision", "data.of.it.revision"),
            "of/it/data.json": json.dumps({"revision": revision}),
        }

    mounted.write(content("0"))
    files.write_settings(policy={"paths": ["mounted"]}, reload={"watch": True, "interval": "50ms"})
    mixer = start_mixer(files.settings)
    with under_load(mixer, Calls.revision) as heard:
        for number in range(1, 6):
            mounted.write(content(str(number)))
            wait_until(lambda: reloads(mixer, "applied") == number, what="the new policy")  # noqa: B023
    assert heard.keys() == set("012345")
    before = reloads(mixer, "unchanged")
    mounted.write(content("5"))  # the same, in another folder
    wait_until(lambda: reloads(mixer, "unchanged") > before, what="a look at it")
    assert reloads(mixer, "applied") == 5
    assert reloads(mixer, "failed") == 0


def test_files_of_sinks_are_opened_anew(tmp_path: Path, start_mixer: StartMixer) -> None:
    file = tmp_path / "access.jsonl"
    files = Files(tmp_path, telemetry={"sinks": [{"type": "file", "path": str(file)}]})
    mixer = start_mixer(files.settings, "--role", "report")
    file.rename(tmp_path / "access.jsonl.1")
    os.kill(mixer.pid, signal.SIGUSR1)
    wait_until(file.exists, what="a new file")
    assert mixer.running
