"""Alerts and dashboards ask for what Mixer shows, and each alert has its page in the runbook."""

import re
import subprocess
from pathlib import Path
from typing import Any

import promql_parser
import pytest
import yaml

from tests.components import binaries
from tests.deploy.promql import answered, asked, grouped

FOLDER = Path(__file__).parents[2] / "deploy" / "prometheus"
GROUPS = yaml.safe_load((FOLDER / "rules.yaml").read_text())["groups"]
RULES: list[dict[str, Any]] = [rule for group in GROUPS for rule in group["rules"]]
RECORDED = {rule["record"]: rule["expr"] for rule in RULES if "record" in rule}
ALERTS = {rule["alert"]: rule for rule in RULES if "alert" in rule}
NAMES = [rule.get("alert") or rule["record"] for rule in RULES]
SECTIONS = dict(re.findall(r"^## (\w+)\n(.*?)(?=^#|\Z)", (FOLDER / "runbook.md").read_text(), re.M | re.S))
ANSWERED = answered()


def given(name: str) -> frozenset[str] | set[str]:
    """The labels of a metric, recorded or Mixer's own."""
    if name in RECORDED:
        if by := grouped(RECORDED[name]):
            return by - {"le"}
        (first, *_) = asked(RECORDED[name])
        return given(first.name)
    assert name in ANSWERED, f"nothing shows {name}"
    return ANSWERED[name]


def assert_answered(expression: str) -> None:
    """All that it selects exists, with the labels it is selected and grouped by."""
    selected = asked(expression)
    for one in selected:
        assert one.labels <= given(one.name), f"{one.name} has no {sorted(one.labels - given(one.name))}"
    known = set().union(*(given(one.name) for one in selected))
    assert grouped(expression) <= known, f"{expression} groups by {sorted(grouped(expression) - known)}"


@pytest.mark.parametrize("rule", RULES, ids=NAMES)
def test_each_rule_asks_for_what_is_there(rule: dict[str, Any]) -> None:
    assert_answered(rule["expr"])


def test_names_are_given_once() -> None:
    assert len(set(NAMES)) == len(NAMES)
    assert len({group["name"] for group in GROUPS}) == len(GROUPS)


@pytest.mark.parametrize("name", ALERTS)
def test_each_alert_says_what_it_is_and_where_help_is(name: str) -> None:
    alert = ALERTS[name]
    assert alert["labels"]["severity"] in ("critical", "warning", "info")
    assert alert["annotations"].keys() == {"summary", "description", "runbook"}
    assert alert["annotations"]["runbook"] == f"runbook.md#{name.lower()}"
    assert all(alert["annotations"].values())
    promql_parser.parse_duration(alert.get("for", "1s"))


@pytest.mark.parametrize("name", ALERTS)
def test_each_label_in_an_alerts_text_is_one_that_it_has(name: str) -> None:
    alert = ALERTS[name]
    named = set(re.findall(r"\$labels\.(\w+)", " ".join(alert["annotations"].values())))
    (first, *_) = asked(alert["expr"])
    assert named <= (grouped(alert["expr"]) or set(given(first.name)))


def test_the_runbook_has_a_section_for_each_alert_and_no_other() -> None:
    assert SECTIONS.keys() == ALERTS.keys()
    for name, section in SECTIONS.items():
        assert re.findall(r"^- \*\*(\w+)\.\*\* ", section, re.M) == ["Means", "See", "Do"], name


def test_the_runbooks_links_lead_somewhere() -> None:
    links = re.findall(r"\]\(#(\w+)\)", (FOLDER / "runbook.md").read_text())
    assert links
    assert set(links) <= {name.lower() for name in SECTIONS}


def test_what_the_runbook_names_is_there() -> None:
    text = (FOLDER / "runbook.md").read_text()
    for name in re.findall(r"`(?:rate\()?((?:mixer|istio)_[a-z]+_[a-z_]+)", text):
        assert any(name in (sample, sample.removesuffix("_total")) for sample in ANSWERED), name
    for expression in re.findall(r"`((?:sum|count|rate)\b[^`]+)`", text):
        assert_answered(expression)


def test_the_example_scrapes_by_the_name_that_rules_go_by() -> None:
    prometheus = yaml.safe_load((FOLDER / "prometheus.yaml").read_text())
    assert [job["job_name"] for job in prometheus["scrape_configs"]] == ["mixer"]
    assert prometheus["rule_files"] == ["rules.yaml"]


def test_the_alerts_fire_when_their_examples_say_so() -> None:
    promtool = binaries.prometheus().with_name("promtool")
    done = subprocess.run(
        [promtool, "test", "rules", "rules_test.yaml"],
        cwd=FOLDER,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
