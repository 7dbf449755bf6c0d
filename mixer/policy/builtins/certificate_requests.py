"""`crypto.x509.parse_certificate_request`: a PKCS #10 request as the object that Go makes of it."""

from typing import Any

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import Encoding

from mixer.policy.builtins import pem
from mixer.policy.builtins.certificate_names import Object, alternative_names, name
from mixer.policy.builtins.certificates import (
    encoded,
    extensions,
    handed,
    public_key,
    signature_algorithm,
)
from mixer.policy.builtins.operands import BuiltinError, UnsupportedError, string

_KIND = "CERTIFICATE REQUEST"
_EXTENSIONS = [1, 2, 840, 113549, 1, 9, 14]
_SEQUENCE, _SET, _OID = 0x30, 0x31, 0x06


def _parse(text: object) -> list[Any]:
    given = string(text)
    if not given.startswith(f"-----BEGIN {_KIND}-----"):
        data = pem.unpacked(given)
        given = data.decode("utf-8", "replace")
    else:
        data = given.encode()
    if (block := next(pem.blocks(given), None)) is not None:
        if block[0] != _KIND:
            raise BuiltinError("the PEM block is no certificate request")
        data = block[1]
    try:
        return handed(_shown(x509.load_der_x509_csr(data)))
    except (ValueError, IndexError, UnsupportedAlgorithm, x509.DuplicateExtension):
        raise BuiltinError("malformed certificate request") from None


def _shown(request: x509.CertificateSigningRequest) -> Object:
    parts = next(pem.elements(request.tbs_certrequest_bytes)).children()
    version, subject, key, *rest = parts
    attributes = rest[0].children() if rest else []
    names = next(
        (each.value for each in request.extensions if isinstance(each.value, x509.SubjectAlternativeName)),
        None,
    )
    return {
        "Raw": encoded(request.public_bytes(Encoding.DER)),
        "RawTBSCertificateRequest": encoded(request.tbs_certrequest_bytes),
        "RawSubjectPublicKeyInfo": encoded(key.whole),
        "RawSubject": encoded(subject.whole),
        "Version": int.from_bytes(version.body, "big", signed=True),
        "Signature": encoded(request.signature),
        "SignatureAlgorithm": signature_algorithm(request),
        **public_key(request.public_key()),
        "Subject": name(subject),
        "Attributes": [shown for each in attributes if (shown := _attribute(each)) is not None] or None,
        "Extensions": next((extensions(found) for each in attributes if (found := _requested(each))), None),
        "ExtraExtensions": None,
        **alternative_names(names),
    }


def _requested(attribute: pem.Element) -> pem.Element | None:
    kind, values = attribute.children()
    return values.children()[0] if pem.oid(kind.body) == _EXTENSIONS else None


def _attribute(attribute: pem.Element) -> Object | None:
    """None where its values are no sequences of an identifier and a value each."""
    kind, values = attribute.children()
    sets = []
    for sequence in values.children():
        pairs = sequence.children() if sequence.tag == _SEQUENCE else None
        if values.tag != _SET or pairs is None or any(pair.tag != _SEQUENCE for pair in pairs):
            return None
        sets.append([_pair(pair.children()) for pair in pairs])
    return {"Type": pem.oid(kind.body), "Value": sets}


def _pair(parts: list[pem.Element]) -> Object:
    if len(parts) < 2 or parts[0].tag != _OID or parts[1].tag not in (0x01, 0x04):
        raise UnsupportedError("a certificate request with attributes of a rare kind")
    value = parts[1].body
    return {
        "Type": pem.oid(parts[0].body),
        "Value": encoded(value) if parts[1].tag == 4 else value != b"\x00",
    }


BUILTINS = {"mixer.x509_request": _parse}
