"""Each mistake in a limits file, and the message that names it: file, place, expected, got."""

from pathlib import Path

import pytest

from mixer.errors import LimitsError
from mixer.ratelimit.limits import load

ONE = """\
domain: d
descriptors:
- key: a
  rate_limit: {unit: minute, requests_per_unit: 5}
"""

# The name of the mistake, the file, and the whole message after the folder.
MISTAKES = {
    "not YAML": ("domain: [d\n", "a.yaml: line 2: is not usable YAML: did not find expected ',' or ']'"),
    "control character": (
        "domain: \x01",
        "a.yaml: is not usable YAML: unacceptable character #x0001: control characters are not allowed"
        '   in "<byte string>", position 8',
    ),
    "alias without anchor": (
        "domain: *d\n",
        'a.yaml: line 1: is not usable YAML: alias "*d" has no anchor before it',
    ),
    "alias in itself": (
        "domain: d\ndescriptors: &x\n- key: a\n  descriptors: *x\n",
        'a.yaml: line 4: is not usable YAML: alias "*x" stands inside its own anchor',
    ),
    "too deep": ("[" * 300, "a.yaml: line 1: is not usable YAML: is nested deeper than 200 levels"),
    "too large": (
        "a: &a [x,x,x,x,x,x,x,x,x,x]\n"
        + "".join(
            f"{b}: &{b} [{','.join([f'*{a}'] * 10)}]\n" for a, b in zip("abcdef", "bcdefg", strict=True)
        ),
        "a.yaml: line 6: is not usable YAML: expands to more than 1,000,000 nodes through its aliases",
    ),
    "merge of text": (
        "domain: d\n<<: text\n",
        'a.yaml: line 2: is not usable YAML: "<<" takes a mapping or a list of mappings',
    ),
    "tag that is not true": (
        "domain: !!int d\n",
        "a.yaml: line 1: is not usable YAML: `d` is tagged !!int, which it is not",
    ),
    "time that is none": (
        "domain: !!timestamp d\n",
        "a.yaml: line 1: is not usable YAML: `d` is tagged !!timestamp, which it is not",
    ),
    "YAML of another version": (
        "%YAML 1.2\n---\ndomain: d\n",
        "a.yaml: line 1: is not usable YAML: %YAML: expected 1.1, as envoyproxy/ratelimit reads it, got 1.2",
    ),
    "no binary": (
        "domain: !!binary ä\n",
        "a.yaml: line 1: is not usable YAML: !!binary without base64 of UTF-8 text",
    ),
    "no mapping": ("- a\n", "a.yaml: expected a mapping with domain and descriptors, got a list"),
    "empty file": ("", "a.yaml: domain: expected a name, got nothing"),
    "domain that is a list": ("domain: [d]\n", "a.yaml: domain: expected text, got a list"),
    "descriptors that are a mapping": (
        "domain: d\ndescriptors: {key: a}\n",
        "a.yaml: descriptors: expected a list of mappings with key, got a mapping",
    ),
    "descriptor that is text": (
        "domain: d\ndescriptors: [a]\n",
        "a.yaml: descriptors[0]: expected a mapping with key, got a",
    ),
    "no key": (
        "domain: d\ndescriptors:\n- value: x\n",
        "a.yaml: descriptors[0].key: expected a name, got nothing",
    ),
    "unknown key with a guess": (
        "domain: d\ndescriptors:\n- key: a\n  rate_limits: {}\n",
        'a.yaml: descriptors[0].rate_limits: unknown key; did you mean "rate_limit"?',
    ),
    "unknown key": (
        "domain: d\nlimits: []\n",
        "a.yaml: limits: unknown key; known here: domain, descriptors",
    ),
    "unknown key below one that is ignored": (
        "domain: d\nrate_limit: {units: hour}\n",
        'a.yaml: rate_limit.units: unknown key; did you mean "unit"?',
    ),
    "text in a list that is ignored": (
        "domain: d\nreplaces: [n]\n",
        "a.yaml: replaces[0]: expected a mapping, got n",
    ),
    "key that is no text": (
        "domain: d\nyes: 1\n",
        "a.yaml: expected one of the keys domain, descriptors, got the key yes",
    ),
    "value with a fraction": (
        "domain: d\ndescriptors:\n- {key: a, value: 1.0}\n",
        'a.yaml: descriptors[0].value: expected text in quotes ("1.0"), got 1.0, '
        "which YAML reads as a number with a fraction",
    ),
    "value beyond 64 bits": (
        "domain: d\ndescriptors:\n- {key: a, value: 18446744073709551615}\n",
        'a.yaml: descriptors[0].value: expected text in quotes ("18446744073709551615"), '
        "got 18446744073709551615, which YAML reads as a number beyond 64 bits",
    ),
    "value that is a list": (
        "domain: d\ndescriptors:\n- {key: a, value: [x]}\n",
        "a.yaml: descriptors[0].value: expected text, got a list",
    ),
    "flag in words": (
        "domain: d\ndescriptors:\n- {key: a, shadow_mode: 'true'}\n",
        'a.yaml: descriptors[0].shadow_mode: expected true or false, got "true"',
    ),
    "metadata that is text": (
        "domain: d\ndescriptors:\n- {key: a, metadata: m}\n",
        "a.yaml: descriptors[0].metadata: expected a mapping, got m",
    ),
    "rate_limit that is a number": (
        "domain: d\ndescriptors:\n- {key: a, rate_limit: 5}\n",
        "a.yaml: descriptors[0].rate_limit: expected a mapping with unit, requests_per_unit, unlimited, "
        "name, replaces, algorithm, window, burst, lease, count_over_limit, lot, on_error, got 5",
    ),
    "no unit": (
        "domain: d\ndescriptors:\n- {key: a, rate_limit: {requests_per_unit: 5}}\n",
        "a.yaml: descriptors[0].rate_limit.unit: expected second, minute, hour, day, week, month or year, "
        "got nothing",
    ),
    "unknown unit": (
        "domain: d\ndescriptors:\n- {key: a, rate_limit: {unit: fortnight}}\n",
        "a.yaml: descriptors[0].rate_limit.unit: expected second, minute, hour, day, week, month or year, "
        'got "fortnight"',
    ),
    "unit of an unlimited one": (
        "domain: d\ndescriptors:\n- {key: a, rate_limit: {unlimited: true, unit: day}}\n",
        "a.yaml: descriptors[0].rate_limit.unit: expected no unit beside unlimited: true, got day",
    ),
    "wrong kind of what is given twice": (
        "domain: d\ndescriptors:\n- {key: a, rate_limit: day, rate_limit: {unit: day}}\n",
        "a.yaml: descriptors[0].rate_limit: expected a mapping, got day",
    ),
    "wrong kind below what is given twice": (
        "domain: d\ndescriptors: [{key: [a]}]\ndescriptors: []\n",
        "a.yaml: descriptors[0].key: expected text, got a list",
    ),
    "unknown algorithm": (
        "domain: d\ndescriptors:\n- {key: a, rate_limit: {unit: day, algorithm: leaky}}\n",
        "a.yaml: descriptors[0].rate_limit.algorithm: expected fixed_window, sliding_window, token_bucket or "
        "concurrency, got leaky",
    ),
    "algorithm of an unlimited one": (
        "domain: d\ndescriptors:\n- {key: a, rate_limit: {unlimited: true, algorithm: token_bucket}}\n",
        "a.yaml: descriptors[0].rate_limit.algorithm: expected no algorithm beside unlimited: true, "
        "got token_bucket",
    ),
    "algorithm beside the rate_limit": (
        "domain: d\ndescriptors:\n- {key: a, algorithm: token_bucket, rate_limit: {unit: day}}\n",
        "a.yaml: descriptors[0].algorithm: has its place in a rate_limit",
    ),
    "unit and window": (
        "domain: d\ndescriptors:\n- {key: a, rate_limit: {unit: day, window: 30s}}\n",
        "a.yaml: descriptors[0].rate_limit.window: expected either unit or window, got both",
    ),
    "window without a unit of time": (
        "domain: d\ndescriptors:\n- {key: a, rate_limit: {window: 30}}\n",
        'a.yaml: descriptors[0].rate_limit.window: expected a duration such as "30s", "5m", "1h" or "7d", '
        "up to 366 days, got 30",
    ),
    "window of nothing": (
        "domain: d\ndescriptors:\n- {key: a, rate_limit: {window: 0s}}\n",
        'a.yaml: descriptors[0].rate_limit.window: expected a duration such as "30s", "5m", "1h" or "7d", '
        "up to 366 days, got 0s",
    ),
    "window of ages": (
        "domain: d\ndescriptors:\n- {key: a, rate_limit: {window: 367d}}\n",
        'a.yaml: descriptors[0].rate_limit.window: expected a duration such as "30s", "5m", "1h" or "7d", '
        "up to 366 days, got 367d",
    ),
    "burst of a window": (
        "domain: d\ndescriptors:\n- {key: a, rate_limit: {window: 1m, requests_per_unit: 5, burst: 3}}\n",
        "a.yaml: descriptors[0].rate_limit.burst: expected no burst beside algorithm: fixed_window, got 3",
    ),
    "burst of nothing": (
        "domain: d\ndescriptors:\n- key: a\n  rate_limit: {algorithm: token_bucket, window: 1m, "
        "requests_per_unit: 5, burst: 0}\n",
        "a.yaml: descriptors[0].rate_limit.burst: expected 1 to 4294967295, got 0",
    ),
    "burst that is never there again": (
        "domain: d\ndescriptors:\n- key: a\n  rate_limit: {algorithm: token_bucket, window: 366d, "
        "requests_per_unit: 1, burst: 1000}\n",
        "a.yaml: descriptors[0].rate_limit.burst: expected one that refills within 140 years, got 1000",
    ),
    "burst without a rate": (
        "domain: d\ndescriptors:\n- key: a\n  rate_limit: {algorithm: token_bucket, window: 1m, burst: 5}\n",
        "a.yaml: descriptors[0].rate_limit.burst: expected none beside a limit of 0, got 5",
    ),
    "slots without a lease": (
        "domain: d\ndescriptors:\n- {key: a, rate_limit: {algorithm: concurrency, requests_per_unit: 5}}\n",
        "a.yaml: descriptors[0].rate_limit.lease: expected how long a slot is held at most, got nothing",
    ),
    "slots by the minute": (
        "domain: d\ndescriptors:\n- {key: a, rate_limit: {algorithm: concurrency, lease: 1m, unit: minute}}\n",
        "a.yaml: descriptors[0].rate_limit.unit: expected no unit beside algorithm: concurrency, got minute",
    ),
    "slots of one request": (
        "domain: d\ndescriptors:\n- {key: a, value: x, rate_limit: {algorithm: concurrency, lease: 1m}}\n",
        "a.yaml: descriptors[0].value: expected no value beside algorithm: concurrency, for the entry's value "
        "is the id of the request, got x",
    ),
    "flag of a count in words": (
        "domain: d\ndescriptors:\n- {key: a, rate_limit: {unit: day, count_over_limit: never}}\n",
        "a.yaml: descriptors[0].rate_limit.count_over_limit: expected true or false, got never",
    ),
    "on_error of another kind": (
        "domain: d\ndescriptors:\n- {key: a, rate_limit: {unit: day, requests_per_unit: 5, on_error: pass}}\n",
        "a.yaml: descriptors[0].rate_limit.on_error: expected error, allow, deny or local, got pass",
    ),
    "a share of how many": (
        "domain: d\ndescriptors:\n- {key: a, rate_limit: {unit: day, requests_per_unit: 5, on_error: local}}\n",
        "a.yaml: descriptors[0].rate_limit.on_error: local needs rate_limits.instances, the number of Mixer "
        "processes that share the counters",
    ),
    "on_error of what is not counted": (
        "domain: d\ndescriptors:\n- {key: a, rate_limit: {unlimited: true, on_error: deny}}\n",
        "a.yaml: descriptors[0].rate_limit.on_error: expected no on_error beside unlimited: true, got deny",
    ),
    "lot beyond the limit": (
        "domain: d\ndescriptors:\n- {key: a, rate_limit: {unit: day, requests_per_unit: 5, lot: 6}}\n",
        "a.yaml: descriptors[0].rate_limit.lot: expected 1 to the limit of a fixed window, 5, got 6",
    ),
    "lot of a bucket": (
        "domain: d\ndescriptors:\n- key: a\n  rate_limit: {algorithm: token_bucket, unit: day, "
        "requests_per_unit: 5, lot: 2}\n",
        "a.yaml: descriptors[0].rate_limit.lot: expected no lot beside algorithm: token_bucket, got 2",
    ),
    "rate with a fraction": (
        "domain: d\ndescriptors:\n- {key: a, rate_limit: {unit: day, requests_per_unit: 5.0}}\n",
        "a.yaml: descriptors[0].rate_limit.requests_per_unit: expected a whole number from 0 to 4294967295, "
        "got 5.0",
    ),
    "rate in quotes": (
        "domain: d\ndescriptors:\n- {key: a, rate_limit: {unit: day, requests_per_unit: '5'}}\n",
        "a.yaml: descriptors[0].rate_limit.requests_per_unit: expected a whole number from 0 to 4294967295, "
        'got "5"',
    ),
    "rate below zero": (
        "domain: d\ndescriptors:\n- {key: a, rate_limit: {unit: day, requests_per_unit: -1}}\n",
        "a.yaml: descriptors[0].rate_limit.requests_per_unit: expected a whole number from 0 to 4294967295, "
        "got -1",
    ),
    "rate beyond 32 bits": (
        "domain: d\ndescriptors:\n- {key: a, rate_limit: {unit: day, requests_per_unit: 4294967296}}\n",
        "a.yaml: descriptors[0].rate_limit.requests_per_unit: expected a whole number from 0 to 4294967295, "
        "got 4294967296",
    ),
    "replaces without a name": (
        "domain: d\ndescriptors:\n- {key: a, rate_limit: {unit: day, replaces: [{}]}}\n",
        "a.yaml: descriptors[0].rate_limit.replaces[0].name: expected the name of a limit, got nothing",
    ),
    "replaces itself": (
        "domain: d\ndescriptors:\n- {key: a, rate_limit: {unit: day, name: n, replaces: [{name: n}]}}\n",
        "a.yaml: descriptors[0].rate_limit.replaces[0].name: expected the name of another limit, "
        'got "n", its own',
    ),
    "share_threshold without a wildcard": (
        "domain: d\ndescriptors:\n- {key: a, value: x, share_threshold: true}\n",
        "a.yaml: descriptors[0].share_threshold: expected a wildcard (*) in the value beside it, "
        'got the value "x"',
    ),
    "share_threshold without a value": (
        "domain: d\ndescriptors:\n- {key: a, share_threshold: true}\n",
        "a.yaml: descriptors[0].share_threshold: expected a wildcard (*) in the value beside it, got no value",
    ),
    "same key and value": (
        "domain: d\ndescriptors:\n- {key: a, value: x}\n- {key: a}\n- {key: a, value: x}\n",
        "a.yaml: descriptors[2]: expected a key and value not given before on this level, "
        'got key "a" with value "x", as at {folder}/a.yaml: descriptors[0]',
    ),
    "same key without a value, deeper": (
        "domain: d\ndescriptors:\n- key: a\n  descriptors: [{key: b}, {key: b}]\n",
        "a.yaml: descriptors[0].descriptors[1]: expected a key and value not given before on this level, "
        'got key "b" without a value, as at {folder}/a.yaml: descriptors[0].descriptors[0]',
    ),
}


