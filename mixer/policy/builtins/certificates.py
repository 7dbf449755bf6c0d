"""X.509 certificates and requests as the objects that Go's `crypto/x509` makes of them, which OPA shows (RFC 5280).

cryptography reads and checks them; the bytes of their parts and the order of names come from the DER itself.
Integers of more than 64 bits do not cross to regorus: they go as limbs, which `policy.library` puts together.
Source: OPA's `topdown/crypto.go`, Go's `crypto/x509/parser.go`.
"""

import base64
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from functools import lru_cache
from typing import Any

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.utils import CryptographyDeprecationWarning
from cryptography.x509.oid import AuthorityInformationAccessOID

from mixer.policy.builtins import pem
from mixer.policy.builtins.certificate_names import Object, alternative_names, name, uri_text, values
from mixer.policy.builtins.numbers import HELD
from mixer.policy.builtins.operands import BuiltinError, UnsupportedError, string

LIMB = 62  # bits
_LARGEST = 2**63

_SIGNATURES = {
    "1.2.840.113549.1.1.4": 2,
    "1.2.840.113549.1.1.5": 3,
    "1.2.840.113549.1.1.11": 4,
    "1.2.840.113549.1.1.12": 5,
    "1.2.840.113549.1.1.13": 6,
    "1.2.840.10040.4.3": 7,
    "2.16.840.1.101.3.4.3.2": 8,
    "1.2.840.10045.4.1": 9,
    "1.2.840.10045.4.3.2": 10,
    "1.2.840.10045.4.3.3": 11,
    "1.2.840.10045.4.3.4": 12,
    "1.3.101.112": 16,
}
_PSS, _PSS_BY_DIGEST = "1.2.840.113549.1.1.10", {"sha256": 13, "sha384": 14, "sha512": 15}
_USAGES = (
    "digital_signature",
    "content_commitment",
    "key_encipherment",
    "data_encipherment",
    "key_agreement",
    "key_cert_sign",
    "crl_sign",
    "encipher_only",
    "decipher_only",
)
EXTENDED_USAGES = {
    "2.5.29.37.0": 0,
    "1.3.6.1.5.5.7.3.1": 1,
    "1.3.6.1.5.5.7.3.2": 2,
    "1.3.6.1.5.5.7.3.3": 3,
    "1.3.6.1.5.5.7.3.4": 4,
    "1.3.6.1.5.5.7.3.5": 5,
    "1.3.6.1.5.5.7.3.6": 6,
    "1.3.6.1.5.5.7.3.7": 7,
    "1.3.6.1.5.5.7.3.8": 8,
    "1.3.6.1.5.5.7.3.9": 9,
    "1.3.6.1.4.1.311.10.3.3": 10,
    "2.16.840.1.113730.4.1": 11,
    "1.3.6.1.4.1.311.2.1.22": 12,
    "1.3.6.1.4.1.311.61.1.1": 13,
}
_POLICY_MAPPINGS = "2.5.29.33"


def limbs(value: Any) -> list[Any]:
    """A value, and its large integers, each as the place where it belongs and its limbs: what `whole` in
    `policy.library` takes."""
    large: list[list[Any]] = []
    return [_without_large(value, "", large), large]


def handed(value: Any) -> list[Any]:
    """`limbs`, for this evaluation."""
    return _known(limbs(value))


def _known(result: list[Any]) -> list[Any]:
    for _, parts in result[1]:
        HELD.hold_large(sum(limb << LIMB * at for at, limb in enumerate(parts)))
    return result


def _without_large(value: Any, path: str, large: list[list[Any]]) -> Any:
    if isinstance(value, dict):
        return {name: _without_large(item, f"{path}/{name}", large) for name, item in value.items()}
    if isinstance(value, list):
        return [_without_large(item, f"{path}/{at}", large) for at, item in enumerate(value)]
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) >= _LARGEST:
        if value < 0:
            raise UnsupportedError("a large negative number in a certificate")
        large.append([path, [value >> at & 2**LIMB - 1 for at in range(0, value.bit_length(), LIMB)]])
        return 0
    return value


