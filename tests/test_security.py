"""What the source never does: make code or objects out of data, or leave a command to a shell."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

import mixer
from mixer import config

ROOT = Path(mixer.__file__).parent
MODULES = {str(file.relative_to(ROOT)): ast.parse(file.read_text("utf-8")) for file in ROOT.rglob("*.py")}
MAKE_OBJECTS = {"pickle", "cPickle", "dill", "cloudpickle", "marshal", "shelve", "jsonpickle"}
RUN_CODE = {"eval", "exec", "compile", "__import__"}
UNSAFE_YAML = {"load", "load_all", "unsafe_load", "full_load", "unsafe_load_all", "full_load_all"}
SHELLS = {"os.system", "os.popen", "subprocess.getoutput", "subprocess.getstatusoutput"}


def called(tree: ast.AST) -> Iterator[tuple[str, ast.Call]]:
    """The dotted name of what is called, and the call."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name | ast.Attribute):
            yield ast.unparse(node.func), node


def imported(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module.partition(".")[0]


def safe_loaders(tree: ast.AST) -> set[str]:
    """Those of PyYAML, and what the module makes of them."""
    safe = {"yaml.SafeLoader", "yaml.CSafeLoader"}
    for node in ast.walk(tree):
        if (
            isinstance(node, ast.ClassDef)
            and {ast.unparse(base) for base in node.bases} <= safe
            and node.bases
        ):
            safe.add(node.name)
    return safe


@pytest.mark.parametrize("name", MODULES)
def test_data_stays_data(name: str) -> None:
    tree = MODULES[name]
    assert not MAKE_OBJECTS.intersection(imported(tree))
    for function, call in called(tree):
        assert function not in RUN_CODE | SHELLS, f"line {call.lineno}"
        assert not any(keyword.arg == "shell" for keyword in call.keywords), f"line {call.lineno}"
        module, _, method = function.rpartition(".")
        if module == "yaml" and method in UNSAFE_YAML:
            loaders = [ast.unparse(keyword.value) for keyword in call.keywords if keyword.arg == "Loader"]
            assert loaders, f"line {call.lineno}"
            assert loaders[0] in safe_loaders(tree), f"line {call.lineno}"


def test_the_loader_of_settings_is_a_safe_one(tmp_path: Path) -> None:
    assert issubclass(config._UniqueKeyLoader, yaml.CSafeLoader)
    file = tmp_path / "mixer.yaml"
    file.write_text("policy: !!python/object/apply:os.system [true]")
    with pytest.raises(config.SettingsError, match="could not determine a constructor"):
        config.load(file)
