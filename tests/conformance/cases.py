"""OPA's own cases, read from its Go module, which `go` fetches where it is not on this machine."""

import json
import subprocess
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from mixer.policy import yaml_data
from tests.components.binaries import OPA_VERSION, ComponentError

_MODULE = f"github.com/open-policy-agent/opa@v{OPA_VERSION}"
_FOLDER = "v1/test/cases/testdata/v1"


@dataclass(frozen=True)
class Case:
    """One case; the fields are those of OPA's `test/cases`. `name` is unique: a note that repeats is numbered."""

    name: str
    file: str
    query: str
    modules: tuple[str, ...]
    data: dict[str, Any]
    input: Any
    has_input: bool
    input_term: str | None
    want_result: list[dict[str, Any]] | None  # None: an error is wanted
    sort_bindings: bool
    ignore_generated_vars: bool
    strict_error: bool
    env: dict[str, str]


@cache
def module_folder() -> Path:
    """Where OPA's module lies. Raises `ComponentError` if it cannot be had."""
    command = ["go", "mod", "download", "-json", _MODULE]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ComponentError(f"OPA's cases come by `{' '.join(command)}`, which failed: {error}") from None
    if done.returncode:
        raise ComponentError(f"`{' '.join(command)}` failed: {done.stdout}{done.stderr}")
    return Path(json.loads(done.stdout)["Dir"])


def load() -> Iterator[Case]:
    """All cases, in the order of their files."""
    seen: Counter[str] = Counter()
    root = module_folder() / _FOLDER
    for file in sorted(path for path in root.rglob("*") if path.is_file()):
        document = yaml_data.load(file.read_text())
        for given in document["cases"]:
            note = given["note"]
            seen[note] += 1
            has_error = "want_error" in given or "want_error_code" in given
            yield Case(
                name=note if seen[note] == 1 else f"{note} #{seen[note]}",
                file=str(file.relative_to(root)),
                query=given["query"].strip(),
                modules=tuple(given.get("modules") or ()),
                data=given.get("data") or {},
                input=given.get("input"),
                has_input=given.get("input") is not None,
                input_term=given.get("input_term"),
                want_result=None if has_error else given["want_result"],
                sort_bindings=given.get("sort_bindings", False),
                ignore_generated_vars=given.get("ignore_generated_vars", False),
                strict_error=given.get("strict_error", False),
                env=given.get("env") or {},
            )
