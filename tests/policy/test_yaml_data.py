"""YAML data is what OPA makes of it."""

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from mixer.errors import PolicyError
from mixer.policy import sources, yaml_data
from tests.components import binaries

VALUES = """
true True TRUE false FALSE tRue yes no NO on off y n ~ null Null NULL nULL
1 -5 +5 0 -0 010 08 0o10 0o8 0x1F 0x 0b11 0b12 1_000 1__0 1_ 123456789012345678901 18446744073709551615
1.5 1.50 .5 +.5 5. . 1e3 1e 1.5e3 1e-2 0.1e400 1.10
22:30 1:30:00 11:22:33 2020-01-02 2020-01-02T03:04:05Z = a.b -x- .inf2 10.0.0.1 0755 1,000 50%
"5" '5' "yes" !!str\\ 5 {} [] {x:\\ 1} [no,\\ 010,\\ 1:2]
""".replace("\\ ", "\0").split()
KEYS = ["a", "1", "1.5", "true", "no", "2020-01-02", '"5"', "22:30", "-5"]


def by_opa(folder: Path) -> Any:
    said = subprocess.run(
        [binaries.opa(), "eval", "-d", folder / "data.yaml", "-f", "json", "data"],
        capture_output=True,
        check=True,
    )
    return json.loads(said.stdout)["result"][0]["expressions"][0]["value"]


def test_scalars_and_keys_are_opas(tmp_path: Path) -> None:
    lines = [f"v{index}: {value}" for index, value in enumerate(VALUES)]
    lines += ["keys:", *(f"  {key}: 1" for key in KEYS)]
    lines += [
        "base: &base {x: 1}",
        "again: *base",
        "merged: {<<: *base, y: 2}",
        "text: |",
        "  a",
        "  b",
        "empty:",
    ]
    text = "\n".join(lines).replace("\0", " ")
    (tmp_path / "data.yaml").write_text(text)
    ours, opas = yaml_data.load(text), by_opa(tmp_path)
    assert {name: value for name, value in ours.items() if exact(value) != exact(opas[name])} == {}
    assert ours.keys() == opas.keys()


def exact(value: Any) -> str:
    """Text that tells true from 1, where 1 and 1.0 are one number."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return repr(float(value))
    if isinstance(value, dict):
        return repr({name: exact(item) for name, item in sorted(value.items())})
    return repr([exact(item) for item in value]) if isinstance(value, list) else repr(value)


@pytest.mark.parametrize(
    ("text", "mistake"),
    [
        ("~: 1", "is no data: a key is null"),
        ("[1]: 2", "is no data: a key is no text"),
        ("a: &a [*a]", "line 1: is not YAML: found unconstructable recursive node"),
        ("&a [*a]", "is no data: an anchor holds itself"),
        ("a: !!timestamp 2020-01-01", "is no data: a value is no JSON: date"),
        ("a: !thing 5", "line 1: is not YAML: could not determine a constructor for the tag '!thing'"),
        ("- 1", "expected an object at the root of data, got list"),
        ("", "expected an object at the root of data, got NoneType"),
        ("a: " + 200 * "[" + 200 * "]", "line 1: is not YAML: nests more than 100 levels deep"),
    ],
)
def test_what_is_no_data_is_refused(tmp_path: Path, text: str, mistake: str) -> None:
    (tmp_path / "p.rego").write_text("package p\n")
    (tmp_path / "data.yaml").write_text(text)
    with pytest.raises(PolicyError) as caught:
        sources.load([tmp_path])
    assert str(caught.value) == f"{tmp_path}/data.yaml: {mistake}"
