"""YAML of a few lines that would take all time or memory is refused, in whatever file it stands."""

from pathlib import Path

import pytest
import yaml

from mixer import config, yaml_bounds
from mixer.errors import SettingsError
from mixer.policy.documents import Documents


def doubled(line: str) -> str:
    lines = [line.replace("{N}", str(at)).replace("{B}", str(at - 1)) for at in range(1, 60)]
    return "\n".join(["a0: &a0 {x: 1}", *lines])


HOSTILE = {
    "aliases": doubled("a{N}: &a{N} [*a{B}, *a{B}]"),
    "merges": doubled("a{N}: &a{N} {<<: [*a{B}, *a{B}]}"),
    "brackets": "a: " + "[" * 50_000,
    "braces": "{a: " * 50_000,
    "dashes": "- " * 50_000 + "a",
    "questions": "? " * 50_000 + "a",
    "indentation": "\n".join(" " * at + "a:" for at in range(200)),
}


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_text_is_refused(text: str) -> None:
    with pytest.raises(yaml.MarkedYAMLError, match=r"nests more than 100 levels|aliases stand for more than"):
        yaml_bounds.check(text)


@pytest.mark.parametrize(
    "text", ["a: [*b, &c d, *c]", "a: *unknown", "[" * 100 + "]" * 100, "x: '*'\n" + "[]: 1"]
)
def test_others_are_for_their_reader(text: str) -> None:
    yaml_bounds.check(text)


def test_settings_and_data_name_the_place(tmp_path: Path) -> None:
    file = tmp_path / "mixer.yaml"
    file.write_text(HOSTILE["merges"])
    with pytest.raises(SettingsError, match=r"mixer\.yaml: line \d+, column \d+: its aliases stand for more"):
        config.load(file)
    [problem] = Documents().add((), "data.yaml", HOSTILE["brackets"])
    assert str(problem) == "data.yaml: line 1: is not YAML: nests more than 100 levels deep"
