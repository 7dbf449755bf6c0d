"""Mixer's own metrics: their names, their help, and that each is told what to do and is moved by something."""

import re
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

import mixer
from mixer import metrics
from mixer.metrics import Metrics

SOURCE = Path(metrics.__file__).read_text("utf-8")
ATTRIBUTES = sorted(set(vars(Metrics(CollectorRegistry()))) - {"registry"})


def test_each_name_is_ours_and_has_a_help() -> None:
    for family in Metrics(registry := CollectorRegistry()).registry.collect():
        assert family.name.startswith("mixer_")
        assert family.documentation.endswith(".")
    assert registry.get_sample_value("mixer_report_streams") == 0


def test_two_runtimes_count_apart() -> None:
    one, other = CollectorRegistry(), CollectorRegistry()
    Metrics(one).calls.labels("Check", "OK").inc()
    Metrics(other)
    labels = {"method": "Check", "code": "OK"}
    assert one.get_sample_value("mixer_calls_total", labels) == 1
    assert other.get_sample_value("mixer_calls_total", labels) is None


@pytest.mark.parametrize("attribute", ATTRIBUTES)
def test_each_says_what_to_do(attribute: str) -> None:
    before, found, _ = SOURCE.partition(f"        self.{attribute} = ")
    assert found
    block = before.rpartition("\n\n")[2]
    assert "        # " in block


@pytest.mark.parametrize("attribute", ATTRIBUTES)
def test_each_is_moved_by_something(attribute: str) -> None:
    pattern = re.compile(rf"metrics\.{attribute}\b")
    modules = (file for file in Path(mixer.__file__).parent.rglob("*.py") if file.name != "metrics.py")
    assert any(pattern.search(file.read_text("utf-8")) for file in modules)
