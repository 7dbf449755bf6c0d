"""A candidate's bundle as it came; its process reads it."""

from dataclasses import dataclass

from mixer import config


@dataclass(slots=True)
class Tarball:
    """`revision`: of the candidate that was made with it, all of its bundles together; "" before."""

    raw: bytes
    revision: str = ""

    @classmethod
    def of(cls, _: config.Bundle, raw: bytes) -> "Tarball":
        return cls(raw)
