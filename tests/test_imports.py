"""Which module may import which: the layers of `mixer`, held over the source itself."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import mixer

ROOT = Path(mixer.__file__).parent

SEAMS = {
    "mixer.ratelimit.limiter": {"mixer.server.front"},  # for what waits without a task
    "mixer.policy.engine": set[str](),
    "mixer.ratelimit.counters": {"mixer.pending"},
    "mixer.telemetry.sink": set[str](),
    "mixer.server.front": {"mixer.pending"},
}
BACKENDS = {
    "mixer.policy.regorus": "mixer.policy",
    "mixer.policy.opa": "mixer.policy",
    "mixer.ratelimit.memory": "mixer.ratelimit",
    "mixer.ratelimit.redis": "mixer.ratelimit",
    "mixer.ratelimit.cluster": "mixer.ratelimit",
    "mixer.telemetry.prometheus": "mixer.telemetry",
    "mixer.telemetry.kafka": "mixer.telemetry",
    "mixer.telemetry.file": "mixer.telemetry",
    "mixer.server.http2.front": "mixer.server",
    "mixer.server.grpcio": "mixer.server",
    "mixer.server.otlp_http": "mixer.server",
}
SERVICES = {
    "mixer.authz.service",
    "mixer.ratelimit.service",
    "mixer.telemetry.service",
    "mixer.telemetry.export",
}
FOUNDATIONS = {  # what each may import of ours
    "mixer.errors": set[str](),
    "mixer.pending": set[str](),
    "mixer.histogram": set[str](),
    "mixer.tallies": set[str](),
    "mixer.metrics": {"mixer.histogram", "mixer.tallies"},
    "mixer.yaml_bounds": set[str](),
    "mixer.config": {"mixer.errors", "mixer.yaml_bounds"},
    "mixer.log": {"mixer.config"},
}
TOP = {
    *(
        "mixer.backends",
        "mixer.loaded",
        "mixer.checking",
        "mixer.runtime",
        "mixer.reloading",
        "mixer.offline",
    ),
    *(
        "mixer.supervision.supervisor",
        "mixer.supervision.child",
        "mixer.worker",
        "mixer.cli",
        "mixer.__main__",
    ),
}


def module_name(file: Path) -> str:
    parts = ("mixer", *file.relative_to(ROOT).with_suffix("").parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(file): ast.parse(file.read_text("utf-8")) for file in sorted(ROOT.rglob("*.py"))}


def imports(name: str) -> set[str]:
    """Modules of ours that this one imports: at its top, within a function, or for its types alone."""
    return set(_imports(name)) - {name}


def _imports(name: str) -> Iterator[str]:
    for node in ast.walk(MODULES[name]):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if _is_ours(alias.name))
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name} imports relatively in line {node.lineno}"
            if node.module is not None and _is_ours(node.module):
                for alias in node.names:
                    member = f"{node.module}.{alias.name}"
                    yield member if member in MODULES else node.module


def _is_ours(name: str) -> bool:
    return name.partition(".")[0] == "mixer"


def reached(name: str) -> set[str]:
    """What is imported directly, or by what is imported."""
    seen: set[str] = set()
    waiting = [name]
    while waiting:
        for other in imports(waiting.pop()) - seen:
            seen.add(other)
            waiting.append(other)
    return seen


def test_every_module_named_here_exists() -> None:
    assert (SEAMS.keys() | BACKENDS.keys() | SERVICES | FOUNDATIONS.keys() | TOP) <= MODULES.keys()


@pytest.mark.parametrize("name", FOUNDATIONS)
def test_foundation_stands_on_its_own(name: str) -> None:
    assert imports(name) <= FOUNDATIONS[name]


@pytest.mark.parametrize("name", SEAMS)
def test_seam_imports_only_errors(name: str) -> None:
    assert imports(name) <= {"mixer.errors"} | SEAMS[name]


@pytest.mark.parametrize("name", BACKENDS)
def test_backend_knows_no_service_and_no_other_seam(name: str) -> None:
    other_seams = {backend for backend, package in BACKENDS.items() if package != BACKENDS[name]}
    other_seams |= {seam for seam in SEAMS if not seam.startswith(BACKENDS[name])}
    assert not reached(name) & (SERVICES | other_seams)


@pytest.mark.parametrize("name", sorted(SERVICES))
def test_service_knows_its_seam_and_no_backend(name: str) -> None:
    assert imports(name) & SEAMS.keys()
    assert not reached(name) & BACKENDS.keys()


def test_only_one_module_names_backends() -> None:
    by_others = {name: imports(name) & BACKENDS.keys() for name in MODULES if name != "mixer.backends"}
    assert {name: found for name, found in by_others.items() if found} == {}
    assert imports("mixer.backends") >= BACKENDS.keys()


def test_nothing_below_imports_what_is_on_top() -> None:
    allowed = {
        "mixer.backends": {
            *("mixer.loaded", "mixer.checking", "mixer.runtime", "mixer.offline", "mixer.cli"),
            *("mixer.shadow.__main__", "mixer.supervision.handed"),
        },
        "mixer.loaded": {
            *("mixer.checking", "mixer.runtime", "mixer.reloading", "mixer.worker", "mixer.cli"),
            *("mixer.supervision.messages", "mixer.supervision.process", "mixer.supervision.supervisor"),
            *("mixer.supervision.child", "mixer.supervision.handed"),
        },
        "mixer.reloading": {"mixer.worker", "mixer.supervision.supervisor"},
        "mixer.supervision.supervisor": {"mixer.cli"},
        "mixer.supervision.child": set(),
        "mixer.checking": {"mixer.runtime"},
        "mixer.runtime": {"mixer.worker", "mixer.supervision.child"},
        "mixer.offline": {"mixer.cli"},
        "mixer.worker": {"mixer.cli", "mixer.supervision.child"},
        "mixer.cli": {"mixer.__main__"},
        "mixer.__main__": set(),
    }
    importers = {top: {name for name in MODULES if top in imports(name)} for top in TOP}
    assert importers == allowed


def test_only_the_server_package_knows_grpc() -> None:
    def knows_grpc(name: str) -> bool:
        return any(
            isinstance(node, ast.Import | ast.ImportFrom)
            and any(
                module.partition(".")[0] in ("grpc",)
                for module in (
                    [alias.name for alias in node.names]
                    if isinstance(node, ast.Import)
                    else [node.module or ""]
                )
            )
            for node in ast.walk(MODULES[name])
        )

    outside = {name for name in MODULES if not name.startswith(("mixer.server.", "mixer.demo"))}
    assert {name for name in outside if knows_grpc(name)} == set()


def test_demo_starts_the_service_as_an_operator_does() -> None:
    demo = {name for name in MODULES if name.startswith("mixer.demo")}
    known = {name: imports(name) - demo - {"mixer.errors"} for name in demo}
    assert {name: found for name, found in known.items() if found} == {}
    by_others = {name for name in MODULES.keys() - demo if imports(name) & demo}
    assert by_others == {"mixer.cli"}
