"""Files below a folder."""

import os
from collections.abc import Iterator
from pathlib import Path


def files_below(folder: Path) -> list[Path]:
    """In order. Links to folders are not followed, but for those of a ConfigMap of Kubernetes: it keeps its files in a
    folder whose name begins with two dots, which is left out here, and links to them and their folders beside it."""
    return sorted(_below(folder, folder.resolve()))


def _below(folder: Path, root: Path) -> Iterator[Path]:
    for entry in os.scandir(folder):
        path = folder / entry.name
        if entry.is_dir(follow_symlinks=False):
            if not entry.name.startswith(".."):
                yield from _below(path, root)
        elif not entry.is_dir():
            yield path
        elif _leads_to_kept(path, root):
            yield from _below(path, root)


def _leads_to_kept(link: Path, root: Path) -> bool:
    target = link.resolve()
    if link.name.startswith("..") or target == root or not target.is_relative_to(root):
        return False
    return target.relative_to(root).parts[0].startswith("..")
