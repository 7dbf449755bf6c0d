"""Chains of certificates verified as Go's `Certificate.Verify` does it (RFC 5280, 6): the first is the root, the last
the leaf, those between may stand between.

Name constraints and required policies are not followed: where a chain has them, the evaluation fails. Source: Go's
`crypto/x509/verify.go`.
"""

import ipaddress
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm

from mixer.policy.builtins.certificate_names import Object
from mixer.policy.builtins.certificates import certificates, handed, shown
from mixer.policy.builtins.operands import BuiltinError, UnsupportedError, integer, mapping, string

_ANY, _SERVER = 0, 1
_USAGES = {
    name: number
    for number, name in enumerate(
        """
        KeyUsageAny KeyUsageServerAuth KeyUsageClientAuth KeyUsageCodeSigning KeyUsageEmailProtection
        KeyUsageIPSECEndSystem KeyUsageIPSECTunnel KeyUsageIPSECUser KeyUsageTimeStamping KeyUsageOCSPSigning
        KeyUsageMicrosoftServerGatedCrypto KeyUsageNetscapeServerGatedCrypto KeyUsageMicrosoftCommercialCodeSigning
        KeyUsageMicrosoftKernelCodeSigning
        """.split()  # noqa: SIM905
    )
}
_INSECURE = frozenset([0, 2, 3, 9])  # signature algorithms: unknown, MD5, SHA-1
_MOST_CHECKS = 100  # signatures, of which a chain may need so many
_SIGNS_CERTIFICATES = 32
_LABEL = re.compile(r"[A-Za-z0-9_-]+")


@dataclass(frozen=True, slots=True)
class _Cert:
    read: x509.Certificate
    shown: Object

    def is_in(self, chain: "list[_Cert]") -> bool:
        parts = ("RawSubject", "PublicKey", "DNSNames", "EmailAddresses", "IPAddresses", "URIs")
        return any(all(self.shown[part] == each.shown[part] for part in parts) for each in chain)


@dataclass(slots=True)
class _Options:
    dns_name: str = ""
    now: float | None = None  # Unix seconds
    usages: tuple[int, ...] = ()


class _InvalidError(Exception):
    pass


class _Verification:
    def __init__(self, certs: list[_Cert], options: _Options) -> None:
        self._root, *self._between, self._leaf = certs
        self._now = time.time() if options.now is None else options.now
        self._options = options
        self._checks = 0

    def chain(self) -> list[_Cert]:
        """The first chain from the leaf to the root. Raises `_InvalidError`."""
        if self._leaf.shown["UnhandledCriticalExtensions"]:
            raise _InvalidError
        self._check(self._leaf, [])
        if self._options.dns_name:
            _check_host(self._leaf.shown, self._options.dns_name)
        whole = [[self._leaf]] if self._leaf.read == self._root.read else self._chains([self._leaf])
        usages = self._options.usages or (_SERVER,)
        for chain in whole:
            if _has_policies(chain):
                raise UnsupportedError("verification of a chain that requires policies")
            if _ANY in usages or _serves(chain, usages):
                return chain
        raise _InvalidError

    def _chains(self, chain: list[_Cert]) -> Iterator[list[_Cert]]:
        issuer = chain[-1].shown["RawIssuer"]
        candidates = [(self._root, True), *((each, False) for each in self._between)]
        for candidate, is_root in candidates:
            if candidate.shown["RawSubject"] != issuer or candidate.is_in(chain):
                continue
            self._checks += 1
            if self._checks > _MOST_CHECKS:
                raise _InvalidError
            if not _signed(chain[-1], candidate):
                continue
            try:
                self._check(candidate, chain, intermediate=not is_root)
            except _InvalidError:
                continue
            if is_root:
                yield [*chain, candidate]
            else:
                yield from self._chains([*chain, candidate])

    def _check(self, cert: _Cert, chain: list[_Cert], intermediate: bool = False) -> None:
        read, given = cert.read, cert.shown
        if (
            self._now < read.not_valid_before_utc.timestamp()
            or self._now > read.not_valid_after_utc.timestamp()
        ):
            raise _InvalidError
        if chain and any(given[name] for name in given if name.startswith(("Permitted", "Excluded"))):
            raise UnsupportedError("verification of a chain with name constraints")
        if intermediate and not given["IsCA"]:
            raise _InvalidError
        if chain and given["BasicConstraintsValid"] and 0 <= given["MaxPathLen"] < len(chain) - 1:
            raise _InvalidError


