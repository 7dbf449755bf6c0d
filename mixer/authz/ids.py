"""Decision ids: random UUIDs (RFC 9562, version 4), made in lots, since one call of the kernel for each costs 1 µs."""

import os

_LOT = 256


class DecisionIds:
    def __init__(self) -> None:
        self._hex = ""
        self._at = 0

    def next(self) -> str:
        """A new id, as text of 36 characters."""
        at = self._at
        if at >= len(self._hex):
            self._hex, at = os.urandom(16 * _LOT).hex(), 0
        text = self._hex[at : at + 32]
        self._at = at + 32
        variant = "89ab"[int(text[16], 16) & 3]
        return f"{text[:8]}-{text[8:12]}-4{text[13:16]}-{variant}{text[17:20]}-{text[20:]}"
