"""What a limits file says, read from YAML."""

from pathlib import Path

import pytest
import structlog

from mixer.ratelimit.counters import SECOND, Rule
from mixer.ratelimit.limits import load
from mixer.ratelimit.tree import Limit
from tests.ratelimit.files import Entry, limits_of


def only(content: str) -> Limit:
    """The one limit of a domain `d`."""
    (limit,) = limits_of(content).domains["d"].limits()
    return limit


def limit_with(rate_limit: str, descriptor: str = "key: a") -> Limit:
    return only(f"domain: d\ndescriptors:\n- {{{descriptor}, rate_limit: {{{rate_limit}}}}}\n")


@pytest.mark.parametrize(
    ("unit", "number"),
    [("second", 1), ("Minute", 2), ("HOUR", 3), ("day", 4), ("week", 7), ("month", 5), ("year", 6)],
)
def test_unit_is_read_in_any_case(unit: str, number: int) -> None:
    assert limit_with(f"unit: {unit}").unit == number


@pytest.mark.parametrize(
    ("rate", "number"),
    [("5", 5), ("0x10", 16), ("1_000", 1000), ("010", 8), ("~", 0), ("4294967295", 2**32 - 1)],
)
def test_rate_is_read_as_yaml_v2_reads_it(rate: str, number: int) -> None:
    assert limit_with(f"unit: day, requests_per_unit: {rate}").requests_per_unit == number


@pytest.mark.parametrize(
    ("terms", "rule"),
    [
        ("unit: minute, requests_per_unit: 5", Rule(5, 60 * SECOND)),
        ("window: 30s, requests_per_unit: 5", Rule(5, 30 * SECOND)),
        ("window: 2h, requests_per_unit: 5, lot: 2", Rule(5, 7200 * SECOND, lot=2)),
        ("unit: day, count_over_limit: no", Rule(0, 86400 * SECOND, counts_over=False)),
        (
            "algorithm: sliding_window, window: 7d, requests_per_unit: 5",
            Rule(5, 7 * 86400 * SECOND, "sliding_window", counts_over=False),
        ),
        (
            "algorithm: token_bucket, unit: second, requests_per_unit: 5, burst: 9, count_over_limit: yes",
            Rule(5, SECOND, "token_bucket", burst=9),
        ),
        (
            "algorithm: concurrency, requests_per_unit: 5, lease: 5m",
            Rule(5, 300 * SECOND, "concurrency", counts_over=False),
        ),
    ],
)
def test_rule_is_what_the_limit_says(terms: str, rule: Rule) -> None:
    assert limit_with(terms).rule == rule


def test_hits_beyond_a_fixed_window_count_as_the_settings_say(tmp_path: Path) -> None:
    file = tmp_path / "a.yaml"
    file.write_text(
        "domain: d\ndescriptors:\n"
        "- {key: a, rate_limit: {unit: day}}\n"
        "- {key: b, rate_limit: {unit: day, count_over_limit: true}}\n"
        "- {key: c, rate_limit: {unit: day, algorithm: sliding_window}}\n"
    )

    def counts_over(**settings: bool) -> list[bool]:
        domain = load([file], **settings).domains["d"]
        override, _ = domain.override([Entry("a", "x")], 5, 2)
        rules = [limit.rule for limit in (*domain.limits(), override)]
        return [rule.counts_over for rule in rules if rule is not None]

    assert counts_over() == [True, True, False, True]
    assert counts_over(counts_over=False) == [False, True, False, False]


def test_rate_that_is_missing_is_zero() -> None:
    assert limit_with("unit: day").requests_per_unit == 0


def test_unlimited_needs_no_unit() -> None:
    limit = limit_with("unlimited: true")
    assert (limit.unlimited, limit.unit) == (True, 0)


def test_name_replaces_and_metadata_are_kept() -> None:
    limit = limit_with(
        "unit: day, name: n, replaces: [{name: x}, {name: y}]",
        "key: a, metadata: {team: core, tags: [1, {a: null}]}",
    )
    assert limit.name == limit.label == "n"
    assert limit.replaces == {"x", "y"}
    assert limit.metadata == {"team": "core", "tags": [1, {"a": None}]}


def test_modes_are_off_unless_set() -> None:
    assert not limit_with("unit: day").shadow_mode
    assert not limit_with("unit: day").quota_mode
    limit = limit_with("unit: day", "key: a, shadow_mode: yes, quota_mode: on")
    assert limit.shadow_mode
    assert limit.quota_mode


def test_label_of_a_limit_without_a_name_is_its_place() -> None:
    content = (
        "domain: d\ndescriptors: [{key: a, value: x*, descriptors: [{key: b, rate_limit: {unit: day}}]}]\n"
    )
    assert only(content).label == "d.a_x*.b"


@pytest.mark.parametrize("value", ["5", "0x10", "1_000", "true", "y", "2024-01-01", "1:30"])
def test_value_without_quotes_is_the_text_in_the_file(value: str) -> None:
    limits = limits_of(f"domain: d\ndescriptors: [{{key: a, value: {value}, rate_limit: {{unit: day}}}}]\n")
    assert limits.domains["d"].match([Entry("a", value)]) is not None


