"""`/config`: what is in use, in the words of the settings file, and no secret."""

import json
from pathlib import Path

import aiohttp
import pytest
import yaml
from prometheus_client import CollectorRegistry

from mixer import config
from mixer.admin import settings
from mixer.admin.server import AdminServer
from mixer.plain import plain
from tests.admin.test_server import Admin
from tests.loop import on_loop

DEPLOYED = Path(__file__).parents[2] / "deploy" / "mixer.yaml"

SECRET = """
policy:
  engine: opa
  opa: {url: "http://user:s3cret-opa@opa:8181", token: s3cret-token, push: true}
  paths: [policies]
  shadow:
    bundles:
      - {name: a, url: "https://bundles/a.tar.gz?sig=s3cret-sig&v=1", token: s3cret-bundle}
  keys: [{id: k, algorithm: HS256, key: s3cret-key}]
rate_limits:
  paths: [limits]
  counters: redis
  redis:
    mode: sentinel
    url: "rediss://mixer:s3cret/redis@h:6379/0?ssl_password=s3cret-parameter"
    sentinel: {master: m, urls: ["redis://:s3cret-sentinel@s:26379"]}
telemetry:
  sinks:
    - type: kafka
      bootstrap_servers: [a]
      sasl: {mechanism: PLAIN, username: u, password: s3cret-sasl}
"""


def load(folder: Path, text: str) -> config.Config:
    file = folder / "mixer.yaml"
    file.write_text(text)
    return config.load(file, {})


@pytest.mark.parametrize("text", ["", DEPLOYED.read_text(), "policy: {paths: [a], cache: off}"])
def test_what_is_shown_is_a_settings_file_with_the_same_meaning(tmp_path: Path, text: str) -> None:
    loaded = load(tmp_path, text)
    shown = plain(loaded)
    assert load(tmp_path, yaml.safe_dump(shown)) == loaded
    assert load(tmp_path, json.dumps(shown)) == loaded


@pytest.mark.parametrize("text", [SECRET, DEPLOYED.read_text()])
def test_with_its_secrets_it_is_the_same_settings(tmp_path: Path, text: str) -> None:
    loaded = load(tmp_path, text)
    shown = plain(loaded, secrets=True)
    assert config.Config.model_validate(shown).model_dump() == loaded.model_dump()
    assert load(tmp_path, json.dumps(shown)) == loaded


def test_defaults_are_shown_and_durations_have_their_unit(tmp_path: Path) -> None:
    shown = plain(load(tmp_path, "rate_limits: {paths: [a]}"))
    assert shown["drain_timeout"] == "10s"
    assert shown["rate_limits"]["redis"]["timeout"] == "500ms"
    assert shown["listeners"]["check"] == {
        **{"address": "127.0.0.1:9191", "addresses": [], "server": "asyncio"},
        "overload": {"code": "UNAVAILABLE", "max_in_flight": 10_000},
    }
    assert "policy" not in shown


def test_no_secret_is_shown(tmp_path: Path) -> None:
    loaded = load(tmp_path, SECRET)
    shown = plain(loaded)
    assert "s3cret" not in json.dumps(shown)
    assert shown["policy"]["opa"]["url"] == "http://REDACTED@opa:8181"
    assert shown["policy"]["opa"]["token"] == "REDACTED"
    assert shown["policy"]["shadow"]["bundles"][0]["url"] == "https://bundles/a.tar.gz?sig=REDACTED&v=1"
    assert shown["rate_limits"]["redis"]["url"] == "rediss://REDACTED@h:6379/0?ssl_password=REDACTED"
    assert shown["telemetry"]["sinks"][0]["sasl"]["username"] == "u"


@on_loop
async def test_config_answers_as_yaml_or_json_and_only_to_this_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = load(tmp_path, SECRET)
    pages = [settings.page(lambda: loaded)]
    server = AdminServer("127.0.0.1:0", CollectorRegistry(), Admin().not_ready, list, pages=lambda: pages)
    await server.start()
    try:
        async with aiohttp.ClientSession() as session:
            async with session.get(f"http://{server.address}/config") as answer:
                assert answer.content_type == "application/yaml"
                assert yaml.safe_load(await answer.text()) == plain(loaded)
            headers = {"accept": "application/json"}
            async with session.get(f"http://{server.address}/config", headers=headers) as answer:
                assert await answer.json() == plain(loaded)
            monkeypatch.setattr("mixer.admin.near.is_near", lambda remote: remote != "127.0.0.1")
            async with session.get(f"http://{server.address}/config") as answer:
                assert (answer.status, await answer.text()) == (
                    403,
                    "only for callers on this machine: 127.0.0.1 or ::1\n",
                )
    finally:
        await server.close()
