"""Certificates, requests and keys in the embedded engine and in a real OPA: the same objects, to the last field.

What is too large for the embedded engine to write (the modulus of an RSA key) is looked at in hexadecimal.
"""

# ruff: noqa: E501, UP031 (a table: a rule a line)

import ipaddress
import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import AttributeOID, AuthorityInformationAccessOID, ExtendedKeyUsageOID, NameOID

from mixer.errors import DecisionError
from mixer.policy.program import Program
from mixer.policy.sources import Module, Sources
from tests.components import processes
from tests.components.processes import Opa
from tests.contract.test_rego import UNDEFINED

START = datetime(2026, 1, 1, tzinfo=UTC)
NOW = int((START + timedelta(days=10)).timestamp()) * 10**9  # nanoseconds
SERIAL = 0x0A1B2C3D4E5F60718293A4B5C6D7E8F901234567
OID = x509.ObjectIdentifier

ROOT_KEY = rsa.generate_private_key(65537, 2048)
KEY = ec.generate_private_key(ec.SECP256R1())
EDWARDS_KEY = ed25519.Ed25519PrivateKey.generate()
P521_KEY = ec.generate_private_key(ec.SECP521R1())


def name(*attributes: tuple[x509.ObjectIdentifier, str]) -> x509.Name:
    return x509.Name([x509.NameAttribute(kind, value) for kind, value in attributes])


ROOT_NAME = name((NameOID.COUNTRY_NAME, "DE"), (NameOID.ORGANIZATION_NAME, "Örg"), (NameOID.COMMON_NAME, "r"))
LEAF_NAME = name(
    (NameOID.COUNTRY_NAME, "DE"),
    (NameOID.STATE_OR_PROVINCE_NAME, "B"),
    (NameOID.LOCALITY_NAME, "C"),
    (NameOID.STREET_ADDRESS, "S"),
    (NameOID.POSTAL_CODE, "1"),
    (NameOID.ORGANIZATION_NAME, "O1"),
    (NameOID.ORGANIZATION_NAME, "O2"),
    (NameOID.ORGANIZATIONAL_UNIT_NAME, "OU"),
    (NameOID.SERIAL_NUMBER, "77"),
    (NameOID.COMMON_NAME, 'leaf, "x"'),
    (NameOID.EMAIL_ADDRESS, "a@b.c"),
)
CA = (x509.BasicConstraints(ca=True, path_length=None), True)
NAMES = x509.SubjectAlternativeName(
    [
        x509.DNSName("a.test"),
        x509.DNSName("*.b.test"),
        x509.RFC822Name("a@b.c"),
        x509.IPAddress(ipaddress.ip_address("10.0.0.1")),
        x509.IPAddress(ipaddress.ip_address("::1")),
        x509.UniformResourceIdentifier("spiffe://td/ns/x?a=b#c"),
        x509.UniformResourceIdentifier("https://u:p@h.test:81/a%20b/%2F"),
        x509.UniformResourceIdentifier("urn:uuid:1"),
    ]
)


def certificate(
    key: Any,
    subject: x509.Name,
    *extensions: tuple[x509.ExtensionType, bool],
    by: Any = ROOT_KEY,
    issuer: x509.Name = ROOT_NAME,
    serial: int = SERIAL,
    days: int = 365,
) -> str:
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(serial)
        .not_valid_before(START)
        .not_valid_after(START + timedelta(days=days))
    )
    for extension, critical in extensions:
        builder = builder.add_extension(extension, critical)
    digest = None if isinstance(by, ed25519.Ed25519PrivateKey) else hashes.SHA256()
    return builder.sign(by, digest).public_bytes(Encoding.PEM).decode()


def usage(**given: bool) -> x509.KeyUsage:
    parts = (
        "digital_signature content_commitment key_encipherment data_encipherment key_agreement key_cert_sign"
    )
    every = [*parts.split(), "crl_sign", "encipher_only", "decipher_only"]
    return x509.KeyUsage(**{part: given.get(part, False) for part in every})


def access(method: x509.ObjectIdentifier, where: str) -> x509.AccessDescription:
    return x509.AccessDescription(method, x509.UniformResourceIdentifier(where))