@pytest.mark.parametrize(("content", "message"), MISTAKES.values(), ids=MISTAKES)
def test_mistake_is_named(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "a.yaml").write_text(content)
    with pytest.raises(LimitsError) as caught:
        load([tmp_path / "a.yaml"])
    assert str(caught.value) == f"{tmp_path}/{message.replace('{folder}', str(tmp_path))}"


def test_all_mistakes_of_all_files_are_named_at_once(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(
        "domain: d\ndescriptors:\n- {key: a, rate_limit: {unit: x, requests_per_unit: y}}\n"
    )
    (tmp_path / "b.yml").write_text("descriptors: 5\n")
    (tmp_path / "c.yaml").write_text("[")
    with pytest.raises(LimitsError) as caught:
        load([tmp_path])
    places = [(Path(problem.file).name, problem.path) for problem in caught.value.problems]
    assert sorted(places) == [
        ("a.yaml", "descriptors[0].rate_limit.requests_per_unit"),
        ("a.yaml", "descriptors[0].rate_limit.unit"),
        ("b.yml", "descriptors"),
        ("b.yml", "domain"),
        ("c.yaml", "line 2"),
    ]


def test_domain_of_two_files_is_a_mistake_that_names_both(tmp_path: Path) -> None:
    for name in ("a.yaml", "b.yaml"):
        (tmp_path / name).write_text(ONE)
    with pytest.raises(LimitsError) as caught:
        load([tmp_path])
    assert str(caught.value) == (
        f"{tmp_path}/b.yaml: domain: expected a domain that no other file has "
        f'(or rate_limits.merge_domain_config: true), got "d", as in {tmp_path}/a.yaml'
    )


def test_descriptor_of_two_merged_files_is_a_mistake_that_names_both(tmp_path: Path) -> None:
    for name in ("a.yaml", "b.yaml"):
        (tmp_path / name).write_text(ONE)
    with pytest.raises(LimitsError) as caught:
        load([tmp_path], merge_domain_config=True)
    assert str(caught.value) == (
        f"{tmp_path}/b.yaml: descriptors[0]: expected a key and value not given before on this level, "
        f'got key "a" without a value, as at {tmp_path}/a.yaml: descriptors[0]'
    )


def test_file_that_is_not_there_is_a_mistake(tmp_path: Path) -> None:
    with pytest.raises(LimitsError) as caught:
        load([tmp_path / "none.yaml"])
    assert str(caught.value) == f"{tmp_path}/none.yaml: cannot be read: No such file or directory"


def test_folder_without_limits_is_a_mistake(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("no limits")
    with pytest.raises(LimitsError) as caught:
        load([tmp_path])
    assert (
        str(caught.value)
        == f"{tmp_path}: expected at least one file *.yaml or *.yml, got none in this folder"
    )


def test_bytes_that_are_no_text_are_a_mistake(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_bytes(b"domain: \xff\n")
    with pytest.raises(LimitsError, match=r"a\.yaml: is not usable YAML: .*invalid"):
        load([tmp_path])
