"""Rego's `io.jwt.*` builtins for the embedded engine, after OPA 1.22's `topdown/tokens.go`.

Signatures are PyJWT's and cryptography's work; RFC 7515 (JWS), 7517 (JWK) and 7519 (JWT) say what is checked.
A `BuiltinError` stands for what OPA calls a builtin error: the call is undefined.
"""

import base64
import re
import time
from collections.abc import Callable
from functools import lru_cache
from typing import Any, NamedTuple, TypeGuard

import orjson
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import load_pem_public_key
from cryptography.x509 import load_pem_x509_certificate
from jwt.algorithms import (
    AllowedPublicKeys,
    ECAlgorithm,
    HMACAlgorithm,
    OKPAlgorithm,
    RSAAlgorithm,
    get_default_algorithms,
)
from jwt.exceptions import PyJWTError

from mixer.policy.builtins import BuiltinError
from mixer.policy.builtins.numbers import HELD
from mixer.policy.written import Number, unusual

_ALGORITHMS = {
    name: algorithm
    for name, algorithm in get_default_algorithms().items()
    if name
    in {f"{family}{bits}" for family in ("HS", "RS", "PS", "ES") for bits in (256, 384, 512)} | {"EdDSA"}
}
_KEY_TYPES: dict[str, type[Any]] = {
    "HS": bytes,
    "RS": rsa.RSAPublicKey,
    "PS": rsa.RSAPublicKey,
    "ES": ec.EllipticCurvePublicKey,
}
_KEY_READERS: dict[str, Any] = {
    "RSA": RSAAlgorithm,
    "EC": ECAlgorithm,
    "OKP": OKPAlgorithm,
    "oct": HMACAlgorithm,
}
_BASE64URL = re.compile(r"[A-Za-z0-9_-]*={0,2}")
# As Go's `encoding/pem` finds a block: at the beginning of a line, spaces after its end.
_PEM = re.compile(
    r"^-----BEGIN (?P<type>[A-Z0-9 ]+)-----[ \t]*\r?\n.*?^-----END (?P=type)-----[ \t]*\r?\n?",
    re.DOTALL | re.MULTILINE,
)
_MAX_NESTING = 8  # tokens in tokens; each is smaller, this only bounds the work
_MEMO_TOKEN = 4096  # characters; longer tokens are decoded each time, so that a memo has a known size
_MEMO_ENTRIES = 2048


class Key(NamedTuple):
    alg: str
    kid: str
    key: AllowedPublicKeys | bytes


class Token(NamedTuple):
    header: dict[str, Any]
    payload: bytes
    signature: bytes
    signed: bytes


class Jwt:
    """The builtins, with what they remember between calls.

    `valid_until` is the next moment (Unix seconds) at which an answer given since the last `reset` changes with
    time alone: a token's `exp` or `nbf`.
    """

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self.valid_until: float | None = None
        self._decode = lru_cache(_MEMO_ENTRIES)(_decode)
        self._judged = lru_cache(_MEMO_ENTRIES)(_judged)
        self._unusual = lru_cache(_MEMO_ENTRIES)(_unusual)

    def reset(self) -> None:
        self.valid_until = None

    def decode(self, token: object) -> list[Any]:
        """`[header, payload, signature in hex]`, nothing verified."""
        text = _string(token)
        decoded = self._decode(text) if len(text) <= _MEMO_TOKEN else _decode(text)
        if HELD.exposure is not None:
            HELD.see(self._unusual(text) if len(text) <= _MEMO_TOKEN else _unusual(text))
        return decoded

    def verify(self, alg: str, token: object, key: object) -> bool:
        """`io.jwt.verify_<alg>`: is the signature right under this algorithm?"""
        if alg.startswith("HS"):  # the header is not looked at
            return _signature_ok(alg, _string(key).encode(), _parts(_string(token)))
        parsed = _parse(_string(token))
        return _any_key(alg, parsed, _keys(_string(key)), _fields(parsed.header))

    def decode_verify(self, token: object, constraints: object) -> list[Any]:
        """`[valid, header, payload]` under the constraints cert or secret, alg, iss, aud, time."""
        if not isinstance(constraints, dict):
            raise BuiltinError("constraints must be an object")
        text, fixed = _string(token), None
        if "time" in constraints:
            constraints = dict(constraints)
            fixed = _nanoseconds(constraints.pop("time"))
        for name, value in constraints.items():
            if not isinstance(value, str):
                raise BuiltinError(f"{name} constraint: must be a string")
        judge = self._judged if len(text) <= _MEMO_TOKEN else _judged
        answer = judge(text, tuple(constraints.items()))
        if answer is not None and HELD.exposure is not None:
            HELD.see(self._unusual(text) if len(text) <= _MEMO_TOKEN else _unusual(text))
        return answer if answer is not None and self._times_ok(answer[2], fixed) else [False, {}, {}]

    def _times_ok(self, claims: dict[str, Any], fixed: float | None) -> bool:
        """RFC 7519 4.1.4 and 4.1.5: before `exp`, not before `nbf`; remembers when that changes."""
        now = self._clock() if fixed is None else fixed
        exp = _moment(claims, "exp")
        if exp is not None and now >= exp:
            return False  # whatever `nbf` is
        self._holds_until(exp, fixed)
        nbf = _moment(claims, "nbf")
        if nbf is None or now >= nbf:
            return True
        self._holds_until(nbf, fixed)
        return False

    def _holds_until(self, moment: float | None, fixed: float | None) -> None:
        if moment is not None and fixed is None:
            self.valid_until = moment if self.valid_until is None else min(self.valid_until, moment)

    def builtins(self) -> dict[str, tuple[int, Callable[..., Any]]]:
        """Name to number of operands and function."""
        table: dict[str, tuple[int, Callable[..., Any]]] = {
            "io.jwt.decode": (1, self.decode),
            "io.jwt.decode_verify": (2, self.decode_verify),
        }
        for alg in _ALGORITHMS:
            table[f"io.jwt.verify_{alg.lower()}"] = (
                2,
                lambda token, key, alg=alg: self.verify(alg, token, key),
            )
        return table