def encoded(data: bytes) -> str:
    return base64.b64encode(data).decode()


def certificates(text: str) -> list[x509.Certificate]:
    """Of PEM, or of base64 of PEM or DER. Raises `BuiltinError`."""
    if not text.startswith(pem.BEGIN):
        data = pem.unpacked(text)
        if not data.startswith(pem.BEGIN.encode()):
            return _of_der(data)
        text = data.decode("utf-8", "replace")
    der = []
    for kind, body in pem.blocks(text):
        if kind != "CERTIFICATE":
            raise BuiltinError("a PEM block is no certificate")
        der.append(body)
    return _of_der(b"".join(der))


@contextmanager
def _tolerant() -> Iterator[None]:
    """No warning of what Go reads and later versions of cryptography will not: a serial number of 0, say."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CryptographyDeprecationWarning)
        yield


def _of_der(data: bytes) -> list[x509.Certificate]:
    try:
        with _tolerant():
            return [x509.load_der_x509_certificate(element.whole) for element in pem.elements(data)]
    except ValueError:
        raise BuiltinError("malformed certificate") from None


def shown(certificate: x509.Certificate, uri_strings: bool = False) -> Object:
    """The object of a certificate. Raises `BuiltinError` for one that Go does not read."""
    try:
        with _tolerant():
            return _Certificate(certificate).shown(uri_strings)
    except (ValueError, IndexError, UnsupportedAlgorithm, x509.DuplicateExtension):
        raise BuiltinError("malformed certificate") from None


class _Certificate:
    def __init__(self, certificate: x509.Certificate) -> None:
        self._read = certificate
        self._whole = certificate.public_bytes(Encoding.DER)
        parts = next(pem.elements(certificate.tbs_certificate_bytes)).children()
        self._parts = parts[1:] if parts[0].tag == 0xA0 else parts  # without the version
        self._extensions = list(certificate.extensions)

    def shown(self, uri_strings: bool) -> Object:
        read = self._read
        _, _, issuer, _, subject, key, *_ = self._parts
        alternative = self._of(x509.SubjectAlternativeName)
        names: Object = alternative_names(alternative)
        usages, unknown_usages = self._extended_usages()
        return {
            "Raw": encoded(self._whole),
            "RawTBSCertificate": encoded(read.tbs_certificate_bytes),
            "RawSubjectPublicKeyInfo": encoded(key.whole),
            "RawSubject": encoded(subject.whole),
            "RawIssuer": encoded(issuer.whole),
            "Signature": encoded(read.signature),
            "SignatureAlgorithm": signature_algorithm(read),
            **public_key(read.public_key()),
            "Version": read.version.value + 1,
            "SerialNumber": int.from_bytes(self._parts[0].body, "big", signed=True),
            "Issuer": name(issuer),
            "Subject": name(subject),
            "NotBefore": _time(read.not_valid_before_utc),
            "NotAfter": _time(read.not_valid_after_utc),
            "KeyUsage": self._key_usage(),
            "Extensions": extensions(self._parts[-1].children()[0] if self._parts[-1].tag == 0xA3 else None),
            "ExtraExtensions": None,
            "UnhandledCriticalExtensions": [_numbers(each.oid) for each in self._unhandled()] or None,
            "ExtKeyUsage": usages or None,
            "UnknownExtKeyUsage": unknown_usages or None,
            **self._constraints(),
            "SubjectKeyId": self._key_id(),
            "AuthorityKeyId": self._authority(),
            **self._access(),
            **names,
            **self._name_constraints(),
            "CRLDistributionPoints": self._distribution_points() or None,
            **self._policies(),
            **({"URIStrings": self._uri_strings(alternative)} if uri_strings else {}),
        }

    def _of(self, kind: type[Any]) -> Any:
        return next((each.value for each in self._extensions if isinstance(each.value, kind)), None)

    def _unhandled(self) -> Iterator[x509.Extension[Any]]:
        for each in self._extensions:
            value = each.value
            unknown = (
                isinstance(value, x509.UnrecognizedExtension) and each.oid.dotted_string != _POLICY_MAPPINGS
            )
            nameless = isinstance(value, x509.SubjectAlternativeName) and not any(
                alternative_names(value).values()
            )
            if each.critical and (unknown or nameless or not isinstance(value, _HANDLED)):
                yield each

    def _key_usage(self) -> int:
        usage = self._of(x509.KeyUsage)
        return sum(1 << bit for bit, each in enumerate(_USAGES) if usage and getattr(usage, f"_{each}"))

    def _extended_usages(self) -> tuple[list[int], list[list[int]]]:
        given = [usage.dotted_string for usage in self._of(x509.ExtendedKeyUsage) or ()]
        known = [EXTENDED_USAGES[usage] for usage in given if usage in EXTENDED_USAGES]
        return known, [_dotted(usage) for usage in given if usage not in EXTENDED_USAGES]

    def _constraints(self) -> Object:
        basic = self._of(x509.BasicConstraints)
        length = 0 if basic is None else -1 if basic.path_length is None else basic.path_length
        return {
            "BasicConstraintsValid": basic is not None,
            "IsCA": basic is not None and basic.ca,
            "MaxPathLen": length,
            "MaxPathLenZero": basic is not None and length == 0,
        }

    def _key_id(self) -> str | None:
        identifier = self._of(x509.SubjectKeyIdentifier)
        return encoded(identifier.digest) if identifier else None

    def _authority(self) -> str | None:
        identifier = self._of(x509.AuthorityKeyIdentifier)
        found = identifier.key_identifier if identifier else None
        return encoded(found) if found is not None else None

    def _access(self) -> Object:
        given = [
            (each.access_method, each.access_location.value)
            for each in self._of(x509.AuthorityInformationAccess) or ()
            if isinstance(each.access_location, x509.UniformResourceIdentifier)
        ]
        method = AuthorityInformationAccessOID
        return {
            "OCSPServer": [where for what, where in given if what == method.OCSP] or None,
            "IssuingCertificateURL": [where for what, where in given if what == method.CA_ISSUERS] or None,
        }

    def _distribution_points(self) -> list[str]:
        return [
            where.value
            for point in self._of(x509.CRLDistributionPoints) or ()
            for where in point.full_name or ()
            if isinstance(where, x509.UniformResourceIdentifier)
        ]

    def _name_constraints(self) -> Object:
        given = self._of(x509.NameConstraints)
        critical = any(each.critical for each in self._extensions if each.value is given)
        shown: Object = {"PermittedDNSDomainsCritical": given is not None and critical}
        for side, given_trees in (
            ("Permitted", given.permitted_subtrees if given else None),
            ("Excluded", given.excluded_subtrees if given else None),
        ):
            trees = given_trees or ()
            if any(not isinstance(each, _CONSTRAINED) for each in trees):
                raise UnsupportedError("a certificate with name constraints of a rare kind")
            shown[f"{side}DNSDomains"] = values(trees, x509.DNSName)
            shown[f"{side}EmailAddresses"] = values(trees, x509.RFC822Name)
            shown[f"{side}URIDomains"] = values(trees, x509.UniformResourceIdentifier)
            shown[f"{side}IPRanges"] = [
                _network(each.value) for each in trees if isinstance(each, x509.IPAddress)
            ] or None
        return shown

    def _policies(self) -> Object:
        given = [each.policy_identifier.dotted_string for each in self._of(x509.CertificatePolicies) or ()]
        constraints = self._of(x509.PolicyConstraints)
        explicit = constraints.require_explicit_policy if constraints else None
        mapping = constraints.inhibit_policy_mapping if constraints else None
        inhibit = self._of(x509.InhibitAnyPolicy)
        skipped = inhibit.skip_certs if inhibit else None
        return {
            "PolicyIdentifiers": [_dotted(each) for each in given] or None,
            "Policies": given or None,
            "InhibitAnyPolicy": skipped or 0,
            "InhibitAnyPolicyZero": skipped == 0,
            "InhibitPolicyMapping": mapping or 0,
            "InhibitPolicyMappingZero": mapping == 0,
            "RequireExplicitPolicy": explicit or 0,
            "RequireExplicitPolicyZero": explicit == 0,
            "PolicyMappings": self._policy_mappings(),
        }

    def _policy_mappings(self) -> list[Object] | None:
        for each in self._extensions:
            if each.oid.dotted_string == _POLICY_MAPPINGS:
                pairs = [pair.children() for pair in next(pem.elements(each.value.value)).children()]
                return [
                    {"IssuerDomainPolicy": _dots(one.body), "SubjectDomainPolicy": _dots(other.body)}
                    for one, other in pairs
                ]
        return None

    @staticmethod
    def _uri_strings(names: x509.SubjectAlternativeName | None) -> list[str] | None:
        return [uri_text(each) for each in values(names or (), x509.UniformResourceIdentifier) or ()] or None


_HANDLED = (
    x509.AuthorityInformationAccess,
    x509.AuthorityKeyIdentifier,
    x509.BasicConstraints,
    x509.CRLDistributionPoints,
    x509.CertificatePolicies,
    x509.ExtendedKeyUsage,
    x509.InhibitAnyPolicy,
    x509.KeyUsage,
    x509.NameConstraints,
    x509.PolicyConstraints,
    x509.SubjectAlternativeName,
    x509.SubjectKeyIdentifier,
    x509.UnrecognizedExtension,
)
_CONSTRAINED = (x509.DNSName, x509.IPAddress, x509.RFC822Name, x509.UniformResourceIdentifier)


def _time(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ").rjust(20, "0")


def _dotted(text: str) -> list[int]:
    return [int(number) for number in text.split(".")]


def _dots(body: bytes) -> str:
    return ".".join(map(str, pem.oid(body)))


def _numbers(identifier: x509.ObjectIdentifier) -> list[int]:
    return _dotted(identifier.dotted_string)


def _network(network: Any) -> Object:
    return {"IP": str(network.network_address), "Mask": encoded(network.netmask.packed)}


def extensions(element: pem.Element | None) -> list[Object] | None:
    found = []
    for extension in element.children() if element is not None else ():
        identifier, *critical, value = extension.children()
        is_critical = bool(critical) and critical[0].body != b"\x00"
        found.append({"Id": pem.oid(identifier.body), "Critical": is_critical, "Value": encoded(value.body)})
    return found or None


def signature_algorithm(signed: x509.Certificate | x509.CertificateSigningRequest) -> int:
    identifier = signed.signature_algorithm_oid.dotted_string
    if identifier == _PSS:
        digest = signed.signature_hash_algorithm
        return _PSS_BY_DIGEST.get(digest.name if digest else "", 0)
    return _SIGNATURES.get(identifier, 0)


def public_key(key: Any) -> Object:
    if isinstance(key, rsa.RSAPublicKey):
        rsa_numbers = key.public_numbers()
        return {"PublicKeyAlgorithm": 1, "PublicKey": {"N": rsa_numbers.n, "E": rsa_numbers.e}}
    if isinstance(key, ec.EllipticCurvePublicKey):
        point = key.public_numbers()
        return {"PublicKeyAlgorithm": 3, "PublicKey": {"Curve": {}, "X": point.x, "Y": point.y}}
    if isinstance(key, ed25519.Ed25519PublicKey):
        raw = key.public_bytes(Encoding.Raw, PublicFormat.Raw)
        return {"PublicKeyAlgorithm": 4, "PublicKey": encoded(raw)}
    if isinstance(key, dsa.DSAPublicKey):
        numbers = key.public_numbers()
        parameters = numbers.parameter_numbers
        return {
            "PublicKeyAlgorithm": 2,
            "PublicKey": {"P": parameters.p, "Q": parameters.q, "G": parameters.g, "Y": numbers.y},
        }
    raise UnsupportedError("a certificate with a key of a rare kind")


@lru_cache(100)  # callers come back with their certificates
def _parsed(text: str) -> list[Any]:
    return limbs([shown(each, uri_strings=True) for each in certificates(text)])


BUILTINS = {"mixer.x509_certificates": lambda text: _known(_parsed(string(text)))}
