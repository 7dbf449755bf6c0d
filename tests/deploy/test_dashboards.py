"""Grafana's dashboards: every expression is PromQL over what Mixer shows, and every panel says what it is."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.deploy.test_rules import assert_answered

FOLDER = Path(__file__).parents[2] / "deploy" / "grafana"
DASHBOARDS = {
    file.stem: json.loads(file.read_text()) for file in sorted((FOLDER / "dashboards").glob("*.json"))
}
PANELS = {
    f"{name}: {panel['title']}": panel
    for name, dashboard in DASHBOARDS.items()
    for panel in dashboard["panels"]
}
# Grafana's own names of units.
UNITS = {"reqps", "percentunit", "ms", "s", "short", "bytes", "Bps", "cps"}
COLUMNS = 24


def expressions(panel: dict[str, Any]) -> list[str]:
    """With a value in the place of each of Grafana's variables that no PromQL string holds."""
    return [target["expr"].replace("$__rate_interval", "5m") for target in panel["targets"]]


def test_there_are_dashboards_and_each_has_a_name_of_its_own() -> None:
    assert len({dashboard["uid"] for dashboard in DASHBOARDS.values()}) == len(DASHBOARDS) == 3
    assert all(dashboard["title"] and dashboard["description"] for dashboard in DASHBOARDS.values())
    assert len(PANELS) == sum(len(dashboard["panels"]) for dashboard in DASHBOARDS.values())


@pytest.mark.parametrize("name", PANELS)
def test_each_panel_asks_for_what_is_there(name: str) -> None:
    assert PANELS[name]["targets"]
    for expression in expressions(PANELS[name]):
        assert_answered(expression)


@pytest.mark.parametrize("name", PANELS)
def test_each_panel_has_a_unit_and_says_what_it_shows(name: str) -> None:
    panel = PANELS[name]
    assert panel["fieldConfig"]["defaults"]["unit"] in UNITS
    assert panel["description"].endswith(".")
    assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
    assert len({target["refId"] for target in panel["targets"]}) == len(panel["targets"])


@pytest.mark.parametrize("name", PANELS)
def test_a_quantile_keeps_the_bounds_of_its_buckets(name: str) -> None:
    for expression in expressions(PANELS[name]):
        assert ("_bucket" in expression) == ("le)" in expression)


@pytest.mark.parametrize("dashboard", DASHBOARDS.values(), ids=list(DASHBOARDS))
def test_panels_fill_their_rows_and_none_lies_over_another(dashboard: dict[str, Any]) -> None:
    taken: set[tuple[int, int]] = set()
    for panel in dashboard["panels"]:
        at = panel["gridPos"]
        cells = {(at["x"] + x, at["y"] + y) for x in range(at["w"]) for y in range(at["h"])}
        assert not cells & taken, panel["title"]
        taken |= cells
    height = max(y for _, y in taken) + 1
    assert taken == {(x, y) for x in range(COLUMNS) for y in range(height)}
    ids = [panel["id"] for panel in dashboard["panels"]]
    assert len(set(ids)) == len(ids)


@pytest.mark.parametrize("dashboard", DASHBOARDS.values(), ids=list(DASHBOARDS))
def test_each_variable_is_used_and_each_that_is_used_is_there(dashboard: dict[str, Any]) -> None:
    variables = {each["name"] for each in dashboard["templating"]["list"]} - {"datasource"}
    text = " ".join(expression for panel in dashboard["panels"] for expression in expressions(panel))
    used = {word.partition('"')[0] for word in text.split("$")[1:]}
    assert used == variables
    for each in dashboard["templating"]["list"]:
        if each["type"] == "query":
            metric, _, label = each["query"].removeprefix("label_values(").removesuffix(")").partition(", ")
            assert_answered(f"sum by ({label}) ({metric})")


def test_provisioning_names_what_is_there() -> None:
    provisioning = FOLDER / "provisioning"
    (source,) = yaml.safe_load((provisioning / "datasources" / "prometheus.yaml").read_text())["datasources"]
    assert source["type"] == "prometheus"
    (provider,) = yaml.safe_load((provisioning / "dashboards" / "mixer.yaml").read_text())["providers"]
    assert Path(provider["options"]["path"]).name == "dashboards"
