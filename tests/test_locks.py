"""The locked requirements: complete, hashed, and free of where they were made."""

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = {"run.txt": ("demo",), "dev.txt": ("demo", "dev")}


def locked(name: str) -> dict[str, str]:
    """Name to version."""
    text = (ROOT / "requirements" / name).read_text()
    return dict(re.findall(r"^([a-z0-9-]+)==([^ ]+) ", text, re.MULTILINE))


@pytest.mark.parametrize("name", EXTRAS)
def test_every_locked_package_has_hashes_and_no_address(name: str) -> None:
    text = (ROOT / "requirements" / name).read_text()
    assert "://" not in text
    for package in re.split(r"^(?=\w)", text, flags=re.MULTILINE)[1:]:
        assert re.match(r"[a-z0-9-]+==\S+ .*\\\n    --hash=sha256:[0-9a-f]{64}", package), (
            package.splitlines()[0]
        )


@pytest.mark.parametrize(("name", "extras"), EXTRAS.items())
def test_the_lock_fits_what_pyproject_asks_for(name: str, extras: tuple[str, ...]) -> None:
    asked = [
        *PROJECT["dependencies"],
        *(r for extra in extras for r in PROJECT["optional-dependencies"][extra]),
    ]
    found = locked(name)
    for requirement in map(Requirement, asked):
        if (package := canonicalize_name(requirement.name)) != "mixer":
            assert package in found, f"{package}: run `make lock`"
            assert requirement.specifier.contains(found[package]), f"{requirement}: run `make lock`"


def test_both_locks_agree_so_that_one_environment_serves_both() -> None:
    assert locked("run.txt").items() <= locked("dev.txt").items()