class _Constraints(NamedTuple):
    cert: str | None = None
    secret: str | None = None
    alg: str = ""
    iss: str = ""
    aud: str = ""

    @classmethod
    def parse(cls, given: dict[str, str]) -> "_Constraints":
        if not given.keys() <= set(cls._fields):
            raise BuiltinError("unknown token validation constraint")
        rules = cls(**given)
        if (rules.cert is not None) == bool(rules.secret):
            raise BuiltinError("exactly one of the constraints cert and secret is needed")
        return rules


def _judged(text: str, constraints: tuple[tuple[str, str], ...]) -> list[Any] | None:
    """The answer to a token that is right but for the time, None to one that is not right at any."""
    rules = _Constraints.parse(dict(constraints))
    verified = _verified(text, rules.cert, rules.secret, rules.alg)
    if verified is None or not _claims_ok(verified[1], rules):
        return None
    return [True, *verified]


def _moment(claims: dict[str, Any], name: str) -> float | None:
    """`exp` or `nbf`, None where there is none."""
    if name not in claims:
        return None
    value: object = claims[name]
    if not _is_number(value):
        raise BuiltinError(f"{name} must be a number")
    return value


def _nanoseconds(value: object) -> float:
    """The constraint `time`, in seconds."""
    if not _is_number(value) or value < 0:
        raise BuiltinError("time constraint: must be a number, not negative")
    return value / 1e9


def _is_number(value: object) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _string(value: object) -> str:
    if not isinstance(value, str):
        raise BuiltinError("operand must be a string")
    return value


def _base64url(text: str) -> bytes:
    if not _BASE64URL.fullmatch(text):
        raise BuiltinError("not base64url")
    bare = text.rstrip("=")
    if len(bare) % 4 == 1 or (bare != text and len(text) % 4):
        raise BuiltinError("not base64url")
    return base64.urlsafe_b64decode(bare + "=" * (-len(bare) % 4))


def _object(data: bytes) -> dict[str, Any]:
    try:
        value = orjson.loads(data.decode("utf-8", "replace"))
    except orjson.JSONDecodeError:
        raise BuiltinError("token part is not JSON") from None
    if not isinstance(value, dict):
        raise BuiltinError("token part is not a JSON object")
    return value


def _parts(text: str) -> Token:
    """A token whose header is not read."""
    parts = text.split(".")
    if len(parts) != 3:
        raise BuiltinError("a token has three parts")
    return Token({}, b"", _base64url(parts[2]), f"{parts[0]}.{parts[1]}".encode())


def _parse(text: str) -> Token:
    token = _parts(text)
    header, payload, _ = text.split(".")
    read = _object(_base64url(header))
    if "enc" in read:
        raise BuiltinError("an encrypted token (JWE) is not supported")
    return token._replace(header=read, payload=_base64url(payload))


def _fields(header: dict[str, Any]) -> dict[str, Any]:
    """The header's parameters that mean something here, checked for their types (RFC 7515, 4.1)."""
    for name in ("alg", "kid", "typ", "cty"):
        if not isinstance(header.get(name, ""), str):
            raise BuiltinError(f"header {name} must be a string")
    if "crit" in header and (
        not isinstance(header["crit"], list) or not any(isinstance(c, str) for c in header["crit"])
    ):
        raise BuiltinError("header crit must be a list of strings")
    return header


