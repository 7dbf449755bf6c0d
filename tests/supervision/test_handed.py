"""A worker serves by just what the supervisor has loaded."""

from pathlib import Path

import orjson
import pytest

from mixer import config, loaded
from mixer.plain import plain
from mixer.supervision import messages
from mixer.supervision.messages import Start

DEPLOY = Path(__file__).parents[2] / "deploy"
SETTINGS = """
policy:
  paths: [policies]
  decisions: {admin: p/admin}
  cache: off
  max_evaluation: 35ms
  keys: [{id: k, algorithm: HS256, key: "äö secret"}]
rate_limits:
  paths: [limits]
  counters: redis
  redis: {url: "redis://:p%40ss@127.0.0.1:6379/1"}
  local_cache: off
telemetry:
  sinks: [{type: file, path: records.jsonl}]
"""
LIMITS = "domain: d\ndescriptors:\n  - key: ä\n    rate_limit: {unit: hour, requests_per_unit: 3}\n"


def handed_over(files: loaded.Loaded) -> loaded.Loaded:
    message = messages.start(Start("check", 0, files, "/run/a.sock", 0.25, {"check": [5, 6]}))
    return messages.started(message[4:]).files


@pytest.fixture
def files(tmp_path: Path) -> loaded.Loaded:
    (tmp_path / "policies").mkdir()
    (tmp_path / "policies" / "p.rego").write_text("package p\nadmin := true\nallow := data.ä", "utf-8")
    (tmp_path / "policies" / "data.json").write_text(
        '{"ä": [1, 1.5, -9223372036854775808, null, {"b": "\\u0000"}]}'
    )
    (tmp_path / "limits").mkdir()
    (tmp_path / "limits" / "d.yaml").write_text(LIMITS, "utf-16")
    (tmp_path / "mixer.yaml").write_text(SETTINGS, "utf-8")
    return loaded.load(tmp_path / "mixer.yaml")


def test_settings_policies_and_data_are_the_same(files: loaded.Loaded) -> None:
    got = handed_over(files)
    assert got.settings == files.settings
    assert got.settings.file == files.settings.file
    assert (got.revision, got.digest, got.sources) == (files.revision, files.digest, files.sources)


def test_limits_are_made_of_the_same_texts(files: loaded.Loaded) -> None:
    got = handed_over(files)
    assert got.limits is not None
    assert files.limits is not None
    assert got.limits.files == files.limits.files
    assert got.limits.summary() == files.limits.summary() == "limits by domain: d (1)"


def test_without_what_the_files_say(files: loaded.Loaded) -> None:
    got = handed_over(files.bare())
    assert got.sources is None
    assert got.limits is None
    assert got.settings == files.settings


def test_an_order_carries_files_or_none(files: loaded.Loaded) -> None:
    assert messages.ordered(messages.order("retire")[4:]) == ("retire", None)
    what, got = messages.ordered(messages.order("prepare", files)[4:])
    assert what == "prepare"
    assert got is not None
    assert got.sources == files.sources


@pytest.mark.parametrize("file", ["mixer.yaml", "compose/mixer.yaml", "kubernetes/mixer.yaml"])
def test_settings_of_deployments_are_the_same_from_their_plain_values(
    file: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("MIXER_REDIS_URL", "MIXER_KAFKA"):
        monkeypatch.setenv(name, "redis://127.0.0.1:6379/0")
    settings = config.load(DEPLOY / file)
    values = orjson.loads(orjson.dumps(plain(settings, secrets=True)))
    assert config.of_values(values, settings.file) == settings
