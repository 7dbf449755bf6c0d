"""Policies and data from disk."""

from pathlib import Path

import pytest

from mixer.errors import PolicyError
from mixer.policy import sources

MODULE = "package a\n\nx := 1\n"


def write(folder: Path, **files: str) -> None:
    for name, text in files.items():
        file = folder / name.replace("__", "/").replace("_dot_", ".")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)


def mistakes(*paths: Path) -> list[str]:
    with pytest.raises(PolicyError) as caught:
        sources.load(paths)
    return str(caught.value).splitlines()


def test_data_lies_where_its_folder_does(tmp_path: Path) -> None:
    write(tmp_path, a_dot_rego=MODULE, data_dot_json='{"top": 1}', roles__users__data_dot_yaml="alice: admin")
    assert sources.load([tmp_path]).data == {"top": 1, "roles": {"users": {"alice": "admin"}}}


def test_other_files_and_tests_are_left_out(tmp_path: Path) -> None:
    write(
        tmp_path,
        a_dot_rego=MODULE,
        a_test_dot_rego="package a_test\n",
        limits__demo_dot_yaml="domain: x",
        README_dot_md="# no",
    )
    loaded = sources.load([tmp_path])
    assert [Path(module.file).name for module in loaded.modules] == ["a.rego"]
    assert loaded.data == {}


def test_files_may_be_named_one_by_one(tmp_path: Path) -> None:
    write(tmp_path, a_dot_rego=MODULE, more_dot_json='{"x": 1}')
    assert sources.load([tmp_path / "a.rego", tmp_path / "more.json"]).data == {"x": 1}


def test_objects_of_several_files_are_merged(tmp_path: Path) -> None:
    write(tmp_path, a_dot_rego=MODULE, data_dot_json='{"r": {"a": 1}}', r__data_dot_json='{"b": 2}')
    assert sources.load([tmp_path]).data == {"r": {"a": 1, "b": 2}}


def test_revision_changes_with_modules_and_data_only(tmp_path: Path) -> None:
    write(tmp_path, a_dot_rego=MODULE, data_dot_json="{}")
    first = sources.load([tmp_path]).revision
    write(tmp_path, README_dot_md="x")
    assert sources.load([tmp_path]).revision == first
    write(tmp_path, data_dot_json='{"a": 1}')
    second = sources.load([tmp_path]).revision
    write(tmp_path, a_dot_rego=MODULE + "y := 2\n")
    assert len({first, second, sources.load([tmp_path]).revision}) == 3


def test_data_below_the_root_may_be_any_value(tmp_path: Path) -> None:
    write(tmp_path, a_dot_rego=MODULE, list__data_dot_json="[1, 2]", one__two__data_dot_yml="text")
    assert sources.load([tmp_path]).data == {"list": [1, 2], "one": {"two": "text"}}


def test_value_given_twice_names_both_files(tmp_path: Path) -> None:
    write(tmp_path, a_dot_rego=MODULE, data_dot_json='{"r": {"a": 1}}', r__data_dot_json='{"a": 2}')
    assert mistakes(tmp_path) == [
        f"{tmp_path}/r/data.json: data.r.a: is given already by {tmp_path}/data.json"
    ]


@pytest.mark.parametrize(
    ("name", "text", "mistake"),
    [
        ("data_dot_json", "{", "data.json: line 1, column 2: is not JSON: "),
        ("data_dot_yaml", "a: [", "data.yaml: line 2: is not YAML: "),
        ("data_dot_json", "[]", "data.json: expected an object at the root of data, got list"),
    ],
)
def test_data_that_cannot_be_read_says_where(tmp_path: Path, name: str, text: str, mistake: str) -> None:
    write(tmp_path, **{"a_dot_rego": MODULE, name: text})
    [found] = mistakes(tmp_path)
    assert found.removeprefix(f"{tmp_path}/").startswith(mistake) or mistake in found


def test_all_mistakes_are_named(tmp_path: Path) -> None:
    write(tmp_path, data_dot_json="{", b__data_dot_json="[")
    (tmp_path / "c.rego").write_bytes(b"\xff")
    found = mistakes(tmp_path, tmp_path / "nope")
    assert len(found) == 4
    assert found[-1] == f"{tmp_path}/nope: no such file or folder"


def test_folder_without_a_policy(tmp_path: Path) -> None:
    assert mistakes(tmp_path) == [f"{tmp_path}: holds no .rego file"]
