"""OPA bundles: a manifest with roots and revision, modules, data, and a signature
(https://www.openpolicyagent.org/docs/management-bundles). What OPA refuses is refused.
"""

import hashlib
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson

from mixer.errors import BundleError, PolicyError, Problem
from mixer.policy.archive import unpack
from mixer.policy.documents import DATA_NAMES, Documents, Module
from mixer.policy.folders import files_below

if TYPE_CHECKING:
    from mixer.policy.signatures import Verifier  # and cryptography with it, which takes memory

MANIFEST = ".manifest"
SIGNATURES = ".signatures.json"
TARBALLS = (".tar.gz", ".tgz")
_LONGEST_REVISION = 256
_NAME = r"[A-Za-z_]\w*"
_PACKAGE = re.compile(
    rf"(?:\s|#[^\n]*(?:\n|$))*package(?:\s|#[^\n]*\n)+(?P<path>{_NAME}"
    rf"(?:\s*\.\s*{_NAME}|\s*\[\s*(?:\"[^\"\\]*\"|`[^`]*`)\s*\])*)"
)
_PART = re.compile(rf"{_NAME}|\"([^\"\\]*)\"|`([^`]*)`")


@dataclass(frozen=True, slots=True)
class Bundle:
    """`revision`: the manifest's; without one, the first 12 hex digits of a SHA-256 over the bundle's files.

    `roots`: the paths under `data` that are this bundle's, "roles/users"; "" is all of them.
    """

    name: str
    revision: str
    roots: tuple[str, ...]
    modules: tuple[Module, ...]
    data: dict[str, Any]
    unusual: tuple[tuple[str, float, bool], ...] = ()  # see `Sources`


def is_folder(path: Path) -> bool:
    """A folder that is laid out as a bundle."""
    return (path / MANIFEST).is_file() or (path / SIGNATURES).is_file()


def read_folder(path: Path, verifier: "Verifier | None") -> Bundle:
    """The bundle in a folder. Raises `PolicyError` for each mistake in it."""
    try:
        files = {
            file.relative_to(path).as_posix(): file.read_bytes()
            for file in files_below(path)
            if file.is_file()
        }
    except OSError as error:
        raise BundleError("archive", str(path), "", f"cannot be read: {error.strerror}") from None
    return _assembled(str(path), files, verifier)


def read(name: str, raw: bytes, limit: int, verifier: "Verifier | None") -> Bundle:
    """The bundle in a gzipped tarball. `limit`: bytes when unpacked. Raises `PolicyError` for each mistake in it."""
    return _assembled(name, unpack(name, raw, limit), verifier)


def _assembled(name: str, files: dict[str, bytes], verifier: "Verifier | None") -> Bundle:
    if verifier is not None:
        verifier.verify(name, files)
    elif SIGNATURES in files:
        raise BundleError("signature", name, SIGNATURES, "the bundle is signed; give its key in policy.keys")
    for path in files:
        if path.rpartition("/")[2] == "patch.json":
            raise BundleError("manifest", name, path, "is a delta; only whole bundles are taken")
    manifest = _manifest(name, files)
    roots = _roots(name, manifest)
    problems: list[Problem] = []
    modules: list[Module] = []
    documents = Documents()
    digest = hashlib.sha256()
    for path in sorted(files):
        base = path.rpartition("/")[2]
        if base not in DATA_NAMES and not base.endswith(".rego"):
            continue
        label = f"{name}/{path}"
        try:
            source = files[path].decode()
        except UnicodeDecodeError as error:
            problems.append(Problem(label, "", f"cannot be read: not UTF-8 at byte {error.start}"))
            continue
        digest.update(b"%d %s\0%d\0" % (len(path.encode()), path.encode(), len(files[path])) + files[path])
        if base in DATA_NAMES:
            folders = path.rpartition("/")[0].lstrip("/.")
            problems += documents.add(tuple(folders.split("/")) if folders else (), label, source)
        else:
            modules.append(Module(label, source))
    problems += _outside(name, roots, modules, documents.data)
    if problems:
        raise PolicyError(problems)
    revision = manifest.get("revision") or digest.hexdigest()[:12]
    return Bundle(name, revision, roots, tuple(modules), documents.data, tuple(documents.unusual))