ROOT = certificate(
    ROOT_KEY,
    ROOT_NAME,
    (x509.BasicConstraints(ca=True, path_length=1), True),
    (usage(key_cert_sign=True, crl_sign=True, digital_signature=True), True),
    (x509.SubjectKeyIdentifier.from_public_key(ROOT_KEY.public_key()), False),
)
CLIENT = (x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]), False)
SERVER = (x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), False)
LEAF = certificate(KEY, LEAF_NAME, (NAMES, False), SERVER)
FULL = certificate(
    KEY,
    LEAF_NAME,
    (NAMES, False),
    (x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH, OID("1.2.3.4")]), False),
    (x509.AuthorityKeyIdentifier.from_issuer_public_key(ROOT_KEY.public_key()), False),
    (
        x509.AuthorityInformationAccess(
            [
                access(AuthorityInformationAccessOID.OCSP, "http://o"),
                access(AuthorityInformationAccessOID.CA_ISSUERS, "http://i"),
            ]
        ),
        False,
    ),
    (
        x509.CRLDistributionPoints(
            [x509.DistributionPoint([x509.UniformResourceIdentifier("http://c")], None, None, None)]
        ),
        False,
    ),
    (x509.CertificatePolicies([x509.PolicyInformation(OID("2.23.140.1.2.1"), None)]), False),
    (x509.UnrecognizedExtension(OID("1.2.3.4.5"), b"\x04\x01a"), True),
    (x509.InhibitAnyPolicy(0), True),
    (x509.PolicyConstraints(1, 0), True),
)
CONSTRAINED = certificate(
    ROOT_KEY,
    ROOT_NAME,
    CA,
    (
        x509.NameConstraints(
            [x509.DNSName(".test"), x509.IPAddress(ipaddress.ip_network("10.0.0.0/8"))],
            [x509.RFC822Name("x.y"), x509.UniformResourceIdentifier("a.b")],
        ),
        True,
    ),
)
EDWARDS = certificate(EDWARDS_KEY, ROOT_NAME, by=EDWARDS_KEY, serial=1)
MIDDLE_NAME = name((NameOID.COMMON_NAME, "middle"))
MIDDLE = certificate(P521_KEY, MIDDLE_NAME, CA)
BELOW = certificate(KEY, LEAF_NAME, (NAMES, False), SERVER, by=P521_KEY, issuer=MIDDLE_NAME)
REQUEST = (
    x509.CertificateSigningRequestBuilder()
    .subject_name(LEAF_NAME)
    .add_extension(NAMES, critical=False)
    .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
    .add_attribute(AttributeOID.CHALLENGE_PASSWORD, b"pw")
    .sign(KEY, hashes.SHA256())
    .public_bytes(Encoding.PEM)
    .decode()
)


def pem(key: Any, form: PrivateFormat = PrivateFormat.PKCS8) -> str:
    return str(key.private_bytes(Encoding.PEM, form, NoEncryption()).decode())


def call(builtin: str, *operands: Any) -> str:
    return f"{builtin}({', '.join(map(json.dumps, operands))})"


def parsed(text: str) -> str:
    return call("crypto.x509.parse_certificates", text)


def verified(*chain: str, **options: Any) -> str:
    return call(
        "crypto.x509.parse_and_verify_certificates_with_options",
        "".join(chain),
        {"CurrentTime": NOW, **options},
    )


