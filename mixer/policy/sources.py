"""Policies and data from disk and from bundles: `.rego` modules, and `data.json` / `data.yaml` documents.

A folder is read as OPA reads a bundle: a data document's place under `data` is its folder's path below the
given root (`policies/roles/data.json` is `data.roles`). In a folder that is no bundle, files named `*_test.rego`
are tests and are left out. A `.tar.gz`, and a folder with a `.manifest`, is a bundle of OPA's (`policy.bundle`).
"""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mixer import config
from mixer.errors import BundleError, PolicyError, Problem
from mixer.policy import bundle
from mixer.policy.bundle import Bundle
from mixer.policy.documents import DATA_NAMES, Documents, Module
from mixer.policy.folders import files_below

if TYPE_CHECKING:
    from mixer.policy.signatures import Verifier  # and cryptography with it, which takes memory

__all__ = ["Module", "Sources", "load", "sources_of"]


@dataclass(frozen=True, slots=True)
class Sources:
    """`revision`: of each bundle its own, and of other files the first 12 hex digits of a SHA-256 over all
    modules and data, joined by "+". `bundles`: the revision of each bundle by its name. `unusual`: the numbers of JSON
    data that are not written as usual (`policy.written`): file, value, and whether it has an exponent."""

    modules: tuple[Module, ...]
    data: dict[str, Any]
    revision: str
    bundles: Mapping[str, str] = field(default_factory=dict)
    unusual: tuple[tuple[str, float, bool], ...] = ()


def load(
    paths: Iterable[Path],
    *,
    bundles: Sequence[Bundle] = (),
    verifier: "Verifier | None" = None,
    limit: int = 256 * 1024 * 1024,
) -> Sources:
    """Read every module and document below `paths`, and take in those of `bundles`.

    `verifier`: checks bundles among `paths`. `limit`: bytes of one of them when unpacked. Raises `PolicyError` with
    every mistake found.
    """
    files, found = _Files(), list[Bundle]()
    for root in paths:
        try:
            if not root.exists():
                files.problems.append(Problem(str(root), "", "no such file or folder"))
            elif root.name.endswith(bundle.TARBALLS) and root.is_file():
                found.append(bundle.read(str(root), _read(root, limit), limit, verifier))
            elif root.is_dir() and bundle.is_folder(root):
                found.append(bundle.read_folder(root, verifier))
            else:
                files.add(root)
        except PolicyError as error:
            files.problems += error.problems
    found += bundles
    problems, modules, documents = files.problems, files.modules, files.documents
    problems += bundle.overlaps(found)
    for each in found:
        problems += bundle.trespasses(each, modules, documents.data)
    if not problems:
        for each in found:
            modules += each.modules
            problems += documents.merge(each.data, each.name)
            documents.unusual += each.unusual
    if not modules and not problems:
        names = [*map(str, paths), *(each.name for each in bundles)]
        problems.append(Problem(", ".join(names), "", "holds no .rego file"))
    if problems:
        raise PolicyError(problems)
    revisions = [each.revision for each in found]
    if files.any or not found:
        revisions.append(files.digest.hexdigest()[:12])
    by_name = {each.name: each.revision for each in found}
    return Sources(tuple(modules), documents.data, "+".join(revisions), by_name, tuple(documents.unusual))


def sources_of(settings: config.Policy, bundles: Sequence[Bundle] = ()) -> Sources:
    """The policies and data that the settings name, with those of bundles. Raises `PolicyError`."""
    return load(
        settings.paths, bundles=bundles, verifier=_verifier(settings), limit=settings.bundle_size_limit
    )


def _verifier(settings: config.Policy) -> "Verifier | None":
    if not settings.keys:
        return None
    from mixer.policy.signatures import Verifier, keys

    return Verifier(keys(settings.keys))


class _Files:
    """What was read of files that are no bundle."""

    def __init__(self) -> None:
        self.any = False
        self.modules: list[Module] = []
        self.documents = Documents()
        self.digest = hashlib.sha256()
        self.problems: list[Problem] = []

    def add(self, root: Path) -> None:
        """A file, or all files below a folder."""
        try:
            files = files_below(root) if root.is_dir() else [root]
        except OSError as error:
            self.problems.append(Problem(str(root), "", f"cannot be read: {error.strerror}"))
            return
        for file in files:
            if file.name.endswith("_test.rego"):
                continue
            is_data = file.name in DATA_NAMES or (file == root and file.suffix in (".json", ".yaml", ".yml"))
            if file.suffix != ".rego" and not is_data:
                continue
            self.any = True
            try:
                text = file.read_bytes()
                source = text.decode()
            except (OSError, UnicodeDecodeError) as error:
                reason = error.strerror if isinstance(error, OSError) else f"not UTF-8 at byte {error.start}"
                self.problems.append(Problem(str(file), "", f"cannot be read: {reason}"))
                continue
            if is_data:
                prefix = file.parent.relative_to(root).parts if root.is_dir() else ()
                self.problems += self.documents.add(prefix, str(file), source)
                self.digest.update(b"\0data\0" + "/".join(prefix).encode() + b"\0" + text)
            else:
                self.modules.append(Module(str(file), source))
                self.digest.update(b"\0module\0" + text)


def _read(file: Path, limit: int) -> bytes:
    """A tarball; one that is larger than it may be when unpacked is not read."""
    try:
        if file.stat().st_size <= limit:
            return file.read_bytes()
    except OSError as error:
        raise BundleError("archive", str(file), "", f"cannot be read: {error.strerror}") from None
    raise BundleError("archive", str(file), "", f"is larger than {limit} bytes (policy.bundle_size_limit)")
