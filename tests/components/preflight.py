"""Which toolchains the missing components need, and which of those are not on this machine.

Standard library only: it runs before anything of ours is installed.
"""

import re
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass

from tests.components import binaries
from tests.components.binaries import AbsentError

# What go.mod of each asks for. From 1.21 on, Go fetches such a toolchain by itself, unless GOTOOLCHAIN=local.
GO_OF_OPA = (1, 26)
GO_OF_RATELIMIT = (1, 25)
GO_OF_H2SPEC = (1, 18)
GO_FETCHES_TOOLCHAINS = (1, 21)


@dataclass(frozen=True)
class Lack:
    """A toolchain that is not here: what it is, what for, what was found instead, its Debian package."""

    what: str
    why: str
    found: str
    package: str


def absent(find: Callable[[], object]) -> bool:
    """Whether a component has to be fetched. Raises ComponentError for a variable that names nothing."""
    try:
        find()
    except AbsentError:
        return True
    return False


def lacks() -> list[Lack]:
    """Every toolchain that is missing for what the tests need.

    Raises ComponentError when an environment variable names something that is not there.
    """
    found: list[Lack] = []
    builds: list[tuple[tuple[int, int], str]] = []
    if absent(binaries.opa):
        builds.append((GO_OF_OPA, f"OPA {binaries.OPA_VERSION}"))
    if absent(binaries.ratelimit_peer):
        builds.append((GO_OF_RATELIMIT, "envoyproxy/ratelimit"))
    if absent(binaries.h2spec):
        builds.append((GO_OF_H2SPEC, "h2spec"))
    if builds and (lack := _go(max(least for least, _ in builds), _listed([name for _, name in builds]))):
        found.append(lack)
    if absent(binaries.java):
        java = shutil.which("java")
        found.append(
            Lack(
                f"Java {binaries.JAVA_LEAST[0]} or newer",
                f"runs Kafka {binaries.KAFKA_VERSION}",
                f"an older one, {java}" if java else "none",
                "default-jdk-headless",
            )
        )
    if absent(binaries.kafka_classpath) and not shutil.which("mvn"):
        found.append(Lack("Maven", f"fetches Kafka {binaries.KAFKA_VERSION}", "none", "maven"))
    if absent(binaries.prometheus):
        least = ".".join(map(str, binaries.PROMETHEUS_LEAST))
        prometheus = shutil.which("prometheus")
        found.append(
            Lack(
                f"Prometheus {least} or newer",
                "is asked Istio's dashboards' queries",
                f"an older one, {prometheus}" if prometheus else "none",
                "prometheus",
            )
        )
    if absent(binaries.faketime):
        found.append(Lack("faketime", "sets a process' clock", "none", "faketime"))
    return found


def _listed(names: list[str]) -> str:
    return " and ".join((", ".join(names[:-1]), names[-1])) if names[1:] else names[0]


def _go(least: tuple[int, int], builds: str) -> Lack | None:
    needed = ".".join(map(str, least))
    why = f"builds {builds}"
    what = f"Go {needed} or newer (1.21 and newer will do if it may fetch {needed}: GOTOOLCHAIN=auto)"
    try:
        done = subprocess.run(
            ["go", "env", "GOVERSION", "GOTOOLCHAIN"], capture_output=True, text=True, timeout=60, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return Lack(what, why, "none", "golang")
    version, _, toolchain = done.stdout.strip().partition("\n")
    match = re.match(r"(?:go|devel go)(\d+)\.(\d+)", version)
    have = (int(match[1]), int(match[2])) if match else (0, 0)
    if have >= least or (have >= GO_FETCHES_TOOLCHAINS and toolchain != "local"):
        return None
    return Lack(what, why, f"{version}, GOTOOLCHAIN={toolchain}" if toolchain else version, "golang")


def message(found: list[Lack]) -> str:
    """One message that names all that is missing, and how to install it."""
    lines = ["These are needed and not on this machine:", ""]
    for lack in found:
        lines += [f"  {lack.what}", f"      {lack.why}; found: {lack.found}"]
    packages = sorted({lack.package for lack in found})
    lines += ["", f"Debian 13, Ubuntu 24.04 and newer: apt install {' '.join(packages)}"]
    if "golang" in packages:
        lines.append("Debian 12: take golang from bookworm-backports (its own, 1.19, is too old).")
    lines.append(
        "Or say where a component is: MIXER_OPA (binary), MIXER_KAFKA_LIBS (folder of jars), "
        "MIXER_RATELIMIT (binary), JAVA_HOME."
    )
    return "\n".join(lines)