def _decode(text: str) -> list[Any]:
    for _ in range(_MAX_NESTING):
        token = _parse(text)
        if token.header.get("cty") != "JWT":
            return [token.header, _object(token.payload), token.signature.hex()]
        text = _inner(token.payload).strip("\"'")
    raise BuiltinError("tokens nested too deeply")


def _unusual(text: str) -> tuple[Number, ...]:
    """The numbers of a token's claims that are not written as usual."""
    found: list[Number] = []
    for _ in range(_MAX_NESTING):
        token = _parse(text)
        found += unusual(_base64url(text.partition(".")[0]).decode("utf-8", "replace"))
        if str(token.header.get("cty", "")).upper() != "JWT":
            return (*found, *unusual(token.payload.decode("utf-8", "replace")))
        text = _inner(token.payload).strip("\"'")
    return tuple(found)


def _inner(payload: bytes) -> str:
    try:
        return payload.decode()
    except UnicodeDecodeError:
        raise BuiltinError("token part is not UTF-8") from None


def _verified(
    text: str, cert: str | None, secret: str | None, alg: str
) -> tuple[dict[str, Any], dict[str, Any]] | None:
    """Header and claims of a token whose signature holds, None of one whose does not."""
    for _ in range(_MAX_NESTING):
        token = _parse(text)
        header = _fields(token.header)
        known = {"alg", "kid", "typ", "cty", "crit"}
        if not header.get("alg") or any(
            name in header and name not in known for name in header.get("crit", ())
        ):
            return None
        if alg and alg != header["alg"]:
            return None
        if secret is not None:
            holds = _signature_ok(header["alg"], secret.encode(), token)
        else:
            holds = _any_key(header["alg"], token, _keys(cert or ""), header)
        if not holds:
            return None
        if header.get("cty", "").upper() != "JWT":
            return header, _object(token.payload)
        text = _inner(token.payload)
    raise BuiltinError("tokens nested too deeply")


def _any_key(alg: str, token: Token, keys: tuple[Key, ...], header: dict[str, Any]) -> bool:
    """The key that the token's `kid` names, or any whose own `alg` does not speak against it."""
    kid = header.get("kid")
    if kid and (named := next((key for key in keys if key.kid == kid), None)):
        return _signature_ok(alg, named.key, token)
    return any(
        _signature_ok(alg, key.key, token) for key in keys if not key.alg or key.alg == header.get("alg")
    )


def _signature_ok(alg: str, key: AllowedPublicKeys | bytes, token: Token) -> bool:
    algorithm = _ALGORITHMS.get(alg)
    wanted = ed25519.Ed25519PublicKey if alg == "EdDSA" else _KEY_TYPES.get(alg[:2])
    if algorithm is None or wanted is None or not isinstance(key, wanted):
        return False  # so an RSA public key can never serve as an HMAC secret
    try:
        return bool(algorithm.verify(token.signed, key, token.signature))
    except (PyJWTError, InvalidSignature, ValueError):
        return False


@lru_cache(100)  # as many key sets as OPA keeps
def _keys(certificate: str) -> tuple[Key, ...]:
    """Keys of a PEM certificate, a PEM public key, a JWK, or a JWK set."""
    try:
        if pem := _PEM.search(certificate):
            if pem.end() != len(certificate):
                raise ValueError("something stands after the PEM block")
            if pem["type"] == "CERTIFICATE":
                return (Key("", "", load_pem_x509_certificate(pem[0].encode()).public_key()),)  # type: ignore[arg-type]
            if pem["type"] == "PUBLIC KEY":
                return (Key("", "", load_pem_public_key(pem[0].encode())),)  # type: ignore[arg-type]
            raise ValueError("the PEM block holds another thing")
        document = orjson.loads(certificate)
        entries = document.get("keys", [document])
        keys = []
        for entry in entries:
            alg = entry.get("alg", "")
            if alg and alg not in _ALGORITHMS:
                continue
            key = _KEY_READERS[entry["kty"]].from_jwk(entry)
            public = key.public_key() if hasattr(key, "public_key") else key
            keys.append(Key(alg, entry.get("kid", ""), public))
        return tuple(keys)
    except (ValueError, KeyError, TypeError, AttributeError, PyJWTError):
        raise BuiltinError("cert is neither a PEM certificate or public key nor a JWK (set)") from None


def _claims_ok(payload: dict[str, Any], rules: _Constraints) -> bool:
    """RFC 7519 4.1.1 (iss) and 4.1.3 (aud)."""
    if rules.iss and payload.get("iss") != rules.iss:
        return False
    if "aud" not in payload:
        return not rules.aud
    audience = payload["aud"]
    return rules.aud in audience if isinstance(audience, list) else audience == rules.aud
