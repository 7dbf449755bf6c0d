"""Settings, and what the files say that they name: read together, as of one moment."""

import contextlib
import hashlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from mixer import config
from mixer.backends import limits_of
from mixer.errors import LoadError, Problem
from mixer.policy.folders import files_below
from mixer.policy.sources import Sources, sources_of

if TYPE_CHECKING:
    from mixer.ratelimit.limits import Limits

_ATTEMPTS = 10  # to read files that change meanwhile: a deployment that copies them is over by then


@dataclass(frozen=True, slots=True)
class Loaded:
    """`revision`: the first 12 hex digits of the SHA-256 over the settings file. `digest`: over all files.

    `sources`: the policies and data of `policy.paths`; None where there are none, or bundles to join them to.
    """

    settings: config.Config
    revision: str
    digest: str
    sources: Sources | None = None
    limits: "Limits | None" = None

    def of(self, settings: config.Config) -> "Loaded":
        """The same for other settings that name the same files."""
        return replace(self, settings=settings)

    def bare(self) -> "Loaded":
        """Without what the files say, which may be large."""
        return replace(self, sources=None, limits=None)


def load(
    file: Path,
    settle: Callable[[config.Config], config.Config] = lambda wanted: wanted,
    *,
    read: bool = True,
) -> Loaded:
    """What is there now. `settle`: the settings that count, of those in the file; `read`: whether what they name
    is, too, which Report needs not. Raises `LoadError`: something in it is wrong, or it does not hold still."""
    for _ in range(_ATTEMPTS):
        revision, digest = _revision(file), ""
        loaded: Loaded | LoadError
        try:
            settings = settle(config.load(file))
            digest = _digest(settings)
            loaded = Loaded(settings, revision, f"{revision}-{digest}")
            if read:
                loaded = of(settings, revision, loaded.digest)
        except LoadError as error:
            loaded = error
        if _revision(file) != revision or (digest and _digest(settings) != digest):
            continue  # of two moments
        if isinstance(loaded, LoadError):
            raise loaded
        return loaded
    raise LoadError(
        [Problem(str(file), "", "it, or a file that it names, changes faster than it can be read")]
    )


def of(settings: config.Config, revision: str = "", digest: str = "") -> Loaded:
    """What the files say that these settings name. Raises `LoadError`."""
    policy, rate_limits = settings.policy, settings.rate_limits
    sources = None
    if policy is not None and policy.paths and not policy.bundles:
        sources = sources_of(policy)
    limits = None if rate_limits is None else limits_of(rate_limits)
    return Loaded(settings, revision, digest, sources, limits)


def stamp(file: Path, settings: config.Config) -> tuple[object, ...]:
    """What changes when one of the files may have changed; cheap, for nothing is read. A link that leads elsewhere
    changes it, as Kubernetes exchanges the files of a ConfigMap."""
    return tuple(_stamp(each) for each in (file, *_files(settings)))


def _stamp(file: Path) -> tuple[object, ...]:
    try:
        found = file.stat()
    except OSError as error:
        return file, error.errno
    return file, found.st_dev, found.st_ino, found.st_mtime_ns, found.st_size


def _files(settings: config.Config) -> Iterator[Path]:
    """Those that `Loaded` and what is made of it depend on."""
    paths: list[Path] = []
    if (policy := settings.policy) is not None:
        paths += policy.paths
        paths += [key.file for key in policy.keys if key.file is not None]
        paths += [policy.proto_descriptor] if policy.proto_descriptor is not None else []
        paths += policy.shadow.paths if policy.shadow is not None else ()
    if settings.rate_limits is not None:
        paths += settings.rate_limits.paths
    for path in paths:
        yield path
        if path.is_dir():
            with contextlib.suppress(OSError):  # whoever loads it says why
                yield from files_below(path)


def _revision(file: Path) -> str:
    try:
        return hashlib.sha256(file.read_bytes()).hexdigest()[:12]
    except OSError:
        return ""  # `config.load` says why


def _digest(settings: config.Config) -> str:
    digest = hashlib.sha256()
    for file in _files(settings):
        digest.update(os.fsencode(file) + b"\0")
        try:
            content = b"" if file.is_dir() else file.read_bytes()
        except OSError as error:
            content = str(error.errno).encode()
        digest.update(b"%d\0" % len(content) + content)
    return digest.hexdigest()