WITHOUT_KEY = 'x := [object.remove(c, ["PublicKey"]) | some c in %s]'
KEY_IN_HEX = 'x := [format_int(v, 16) | some c in %s; some k in ["N", "X", "Y"]; v := c.PublicKey[k]]'
CHAIN = "x := [r[0], [c.Subject.CommonName | some c in r[1]]] if { r := %s }"
RULES = [
    *(WITHOUT_KEY % parsed(text) for text in (ROOT, FULL, CONSTRAINED, EDWARDS, MIDDLE + ROOT)),
    *(KEY_IN_HEX % parsed(text) for text in (ROOT, LEAF, MIDDLE)),
    "x := %s[0].PublicKey" % parsed(EDWARDS),
    "x := [sprintf(\"%%v\", [c.SerialNumber > 5]), c.SerialNumber, json.marshal(c.SerialNumber)] if { c := %s[0] }" % parsed(ROOT),
    "x := %s" % parsed(""),
    "x := %s" % parsed("text"),
    "x := %s" % parsed(pem(KEY)),
    "x := [c.Subject.CommonName | some c in %s]" % parsed("before\n" + ROOT + "between\n" + LEAF),
    "x := [c.Subject.CommonName | some c in %s]" % parsed(ROOT + "after"),
    'x := object.remove(r, ["PublicKey"]) if { r := %s }' % call("crypto.x509.parse_certificate_request", REQUEST),
    "x := 1 if not %s" % call("crypto.x509.parse_certificate_request", ROOT),
    'x := [object.remove(r, ["PrivateKey", "Leaf"]), object.remove(r.Leaf, ["PublicKey"]), format_int(r.PrivateKey.D, 16)] if { r := %s }' % call("crypto.x509.parse_keypair", LEAF, pem(KEY)),
    "x := %s" % call("crypto.x509.parse_keypair", EDWARDS, pem(EDWARDS_KEY)),
    "x := %s" % call("crypto.x509.parse_keypair", LEAF, pem(P521_KEY)),
    "x := [[format_int(k.D, 16), k.Curve] | some k in %s]" % call("crypto.parse_private_keys", pem(KEY) + pem(P521_KEY, PrivateFormat.TraditionalOpenSSL)),
    "x := [[format_int(v, 16) | some v in [k.N, k.D, k.E, k.Primes[0], k.Primes[1], k.Precomputed.Dp, k.Precomputed.Dq, k.Precomputed.Qinv]] | some k in %s]" % call("crypto.parse_private_keys", pem(ROOT_KEY, PrivateFormat.TraditionalOpenSSL)),
    "x := %s" % call("crypto.parse_private_keys", pem(EDWARDS_KEY)),
    "x := %s" % call("crypto.parse_private_keys", ""),
    "x := %s" % call("crypto.parse_private_keys", ROOT),
    *("x := %s" % call("crypto.x509.parse_rsa_private_key", pem(key)) for key in (ROOT_KEY, KEY, EDWARDS_KEY, P521_KEY)),
    "x := %s" % call("crypto.x509.parse_rsa_private_key", ROOT),
    CHAIN % verified(ROOT, LEAF),
    CHAIN % verified(ROOT, LEAF, KeyUsages=["KeyUsageClientAuth"]),
    CHAIN % verified(ROOT, LEAF, KeyUsages=["KeyUsageAny"]),
    CHAIN % verified(ROOT, LEAF, KeyUsages=["KeyUsageNone"]),
    CHAIN % verified(ROOT, LEAF, DNSName="A.test"),
    CHAIN % verified(ROOT, LEAF, DNSName="x.b.test"),
    CHAIN % verified(ROOT, LEAF, DNSName="x.y.b.test"),
    CHAIN % verified(ROOT, LEAF, DNSName="b.test"),
    CHAIN % verified(ROOT, LEAF, DNSName="10.0.0.1"),
    CHAIN % verified(ROOT, LEAF, DNSName="[::1]"),
    CHAIN % verified(ROOT, LEAF, DNSName="10.0.0.2"),
    CHAIN % verified(ROOT, LEAF, CurrentTime=1),
    CHAIN % verified(ROOT, LEAF, Other=1),
    CHAIN % verified(ROOT, LEAF, DNSName=1),
    CHAIN % verified(ROOT, MIDDLE, BELOW),
    CHAIN % verified(ROOT, BELOW),
    CHAIN % verified(ROOT, FULL),
    CHAIN % verified(EDWARDS, LEAF),
    CHAIN % verified(LEAF, BELOW),
    CHAIN % verified(ROOT, certificate(KEY, LEAF_NAME, CLIENT), KeyUsages=["KeyUsageClientAuth", "KeyUsageServerAuth"]),
    CHAIN % verified(ROOT, ROOT),
    CHAIN % verified(ROOT),
    CHAIN % verified("text"),
    CHAIN % verified(certificate(ROOT_KEY, ROOT_NAME, (x509.BasicConstraints(ca=True, path_length=0), True)), MIDDLE, BELOW),
    CHAIN % verified(certificate(ROOT_KEY, ROOT_NAME, CA, (usage(crl_sign=True), True)), LEAF),
    CHAIN % verified(certificate(ROOT_KEY, ROOT_NAME), LEAF),
    CHAIN % call("crypto.x509.parse_and_verify_certificates", certificate(ROOT_KEY, ROOT_NAME, CA, days=10_000) + certificate(KEY, LEAF_NAME, days=10_000)),
    "x := %s[1][0].URIStrings" % call("crypto.x509.parse_and_verify_certificates", certificate(ROOT_KEY, ROOT_NAME, CA, days=10_000) + certificate(KEY, LEAF_NAME, (NAMES, False), days=10_000)),
]  # fmt: skip


@pytest.fixture(scope="module")
def opa() -> Iterator[Opa]:
    with processes.opa() as server:
        yield server


def by_opa(server: Opa, module: str) -> Any:
    status, problem = server.call("PUT", "/v1/policies/p", module)
    assert status == 200, problem
    status, answer = server.call("POST", "/v1/data/p/x", {"input": {}})
    assert status == 200
    return answer.get("result", UNDEFINED)


def by_embedded(module: str) -> Any:
    answer = Program(Sources((Module("p.rego", module),), {}, ""), "p/x").evaluate(b"{}")
    return UNDEFINED if answer is None else json.loads(answer)


@pytest.mark.parametrize("number", range(len(RULES)))
def test_object_is_opas(opa: Opa, number: int) -> None:
    module = f"package p\n\n{RULES[number]}\n"
    expected = by_opa(opa, module)
    assert by_embedded(module) == expected, RULES[number]


def test_what_is_not_followed_fails_the_evaluation() -> None:
    rule = CHAIN % verified(CONSTRAINED, LEAF)
    with pytest.raises(DecisionError, match="name constraints"):
        by_embedded(f"package p\n\n{rule}\n")
