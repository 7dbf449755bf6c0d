"""Hostile bytes for everything that reads bytes of others, guided by the code that they reach.

`python -m tests.fuzz TARGET --seconds N` looks for new ones; what it finds becomes a file of `corpus/TARGET`, which
the tests read again ever after: `*.hex` is written in hexadecimal, any other file is as it is.
"""

from pathlib import Path

CORPUS = Path(__file__).parent / "corpus"


def corpus(target: str) -> dict[str, bytes]:
    """Inputs of a target, by the names of their files."""
    found = {}
    for file in sorted((CORPUS / target).iterdir()):
        content = file.read_bytes()
        found[file.name] = bytes.fromhex(content.decode()) if file.suffix == ".hex" else content
    return found
