"""`crypto.*` digests and HMACs."""

import hashlib
import hmac
from collections.abc import Callable

from mixer.policy.builtins.operands import string


def _hmac(name: str) -> Callable[[object, object], str]:
    return lambda message, key: hmac.new(string(key).encode(), string(message).encode(), name).hexdigest()


def _digest(name: str) -> Callable[[object], str]:
    return lambda text: hashlib.new(name, string(text).encode(), usedforsecurity=False).hexdigest()


def _equal(one: object, other: object) -> bool:
    return hmac.compare_digest(string(one).encode(), string(other).encode())


BUILTINS = {
    "crypto.md5": _digest("md5"),
    "crypto.sha1": _digest("sha1"),
    "crypto.sha256": _digest("sha256"),
    "crypto.hmac.md5": _hmac("md5"),
    "crypto.hmac.sha1": _hmac("sha1"),
    "crypto.hmac.sha256": _hmac("sha256"),
    "crypto.hmac.sha512": _hmac("sha512"),
    "crypto.hmac.equal": _equal,
}
