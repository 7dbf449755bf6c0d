"""Limits from text, as tests write it, and the entries of descriptors."""

import tempfile
from pathlib import Path
from typing import NamedTuple

from mixer.ratelimit.limits import Limits, load


class Entry(NamedTuple):
    """An entry of a request's descriptor."""

    key: str
    value: str


def limits_of(*contents: str, merge_domain_config: bool = False, has_shares: bool = False) -> Limits:
    """Limits loaded from a folder with files a.yaml, b.yaml, … of these contents."""
    with tempfile.TemporaryDirectory() as folder:
        for name, content in zip("abcdef", contents, strict=False):
            Path(folder, f"{name}.yaml").write_text(content)
        return load([Path(folder)], merge_domain_config, has_shares=has_shares)
