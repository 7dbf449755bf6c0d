"""The command line: what it prints, and its exit codes."""

import json
import re
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import mixer
from mixer import cli
from tests.components.processes import Mixer, Opa, free_port
from tests.components.server import connect, http_call

POLICY = 'package envoy.authz\n\nallow := input.attributes.request.http.method == "GET"\n'
LIMITS = "domain: test\ndescriptors: [{key: user, rate_limit: {unit: hour, requests_per_unit: 9}}]\n"
SETTINGS = """\
listeners: {check: {address: "127.0.0.1:0"}, report: {address: "127.0.0.1:0"}, admin: {address: "127.0.0.1:0"}}
policy: {paths: [authz.rego]}
rate_limits: {paths: [limits.yaml]}
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with settings, a policy and limits in which nothing is wrong."""
    (tmp_path / "mixer.yaml").write_text(SETTINGS)
    (tmp_path / "authz.rego").write_text(POLICY)
    (tmp_path / "limits.yaml").write_text(LIMITS)
    return tmp_path


def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """`mixer` as a process, for 60 s at most."""
    command = [sys.executable, "-m", "mixer", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


# Mistakes: (file, its wrong text, the message)
MISTAKES = {
    "setting": ("mixer.yaml", "polcy: {}\n", 'mixer.yaml: polcy: unknown key; did you mean "policy"?'),
    "policy": ("authz.rego", "package envoy.authz\n\nallow := )\n", "authz.rego: line 3"),
    "limits": (
        "limits.yaml",
        LIMITS.replace("hour", "fortnight"),
        "limits.yaml: descriptors[0].rate_limit.unit: expected second, ",
    ),
    "no policy": ("mixer.yaml", SETTINGS.replace("authz.rego", "none.rego"), "none.rego"),
    "no limits": ("mixer.yaml", SETTINGS.replace("limits.yaml", "none.yaml"), "none.yaml"),
}


@pytest.mark.parametrize(("file", "wrong", "message"), MISTAKES.values(), ids=MISTAKES.keys())
def test_validate_names_a_mistake_by_its_file_and_place(
    folder: Path, capsys: pytest.CaptureFixture[str], file: str, wrong: str, message: str
) -> None:
    (folder / file).write_text(wrong)
    assert cli.main(["validate", "--config", str(folder / "mixer.yaml")]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert f"{folder}/{message}" in err
    assert "Traceback" not in err


def test_validate_names_every_mistake_of_a_file(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "mixer.yaml").write_text("drain_timeout: 5\nworkers: {check: no}\npolcy: {}\n")
    assert cli.main(["validate", "--config", str(folder / "mixer.yaml")]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(": ")[1] for line in lines] == ["workers.check", "drain_timeout", "polcy"]


def test_validate_says_what_it_found(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["validate", "--config", str(folder / "mixer.yaml")]) == 0
    out, err = capsys.readouterr()
    policy, limits, ok = out.splitlines()
    assert re.fullmatch(
        r"policy: envoy/authz/allow, revision [0-9a-f]{12}; reads input\.attributes\.request\.http\.method",
        policy,
    )
    assert limits.startswith("rate limits: ")
    assert ok == f"{folder}/mixer.yaml: ok"
    assert err == ""


def test_validate_lists_every_decision(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "other.rego").write_text("package other\n\nread := true\n\nwrite := false\n")
    policy = "policy: {paths: [authz.rego, other.rego], decisions: {reads: other/read, writes: other/write}}"
    (folder / "mixer.yaml").write_text(SETTINGS.replace("policy: {paths: [authz.rego]}", policy))
    assert cli.main(["validate", "--config", str(folder / "mixer.yaml")]) == 0
    lines = capsys.readouterr().out.splitlines()
    for line, start in zip(
        lines,
        (
            "policy: envoy/authz/allow",
            "policy.decisions.reads: other/read",
            "policy.decisions.writes: other/write",
        ),
        strict=False,
    ):
        assert line.startswith(f"{start}, revision ")


def test_validate_says_what_the_rule_of_limits_reads(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rule = 'package quota\n\nlimits contains {"key": input.domain, "requests_per_unit": 1, "unit": "day"}\n'
    (folder / "quota.rego").write_text(rule)
    file = folder / "rego.yaml"
    paths = "policy: {paths: [authz.rego, quota.rego]}\n"
    file.write_text(paths + "rate_limits: {decision: quota/limits}\n")
    assert cli.main(["validate", "--config", str(file)]) == 0
    lines = capsys.readouterr().out.splitlines()
    (line,) = (line for line in lines if line.startswith("rate_limits.decision: quota/limits"))
    assert line.endswith("reads input.domain")
    file.write_text(paths + "rate_limits: {decision: quota/limit}\n")
    assert cli.main(["validate", "--config", str(file)]) == 2
    assert 'no rule gives the decision "quota/limit"' in capsys.readouterr().err


def test_validate_names_each_decision_that_no_rule_gives(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    policy = "policy: {paths: [authz.rego], decisions: {a: envoy/authz/alow, b: envoy/authz/allow, c: x/y}}"
    (folder / "mixer.yaml").write_text(SETTINGS.replace("policy: {paths: [authz.rego]}", policy))
    assert cli.main(["validate", "--config", str(folder / "mixer.yaml")]) == 2
    there = "rules there: envoy/authz/allow"
    assert capsys.readouterr().err.splitlines() == [
        f'{folder}/authz.rego: no rule gives the decision "envoy/authz/alow"; {there}',
        f'{folder}/authz.rego: no rule gives the decision "x/y"; {there}',
    ]


def test_validate_says_what_the_shadow_is_and_names_its_mistakes(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "next.rego").write_text(
        "package envoy.authz\n\nallow := input.parsed_path[0] == time.now_ns()\n"
    )
    policy = "policy: {paths: [authz.rego], shadow: {paths: [next.rego]}}"
    (folder / "mixer.yaml").write_text(SETTINGS.replace("policy: {paths: [authz.rego]}", policy))
    assert cli.main(["validate", "--config", str(folder / "mixer.yaml")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("policy: envoy/authz/allow, revision ")
    assert lines[1].startswith("policy.shadow: envoy/authz/allow, revision ")
    assert not lines[2].startswith("decision cache")
    (folder / "next.rego").write_text("package envoy.authz\n\nallow := )\n")
    assert cli.main(["validate", "--config", str(folder / "mixer.yaml")]) == 2
    assert f"{folder}/next.rego: line 3" in capsys.readouterr().err


def test_validate_says_why_nothing_can_be_cached(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "authz.rego").write_text("package envoy.authz\n\nallow := time.now_ns() > 0\n")
    assert cli.main(["validate", "--config", str(folder / "mixer.yaml")]) == 0
    line = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("decision cache"))
    assert line.startswith(
        "decision cache: off but for decisions with a cache_ttl, since the policy calls time.now_ns ("
    )
    assert "authz.rego:3)" in line


def test_validate_says_which_rules_the_decision_log_obeys(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "mixer.yaml").write_text(
        "policy: {paths: [authz.rego, log.rego]}\ndecision_log: {sinks: [{type: file}]}\n"
    )
    (folder / "log.rego").write_text('package system.log\n\nmask := ["/input/a"]\n')
    assert cli.main(["validate", "--config", str(folder / "mixer.yaml")]) == 0
    assert "decision log: system.log.mask\n" in capsys.readouterr().out
    (folder / "log.rego").write_text("package system.log\n\nmask := http.send({})\n")
    assert cli.main(["validate", "--config", str(folder / "mixer.yaml")]) == 2
    assert "log.rego: line 3" in capsys.readouterr().err


def test_validate_connects_to_nothing(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "mixer.yaml").write_text(
        "policy: {engine: opa, opa: {url: 'http://127.0.0.1:1'}}\n"
        "rate_limits: {paths: [limits.yaml], counters: redis, redis: {url: 'redis://127.0.0.1:1'}}\n"
        "telemetry: {sinks: [{type: kafka, bootstrap_servers: ['127.0.0.1:1']}]}\n"
    )
    assert cli.main(["validate", "--config", str(folder / "mixer.yaml")]) == 0
    assert "decided by OPA at http://127.0.0.1:1" in capsys.readouterr().out


@pytest.mark.parametrize("mistake", ["setting", "policy", "limits"])
def test_serve_refuses_a_mistake_before_it_is_ready(folder: Path, mistake: str) -> None:
    file, wrong, message = MISTAKES[mistake]
    (folder / file).write_text(wrong)
    done = run("serve", "--config", folder / "mixer.yaml")
    assert (done.returncode, done.stdout) == (2, "")
    assert f"{folder}/{message}" in done.stderr
    assert "Traceback" not in done.stderr


def test_settings_that_are_not_there_are_a_mistake(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for command in ("serve", "validate"):
        assert cli.main([command, "--config", str(tmp_path / "none.yaml")]) == 2
        assert capsys.readouterr().err == f"{tmp_path}/none.yaml: cannot be read: No such file or directory\n"


@pytest.mark.parametrize("listener", ["check", "report", "admin"])
def test_address_in_use_is_told_in_a_line(listener: str, folder: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        old, new = (f'{listener}: {{address: "{a}"' for a in ("127.0.0.1:0", address))
        (folder / "mixer.yaml").write_text(SETTINGS.replace(old, new))
        done = run("serve", "--config", folder / "mixer.yaml")
    assert (done.returncode, done.stdout) == (1, "")
    line = done.stderr.splitlines()[-1]  # the one of ours; gRPC may have said so too
    assert line.startswith(f"mixer: cannot listen on {address}: ")
    assert "in use" in line
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    "arguments", [[], ["serve"], ["unknown"], ["serve", "--config", "x", "--role", "quota"]]
)
def test_mistaken_arguments_are_explained(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(arguments)
    assert ended.value.code == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("usage: mixer")
    assert "error: " in err


def test_help_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(["--help"])
    assert ended.value.code == 0
    out, err = capsys.readouterr()
    assert err == ""
    for command in ("serve", "validate", "policy", "limits", "top", "demo", "version"):
        assert re.search(rf"^    {command} +\w", out, re.MULTILINE)


@pytest.mark.parametrize("command", ["serve", "validate", "policy", "limits", "top", "demo", "version"])
def test_each_command_has_a_help(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main([command, "--help"])
    assert ended.value.code == 0
    assert capsys.readouterr().out.startswith(f"usage: mixer {command}")


def test_version_is_that_of_the_package(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["version"]) == 0
    assert capsys.readouterr().out == f"mixer {mixer.__version__}\n"


def test_command_and_module_are_the_same() -> None:
    installed = subprocess.run(
        [Path(sys.executable).parent / "mixer", "version"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (installed.returncode, installed.stdout) == (0, run("version").stdout)


def test_policy_deps_says_what_is_read(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    told = "envoy/authz/allow reads\n  input.attributes.request.http.method\n"
    for given in (["--config", str(folder / "mixer.yaml")], [str(folder / "authz.rego")]):
        assert cli.main(["policy", "deps", *given]) == 0
        assert capsys.readouterr().out == f"{told}Requests equal in these get a decision from the cache.\n"


def test_policy_deps_says_what_keeps_a_decision_from_being_cached(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "authz.rego").write_text(
        "package envoy.authz\n\nallow := f(input.attributes.request.http)\n\nf(_) if time.now_ns() > 0\n"
    )
    assert cli.main(["policy", "deps", "--config", str(folder / "mixer.yaml")]) == 0
    _, path, because, where, way_out = capsys.readouterr().out.splitlines()
    assert path.startswith("  input.attributes.request.http    holds ")
    assert "x-request-id" in path
    assert because == "Not cached, because of"
    assert where == f"  {folder}/authz.rego:5: time.now_ns reads the clock"
    assert "cache_ttl" in way_out


def test_policy_deps_of_an_opa_server(
    folder: Path, capsys: pytest.CaptureFixture[str], opa_server: Opa
) -> None:
    """Of its own policies, or of those that are pushed to it."""
    given = f"policy: {{engine: opa, paths: [authz.rego], opa: {{url: '{opa_server.url}', push: %s}}}}\n"
    deps = ["policy", "deps", "--config", str(folder / "opa.yaml")]
    read = "package envoy.authz\n\nallow := input.parsed_path\n"
    (folder / "opa.yaml").write_text(given % "false")
    opa_server.call("PUT", "/v1/policies/a", read)
    assert cli.main(deps) == 0
    told = capsys.readouterr().out
    assert told.startswith("envoy/authz/allow reads\n  input.parsed_path\nNot cached but for")
    opa_server.call("PUT", "/v1/policies/b", "package b\n\ny := 1e400\n")
    assert cli.main(deps) == 0
    *_, last = capsys.readouterr().out.splitlines()
    assert last.startswith("All of the input is sent, since the policies cannot be read: b: line 3")
    (folder / "opa.yaml").write_text(given % "true")
    assert cli.main(deps) == 0
    told = "envoy/authz/allow reads\n  input.attributes.request.http.method\n"
    assert capsys.readouterr().out.startswith(f"{told}Requests equal in these")


def test_policy_deps_of_what_is_pushed_says_what_others_may_change(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "opa.yaml").write_text(
        "policy: {engine: opa, paths: [authz.rego, data.json], opa: {push: true}}\n"
    )
    (folder / "data.json").write_text('{"ours": 1}')
    (folder / "authz.rego").write_text(
        "package envoy.authz\n\nallow if data.ours == data.theirs\n\nallow if data.ours == org.unit(input.x)\n"
    )
    assert cli.main(["policy", "deps", "--config", str(folder / "opa.yaml")]) == 0
    _, _, because, builtin, data, _ = capsys.readouterr().out.splitlines()
    assert because == "Not cached, because of"
    assert builtin == f"  {folder}/authz.rego:5: org.unit is known to the server alone"
    assert data == "  data.theirs, which others may change"


def test_policy_deps_of_an_opa_server_that_is_away(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "opa.yaml").write_text("policy: {engine: opa, opa: {url: 'http://127.0.0.1:1'}}\n")
    assert cli.main(["policy", "deps", "--config", str(folder / "opa.yaml")]) == 1
    assert "OPA at http://127.0.0.1:1 is away" in capsys.readouterr().err


def test_policy_deps_of_another_decision(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "authz.rego").write_text("package a.b\n\nx := http.send({})\n\ny := 1\n")
    for name in ("a/b/y", "data.a.b.y"):
        assert cli.main(["policy", "deps", str(folder / "authz.rego"), "--decision", name]) == 0
        assert capsys.readouterr().out.startswith("a/b/y reads\n  nothing of the input\nRequests equal")
    assert cli.main(["policy", "deps", str(folder / "authz.rego"), "--decision", "a/b/x"]) == 0
    assert "http.send asks the network" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([], "needs either --config FILE or the PATHs of policies"),
        (["none.rego"], "none.rego: no such file or folder"),
        (["authz.rego", "--decision", "envoy/authz/alow"], "no rule gives the decision"),
        (["--config", "bundles.yaml"], "the policies are not known here"),
        (["--config", "quota.yaml"], "quota.yaml: policy: there is none"),
    ],
)
def test_policy_deps_of_what_is_not_there(
    folder: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    given: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(folder)
    (folder / "bundles.yaml").write_text('policy: {bundles: [{name: a, url: "http://127.0.0.1:1/a"}]}\n')
    (folder / "quota.yaml").write_text("rate_limits: {paths: [limits.yaml]}\n")
    assert cli.main(["policy", "deps", *given]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert message in err


SHOP = """\
domain: shop
descriptors:
- {key: user, rate_limit: {name: per-user, unit: day, requests_per_unit: 5}}
- {key: user, value: admin, rate_limit: {unlimited: true}}
- key: tenant
  descriptors:
  - {key: job, rate_limit: {algorithm: concurrency, requests_per_unit: 2, lease: 5m}}
  - {key: path, value: /a*, share_threshold: true, shadow_mode: true,
     rate_limit: {algorithm: token_bucket, window: 90s, requests_per_unit: 9, burst: 3, replaces: [{name: per-user}],
       on_error: deny, count_over_limit: true}}
"""


def quota(folder: Path, **rate_limits: object) -> Path:
    """Settings of these rate limits, with the limits `SHOP`."""
    (folder / "limits.yaml").write_text(SHOP)
    settings = {
        "listeners": {
            "check": {"address": "127.0.0.1:0"},
            "report": {"address": "127.0.0.1:0"},
            "admin": {"address": f"127.0.0.1:{free_port()}"},
        },
        "rate_limits": {"paths": ["limits.yaml"], **rate_limits},
    }
    (folder / "quota.yaml").write_text(json.dumps(settings))
    return folder / "quota.yaml"


def test_limits_show_is_a_table_with_every_limit_and_where_it_comes_from(tmp_path: Path) -> None:
    done = run("limits", "show", "--config", quota(tmp_path))
    assert (done.returncode, done.stderr) == (0, "")
    assert [re.split("  +", line) for line in done.stdout.splitlines()] == [
        ["DOMAIN", "DESCRIPTOR", "LIMIT", "ALGORITHM", "NAME", "FLAGS", "FROM"],
        *(
            [*columns, f"{tmp_path}/limits.yaml: {path}"]
            for columns, path in (
                (
                    ["shop", "user", "5 per day", "fixed_window", "per-user", "-"],
                    "descriptors[0].rate_limit",
                ),
                (["shop", "user=admin", "unlimited", "-", "-", "-"], "descriptors[1].rate_limit"),
                (
                    ["shop", "tenant > job", "2 at once, for 5m at most", "concurrency", "-", "-"],
                    "descriptors[2].descriptors[0].rate_limit",
                ),
                (
                    [
                        *("shop", "tenant > path=/a*", "9 per 90s, burst 3", "token_bucket", "-"),
                        "shadow_mode, share_threshold, replaces per-user, count_over_limit: true, on_error: deny",
                    ],
                    "descriptors[2].descriptors[1].rate_limit",
                ),
            )
        ),
    ]


def test_limits_show_says_where_further_ones_come_from(tmp_path: Path) -> None:
    file = quota(tmp_path, decision="shop/limits")
    file.write_text(json.dumps({**json.loads(file.read_text()), "policy": {"paths": ["policies/"]}}))
    done = run("limits", "show", "--config", file)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[-1] == (
        "and for each call those that the rule shop/limits gives (rate_limits.decision)"
    )


def test_limits_show_for_machines(tmp_path: Path) -> None:
    done = run("limits", "show", "--json", "--config", quota(tmp_path))
    assert json.loads(done.stdout)[3] == {
        "domain": "shop",
        "keys": [{"key": "tenant"}, {"key": "path", "value": "/a*"}],
        "rate": "9 per 90s, burst 3",
        "algorithm": "token_bucket",
        "requests_per_unit": 9,
        "window": 90,
        "burst": 3,
        "count_over_limit": True,
        "on_error": "deny",
        "shadow_mode": True,
        "share_threshold": True,
        "replaces": ["per-user"],
        "file": f"{tmp_path}/limits.yaml",
        "path": "descriptors[2].descriptors[1].rate_limit",
    }


@pytest.mark.parametrize("counters", ["memory", "redis"])
def test_limits_peek_and_reset_where_the_counters_are(
    tmp_path: Path, redis_url: str, start_mixer: Callable[..., Mixer], counters: str
) -> None:
    """Those in memory are the server's; for Redis none needs to run."""
    file = quota(
        tmp_path, counters=counters, redis={"url": redis_url, "timeout": "10s", "connect_timeout": "10s"}
    )
    mixer = start_mixer(file)
    alice = {"domain": "shop", "descriptors": [{"entries": [{"key": "user", "value": "alice=1"}]}]}
    for _ in range(3):
        assert http_call(connect(mixer.admin), "POST", "/json", json.dumps(alice))[0] == 200
    if counters == "redis":
        mixer.stop()
    peek = [
        "limit      per-user: 5 per day",
        f"from       {tmp_path}/limits.yaml: descriptors[0].rate_limit",
        "counter    shop|user=alice=1|",
        "used       3",
        "remaining  2",
    ]
    done = run("limits", "peek", "--config", file, "shop", "user=alice=1")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[:5] == peek
    assert re.fullmatch(r"reset      in \d+ s", done.stdout.splitlines()[5])
    done = run("limits", "reset", "--json", "--config", file, "shop", "user=alice=1")
    found = json.loads(done.stdout)
    assert (found["removed"], found["used"], found["remaining"]) == (3, 0, 5)
    done = run("limits", "reset", "--config", file, "shop", "user=alice=1")
    assert (done.returncode, done.stdout.splitlines()[-1]) == (0, "removed    0")


@pytest.mark.parametrize("counters", ["memory", "redis"])
def test_limits_peek_and_reset_of_a_limit_from_rego(
    tmp_path: Path, redis_url: str, start_mixer: Callable[..., Mixer], counters: str
) -> None:
    limit = '{"key": ["plan", "gold"], "requests_per_unit": 5, "unit": "day", "name": "by-plan"}'
    (tmp_path / "shop.rego").write_text(f"package shop\n\nlimits := [{limit}]\n")
    redis = {"url": redis_url, "timeout": "10s", "connect_timeout": "10s"}
    file = quota(tmp_path, counters=counters, redis=redis, decision="shop/limits")
    policy = {"paths": ["shop.rego"], "decision": "shop/limits"}
    file.write_text(json.dumps({**json.loads(file.read_text()), "policy": policy}))
    mixer = start_mixer(file)
    asked = {"domain": "shop", "descriptors": [{"entries": [{"key": "nobody", "value": "a"}]}]}
    for _ in range(3):
        assert http_call(connect(mixer.admin), "POST", "/json", json.dumps(asked))[0] == 200
    done = run("limits", "peek", "--config", file, "--limit", limit)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[:5] == [
        "limit      by-plan: 5 per day",
        "from       --limit",
        "counter    |86400|plan|gold|",
        "used       3",
        "remaining  2",
    ]
    done = run("limits", "reset", "--json", "--config", file, "--limit", limit)
    assert json.loads(done.stdout)["removed"] == 3
    done = run("limits", "peek", "--config", file, "--limit", '{"key": "a", "requests_per_unit": -1}')
    assert (done.returncode, done.stdout) == (1, "")
    assert "limits[0].requests_per_unit: expected" in done.stderr


@pytest.mark.parametrize(
    ("given", "code", "told"),
    [
        (("--limit", "{"), 2, "argument --limit: expected an object as JSON"),
        (("--limit", "[]"), 1, "expected a limit by itself as a policy writes it, an object with a key"),
        (("shop", "--limit", "{}"), 1, "expected DOMAIN KEY=VALUE …, or --limit JSON"),
        (("shop",), 1, "expected DOMAIN KEY=VALUE …, or --limit JSON"),
        (
            ("--limit", '{"key": "a", "algorithm": "concurrency", "requests_per_unit": 2, "lease": "5s"}'),
            1,
            "slots",
        ),
    ],
)
def test_limits_reset_says_what_it_is_to_be_given(
    tmp_path: Path, redis_url: str, given: tuple[str, ...], code: int, told: str
) -> None:
    file = quota(tmp_path, counters="redis", redis={"url": redis_url, "timeout": "10s"})
    done = run("limits", "reset", "--config", file, *given)
    assert (done.returncode, done.stdout) == (code, "")
    assert told in done.stderr


def test_limits_peek_of_what_no_limit_applies_to(tmp_path: Path, redis_url: str) -> None:
    file = quota(
        tmp_path, counters="redis", redis={"url": redis_url, "timeout": "10s", "connect_timeout": "10s"}
    )
    done = run("limits", "peek", "--config", file, "shop", "tenant=a", "nobody")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == 'mixer: no limit of domain "shop" applies to (tenant=a, nobody=)\n'


def test_limits_reset_says_where_counters_in_memory_are(tmp_path: Path) -> None:
    file = quota(tmp_path)
    done = run("limits", "reset", "--config", file, "shop", "user=a")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(
        "mixer: the counters are in the memory of the server; no Mixer answers on 127"
    )
    file.write_text(re.sub(r"127\.0\.0\.1:[1-9]\d+", "127.0.0.1:0", file.read_text()))
    done = run("limits", "reset", "--config", file, "shop", "user=a")
    assert "listeners.admin.address" in done.stderr


def test_limits_of_settings_without_any(folder: Path) -> None:
    (folder / "mixer.yaml").write_text("policy: {paths: [authz.rego]}\n")
    done = run("limits", "show", "--config", folder / "mixer.yaml")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"{folder}/mixer.yaml: rate_limits: there is none, so Quota is not served\n"
