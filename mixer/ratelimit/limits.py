"""The limits of all domains, loaded from envoyproxy/ratelimit's YAML files."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import structlog

from mixer.errors import LimitsError, Problem
from mixer.ratelimit import keys
from mixer.ratelimit.grammar import Reader
from mixer.ratelimit.tree import Domain

_SUFFIXES = (".yaml", ".yml")
_log = structlog.get_logger()

File = tuple[str, bytes]


@dataclass(frozen=True, slots=True)
class Limits:
    """What the files say. `warnings` name what they say without effect. `files`: their names and contents."""

    domains: Mapping[str, Domain]
    warnings: tuple[Problem, ...] = ()
    files: tuple[File, ...] = ()

    def summary(self) -> str:
        """One line for people: the domains, and how many limits each has."""
        counts = (f"{name} ({len(list(domain.limits()))})" for name, domain in sorted(self.domains.items()))
        return f"limits by domain: {', '.join(counts)}"


def load(
    paths: Iterable[Path],
    merge_domain_config: bool = False,
    *,
    counts_over: bool = True,
    key_format: str = "mixer",
    has_shares: bool = False,
) -> Limits:
    """Read limits from files, and from the `*.yaml` and `*.yml` of folders (in order of their names).

    `merge_domain_config`: several files may add to one domain; otherwise that is a mistake. `counts_over`: whether
    hits beyond a fixed window's limit count where the limit does not say. `key_format`: one of `keys.FORMATS`.
    `has_shares`: whether the settings say what this process's share is (`on_error: local`). Each warning is logged as
    `limits_warning`.

    Raises:
        LimitsError: with every mistake of every file.
    """
    files: list[File] = []
    problems: list[Problem] = []
    for path in paths:
        for file in _files(path, problems):
            try:
                files.append((str(file), file.read_bytes()))
            except OSError as error:
                problems.append(Problem(str(file), "", f"cannot be read: {error.strerror}"))
    limits = made(
        *(files, problems, merge_domain_config),
        counts_over=counts_over,
        key_format=key_format,
        has_shares=has_shares,
    )
    for warning in limits.warnings:
        _log.warning("limits_warning", file=warning.file, path=warning.path, message=warning.expected)
    return limits


def made(
    files: Iterable[File],
    problems: Iterable[Problem] = (),
    merge_domain_config: bool = False,
    *,
    counts_over: bool = True,
    key_format: str = "mixer",
    has_shares: bool = False,
) -> Limits:
    """See `load`; of files that are read already. `problems`: mistakes that are known."""
    files = tuple(files)
    reader = Reader(merge_domain_config, counts_over, keys.FORMATS[key_format], has_shares)
    for name, content in files:
        reader.read(name, content)
    reader.finish()
    if found := [*problems, *reader.findings.problems]:
        raise LimitsError(found)
    return Limits(reader.domains, tuple(reader.findings.warnings), files)


def _files(path: Path, problems: list[Problem]) -> list[Path]:
    if not path.is_dir():
        return [path]
    try:
        files = sorted(file for file in path.iterdir() if file.suffix in _SUFFIXES and not file.is_dir())
    except OSError as error:
        problems.append(Problem(str(path), "", f"cannot be read: {error.strerror}"))
        return []
    if not files:
        problems.append(
            Problem(str(path), "", f"at least one file *{' or *'.join(_SUFFIXES)}", "none in this folder")
        )
    return files