def test_metric_flags_say_which_values_statistics_are_kept_by() -> None:
    limits = limits_of("""\
domain: d
descriptors:
- {key: a, rate_limit: {unit: day}}
- {key: b, detailed_metric: true, rate_limit: {unit: day}}
- key: c
  value_to_metric: true
  descriptors: [{key: e, rate_limit: {unit: day}}]
- {key: w, value: 'x*', value_to_metric: true, rate_limit: {unit: day}}
- {key: s, value: 'x*', share_threshold: true, detailed_metric: true, rate_limit: {unit: day}}
""")
    domain = limits.domains["d"]

    def label(*pairs: tuple[str, str]) -> str:
        entries = [Entry(*pair) for pair in pairs]
        match = domain.match(entries)
        assert match is not None
        return domain.metric_label(entries, match[0])

    assert limits.warnings == ()
    assert label(("a", "1")) == "d.a"
    assert label(("b", "1")) == "d.b_1"
    assert label(("c", "1"), ("e", "2")) == "d.c_1.e"
    assert label(("w", "x1")) == "d.w_x1"
    assert label(("s", "x1")) == "d.s_x*"


def test_key_with_underscore_is_no_duplicate_of_key_and_value() -> None:
    content = """\
domain: d
descriptors:
- {key: a_b, rate_limit: {unit: day, name: one}}
- {key: a, value: b, rate_limit: {unit: day, name: two}}
"""
    assert [limit.name for limit in limits_of(content).domains["d"].limits()] == ["one", "two"]


def test_folder_means_its_yaml_files_by_name(tmp_path: Path) -> None:
    for name, domain in {"b.yml": "two", "a.yaml": "one", "c.txt": "three", "d.YAML": "four"}.items():
        (tmp_path / name).write_text(f"domain: {domain}\n")
    (tmp_path / "e.yaml").mkdir()
    assert list(load([tmp_path]).domains) == ["one", "two"]


def test_merged_files_are_searched_in_their_order() -> None:
    first = "domain: d\ndescriptors: [{key: a, value: x*, rate_limit: {unit: day, name: first}}]\n"
    second = "domain: d\ndescriptors: [{key: a, value: '*y', rate_limit: {unit: day, name: second}}]\n"
    domain = limits_of(first, second, merge_domain_config=True).domains["d"]
    names = []
    for value in ("xy", "zy"):
        match = domain.match([Entry("a", value)])
        names.append(match and match[0].name)
    assert names == ["first", "second"]


def test_summary_counts_limits_by_domain() -> None:
    content = "domain: {}\ndescriptors: [{{key: a, rate_limit: {{unit: day}}, descriptors: [{{key: b}}]}}]\n"
    limits = limits_of(content.format("shop"), content.format("api"))
    assert limits.summary() == "limits by domain: api (1), shop (1)"


WARNINGS = {
    "second document": (
        "domain: d\n---\ndomain: e\n",
        "a.yaml: only the first YAML document of a file is read; the rest after --- is ignored",
    ),
    "key in the wrong place": (
        "domain: d\ndescriptors: [{key: a, unit: day}]\n",
        "a.yaml: descriptors[0].unit: has no meaning here and is ignored; known here: key, value, rate_limit, "
        "descriptors, shadow_mode, quota_mode, detailed_metric, value_to_metric, share_threshold, metadata",
    ),
    "metadata in the wrong place": (
        "domain: d\nmetadata: {whatever: 1.5}\n",
        "a.yaml: metadata: has no meaning here and is ignored; known here: domain, descriptors",
    ),
    "key given twice": (
        "domain: d\ndescriptors: [{key: a, value: x, value: y}]\n",
        "a.yaml: descriptors[0].value: is given twice; the last one counts",
    ),
    "mode without a limit": (
        "domain: d\ndescriptors: [{key: a, shadow_mode: true}]\n",
        "a.yaml: descriptors[0].shadow_mode: changes nothing without a rate_limit beside it",
    ),
    "rate of an unlimited one": (
        "domain: d\ndescriptors: [{key: a, rate_limit: {unlimited: true, requests_per_unit: 5}}]\n",
        "a.yaml: descriptors[0].rate_limit.requests_per_unit: changes nothing beside unlimited: true",
    ),
    "replaces what is not there": (
        "domain: d\ndescriptors: [{key: a, rate_limit: {unit: day, replaces: [{name: x}]}}]\n",
        'a.yaml: descriptors[0].rate_limit.replaces[0].name: no limit of domain "d" is named "x"',
    ),
}


@pytest.mark.parametrize(("content", "message"), WARNINGS.values(), ids=WARNINGS)
def test_what_has_no_effect_is_a_warning(content: str, message: str) -> None:
    with structlog.testing.capture_logs() as logged:
        (warning,) = limits_of(content).warnings
    assert str(warning).endswith(f"/{message}")
    (event,) = [event for event in logged if event["event"] == "limits_warning"]
    assert event["message"] == warning.expected


def test_rate_limit_given_twice_is_merged() -> None:
    limit = only("""\
domain: d
descriptors:
- key: a
  rate_limit: {unit: day, requests_per_unit: 5}
  rate_limit: {requests_per_unit: 7}
""")
    assert (limit.unit, limit.requests_per_unit) == (4, 7)


def test_merge_key_takes_defaults_from_an_anchor_without_a_warning() -> None:
    limits = limits_of("""\
domain: d
descriptors:
- key: a
  rate_limit: &hourly {unit: hour, requests_per_unit: 5}
- key: b
  rate_limit:
    <<: *hourly
    requests_per_unit: 7
""")
    assert [(limit.unit, limit.requests_per_unit) for limit in limits.domains["d"].limits()] == [
        (3, 5),
        (3, 7),
    ]
    assert limits.warnings == ()


def test_the_demo_s_limits_load_without_a_warning() -> None:
    limits = load([Path(__file__).parents[2] / "policies" / "limits"])
    assert limits.summary() == "limits by domain: mixer-demo (3)"
    assert limits.warnings == ()