def _signed(cert: _Cert, by: _Cert) -> bool:
    parent = by.shown
    if (parent["Version"] == 3 and not parent["BasicConstraintsValid"]) or (
        parent["BasicConstraintsValid"] and not parent["IsCA"]
    ):
        return False
    if parent["KeyUsage"] and not parent["KeyUsage"] & _SIGNS_CERTIFICATES:
        return False
    if cert.shown["SignatureAlgorithm"] in _INSECURE:
        return False
    try:
        cert.read.verify_directly_issued_by(by.read)
    except (ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm):
        return False
    return True


def _has_policies(chain: list[_Cert]) -> bool:
    parts = ("RequireExplicitPolicy", "RequireExplicitPolicyZero")
    return any(cert.shown[part] for cert in chain for part in parts)


def _serves(chain: list[_Cert], usages: tuple[int, ...]) -> bool:
    """Whether one of the usages is every certificate's, from the root down."""
    left = set(usages)
    for cert in reversed(chain):
        known, unknown = cert.shown["ExtKeyUsage"] or [], cert.shown["UnknownExtKeyUsage"]
        if (known or unknown) and _ANY not in known:
            left &= set(known)
    return bool(left)


def _check_host(leaf: Object, name: str) -> None:
    """Raises `_InvalidError` where the certificate is not for this host."""
    literal = name[1:-1] if name.startswith("[") and name.endswith("]") else name
    try:
        address = ipaddress.ip_address(literal)
    except ValueError:
        pass
    else:
        if not any(ipaddress.ip_address(each) == address for each in leaf["IPAddresses"] or ()):
            raise _InvalidError
        return
    candidate = name.lower().removesuffix(".")
    valid = _is_host(candidate, pattern=False)
    for pattern in leaf["DNSNames"] or ():
        given = pattern.lower()
        if valid and _is_host(given, pattern=True):
            if _matches(given, candidate):
                return
        elif given == name.lower():
            return
    raise _InvalidError


def _is_host(name: str, *, pattern: bool) -> bool:
    labels = name.split(".")
    if pattern and labels[0] == "*":
        labels = labels[1:]
    return bool(labels) and all(_LABEL.fullmatch(label) and not label.startswith("-") for label in labels)


def _matches(pattern: str, host: str) -> bool:
    patterns, hosts = pattern.removesuffix(".").split("."), host.split(".")
    if len(patterns) != len(hosts):
        return False
    return all(
        (at == 0 and one == "*") or one == two
        for at, (one, two) in enumerate(zip(patterns, hosts, strict=True))
    )


def _options(given: object) -> _Options:
    options = _Options()
    for key, value in mapping(given).items():
        if key == "DNSName":
            options.dns_name = string(value).strip('"')
        elif key == "CurrentTime":
            options.now = integer(value) / 1e9
        elif key == "MaxConstraintComparisons":
            integer(value)  # name constraints are not followed
        elif key == "KeyUsages":
            options.usages = _usages(value)
        elif isinstance(key, str):
            raise BuiltinError("invalid key option")
    return options


def _usages(value: object) -> tuple[int, ...]:
    if not isinstance(value, list | set):
        raise BuiltinError("KeyUsages must be an array or a set")
    names = [name.strip('"') for name in value if isinstance(name, str)]
    if any(name not in _USAGES for name in names):
        raise BuiltinError("invalid entries for KeyUsages")
    return tuple(_USAGES[name] for name in names)


def _verified(text: object, options: _Options, uri_strings: bool) -> list[Any]:
    given = string(text)
    try:
        certs = [_Cert(each, shown(each, uri_strings)) for each in certificates(given)]
    except BuiltinError:
        return handed([False, []])
    if len(certs) < 2:
        return handed([False, []])
    try:
        chain = _Verification(certs, options).chain()
    except _InvalidError:
        return handed([False, []])
    return handed([True, [cert.shown for cert in chain]])


BUILTINS = {
    "mixer.x509_verified": lambda text: _verified(text, _Options(), uri_strings=True),
    "mixer.x509_verified_with": lambda text, options: _verified(text, _options(options), uri_strings=False),
}