def _manifest(name: str, files: dict[str, bytes]) -> dict[str, Any]:
    """The manifest, its fields checked."""
    found = [path for path in files if path.endswith((MANIFEST, ".manifest.pb"))]

    def wrong(message: str) -> BundleError:
        return BundleError("manifest", name, found[0], message)

    if not found:
        return {}
    if len(found) > 1:
        raise wrong(f"is one of several manifests: {', '.join(found)}")
    if not found[0].endswith(MANIFEST):
        raise wrong("is written as protobuf; build the bundle with a JSON manifest")
    try:
        manifest = orjson.loads(files[found[0]])
    except ValueError as error:
        raise wrong(f"is not JSON: {error}") from None
    if manifest is None:
        return {}
    if not isinstance(manifest, dict):
        raise wrong("must be an object")
    manifest = {name.casefold(): value for name, value in manifest.items()}  # as Go's encoding/json reads it
    revision = "" if manifest.get("revision") is None else manifest["revision"]
    if not isinstance(revision, str) or len(revision) > _LONGEST_REVISION:
        raise wrong(f"revision must be a string of at most {_LONGEST_REVISION} characters")
    roots = manifest.get("roots")
    if roots is not None and not (isinstance(roots, list) and all(isinstance(root, str) for root in roots)):
        raise wrong("roots must be an array of strings")
    if manifest.get("wasm"):
        raise wrong("has rules compiled to WebAssembly; build the bundle with `opa build -t rego`")
    by_file = manifest.get("file_rego_versions") or {}
    versions = [manifest.get("rego_version"), *(by_file.values() if isinstance(by_file, dict) else [by_file])]
    if any(version is not None and (type(version) is not int or version != 1) for version in versions):
        raise wrong(
            "holds policies in another version of Rego than v1; rewrite them with `opa fmt --rego-v1`"
        )
    return manifest


def _roots(name: str, manifest: dict[str, Any]) -> tuple[str, ...]:
    given = manifest.get("roots")
    roots = ("",) if given is None else tuple(root.strip("/") for root in given)
    for index, root in enumerate(roots):
        for other in roots[index + 1 :]:
            if _contains(root, other) or _contains(other, root):
                raise BundleError("roots", name, MANIFEST, f'roots "{root}" and "{other}" overlap')
    return roots


def _outside(
    name: str, roots: Sequence[str], modules: Iterable[Module], data: dict[str, Any]
) -> Iterator[Problem]:
    """What a bundle holds beside its roots."""
    shown = ", ".join(f'"{root}"' for root in roots) or "none"
    for module in modules:
        package = package_of(module)
        if package is None:
            yield Problem(module.file, "", "begins with no package")
        elif not any(_contains(root, package) for root in roots):
            yield Problem(
                module.file, "", f"package {package.replace('/', '.')} is outside of the roots: {shown}"
            )
    todo: list[tuple[str, Any]] = [("", data)]
    while todo:
        path, value = todo.pop()
        if any(_contains(root, path) for root in roots):
            continue
        if isinstance(value, dict) and (not path or any(_contains(path, root) for root in roots)):
            todo += ((f"{path}/{key}" if path else key, item) for key, item in value.items())
        else:
            yield Problem(name, f"data.{path.replace('/', '.')}", f"is outside of the roots: {shown}")


def _contains(root: str, path: str) -> bool:
    return not root or path == root or path.startswith(root + "/")


def package_of(module: Module) -> str | None:
    """The path of a module's package, "envoy/authz"; None where the source begins with none."""
    match = _PACKAGE.match(module.source.removeprefix("\ufeff"))
    if match is None:
        return None
    return "/".join(part[1] or part[2] or part[0].strip('"`') for part in _PART.finditer(match["path"]))


def overlaps(bundles: Sequence[Bundle]) -> Iterator[Problem]:
    """Roots that two bundles claim."""
    for index, bundle in enumerate(bundles):
        for other in bundles[index + 1 :]:
            for root in bundle.roots:
                for theirs in other.roots:
                    if _contains(root, theirs) or _contains(theirs, root):
                        yield Problem(
                            other.name,
                            "",
                            f'root "{theirs}" overlaps root "{root}" of {bundle.name}; '
                            "give each bundle roots of its own in its .manifest",
                        )


def trespasses(bundle: Bundle, modules: Iterable[Module], data: dict[str, Any]) -> Iterator[Problem]:
    """What lies in the bundle's roots, and comes from elsewhere."""
    for root in bundle.roots:
        for module in modules:
            package = package_of(module)
            if package is not None and _contains(root, package):
                yield Problem(
                    module.file,
                    "",
                    f'package {package.replace("/", ".")} is in root "{root}" of {bundle.name}',
                )
        at: Any = data
        for part in root.split("/") if root else ():
            at = at.get(part, {}) if isinstance(at, dict) else at
        if at != {}:
            yield Problem(
                bundle.name, "", f'data in its root "{root}" is given by a file outside of the bundle too'
            )
