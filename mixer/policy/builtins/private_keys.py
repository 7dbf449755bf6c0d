"""Private keys as the objects that OPA shows: Go's own, and JWKs (RFC 7518); a certificate with its key.

Source: OPA's `topdown/crypto.go`, Go's `crypto/tls`.
"""

import base64
import contextlib
from typing import Any

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_der_private_key,
)
from cryptography.x509 import load_der_x509_certificate

from mixer.policy.builtins import pem
from mixer.policy.builtins.certificate_names import Object
from mixer.policy.builtins.certificates import encoded, handed, public_key, shown
from mixer.policy.builtins.operands import BuiltinError, UnsupportedError, string

_KINDS = ("RSA PRIVATE KEY", "PRIVATE KEY", "EC PRIVATE KEY")
_CURVES = {"secp256r1": ("P-256", 32), "secp384r1": ("P-384", 48), "secp521r1": ("P-521", 66)}


def _read(der: bytes) -> Any:
    try:
        return load_der_private_key(der, None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise BuiltinError("no private key") from None


def _keys(text: str) -> list[Any]:
    with contextlib.suppress(BuiltinError):  # PEM, not packed
        text = pem.unpacked(text).decode("utf-8", "replace")
    return [_read(der) for kind, der in pem.blocks(text) if kind in _KINDS]


def _go(key: Any) -> Object | str:
    """As Go's own types are written as JSON."""
    if isinstance(key, rsa.RSAPrivateKey):
        numbers = key.private_numbers()
        return {
            "N": numbers.public_numbers.n,
            "E": numbers.public_numbers.e,
            "D": numbers.d,
            "Primes": [numbers.p, numbers.q],
            "Precomputed": {"Dp": numbers.dmp1, "Dq": numbers.dmq1, "Qinv": numbers.iqmp, "CRTValues": []},
        }
    if isinstance(key, ec.EllipticCurvePrivateKey):
        point: Object = public_key(key.public_key())["PublicKey"]
        return {**point, "D": key.private_numbers().private_value}
    if isinstance(key, ed25519.Ed25519PrivateKey):
        return encoded(_raw(key) + key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw))
    raise UnsupportedError("a private key of a rare kind")


def _jwk(key: Any) -> Object:
    if isinstance(key, rsa.RSAPrivateKey):
        numbers = key.private_numbers()
        values = {
            "n": numbers.public_numbers.n,
            "e": numbers.public_numbers.e,
            "d": numbers.d,
            "p": numbers.p,
            "q": numbers.q,
            "dp": numbers.dmp1,
            "dq": numbers.dmq1,
            "qi": numbers.iqmp,
        }
        sized = {name: _base64url(value, (value.bit_length() + 7) // 8) for name, value in values.items()}
        return {"kty": "RSA", **sized}
    if isinstance(key, ec.EllipticCurvePrivateKey) and key.curve.name in _CURVES:
        curve, size = _CURVES[key.curve.name]
        point = key.private_numbers().public_numbers
        values = {"x": point.x, "y": point.y, "d": key.private_numbers().private_value}
        return {
            "kty": "EC",
            "crv": curve,
            **{name: _base64url(value, size) for name, value in values.items()},
        }
    if isinstance(key, ed25519.Ed25519PrivateKey):
        public = key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
        return {"kty": "OKP", "crv": "Ed25519", "x": _text(public), "d": _text(_raw(key))}
    raise UnsupportedError("a private key of a rare kind")


def _raw(key: ed25519.Ed25519PrivateKey) -> bytes:
    return key.private_bytes(Encoding.Raw, PrivateFormat.Raw, NoEncryption())


def _base64url(value: int, size: int) -> str:
    return _text(value.to_bytes(size, "big"))


def _text(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _private_keys(text: object) -> list[Any]:
    given = string(text)
    return handed(None if not given else [_go(key) for key in _keys(given)])


def _rsa_private_key(text: object) -> Object | None:
    given = string(text)
    if not given:
        raise BuiltinError("no PEM")
    if not given.startswith(pem.BEGIN):
        given = pem.unpacked(given).decode("utf-8", "replace")
    keys = _keys(given)
    return _jwk(keys[0]) if keys else None


def _keypair(certificate: object, key: object) -> list[Any]:
    certs = [der for kind, der in _blocks(string(certificate), "CERTIFICATE") if kind == "CERTIFICATE"]
    keys = [der for kind, der in _blocks(string(key), "PRIVATE KEY") if kind.endswith("PRIVATE KEY")]
    if not certs or not keys:
        raise BuiltinError("no certificate, or no key")
    try:
        leaf, private = load_der_x509_certificate(certs[0]), _read(keys[0])
        fits = private.public_key() == leaf.public_key()
    except (ValueError, UnsupportedAlgorithm):
        raise BuiltinError("malformed certificate") from None
    if not fits:
        raise BuiltinError("the private key is not the certificate's")
    return handed(
        {
            "Certificate": list(map(encoded, certs)),
            "PrivateKey": _go(private),
            "SupportedSignatureAlgorithms": None,
            "OCSPStaple": None,
            "SignedCertificateTimestamps": None,
            "Leaf": shown(leaf),
        }
    )


def _blocks(text: str, kind: str) -> list[tuple[str, bytes]]:
    """The blocks of PEM, or of base64 of PEM or of DER, which is of this kind."""
    if not text.startswith(pem.BEGIN):
        data = pem.unpacked(text)
        if not data.startswith(pem.BEGIN.encode()):
            return [(kind, data)]
        text = data.decode("utf-8", "replace")
    return list(pem.blocks(text))


BUILTINS = {
    "crypto.x509.parse_rsa_private_key": _rsa_private_key,
    "mixer.private_keys": _private_keys,
    "mixer.x509_keypair": _keypair,
}
