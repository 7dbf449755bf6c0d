"""Names in certificates: distinguished ones (RFC 5280, 4.1.2.4), and the alternative ones with their URIs, as Go shows
them."""

from typing import Any

from cryptography import x509

from mixer.policy.builtins import pem
from mixer.policy.builtins.operands import BuiltinError, UnsupportedError
from mixer.policy.builtins.uri import escaped_path, parse

Object = dict[str, Any]

_NAMES: dict[tuple[int, ...], str] = {
    (2, 5, 4, 6): "Country",
    (2, 5, 4, 7): "Locality",
    (2, 5, 4, 8): "Province",
    (2, 5, 4, 9): "StreetAddress",
    (2, 5, 4, 10): "Organization",
    (2, 5, 4, 11): "OrganizationalUnit",
    (2, 5, 4, 17): "PostalCode",
}
_SINGLE: dict[tuple[int, ...], str] = {(2, 5, 4, 3): "CommonName", (2, 5, 4, 5): "SerialNumber"}
_TEXTS = {0x0C: "utf-8", 0x12: "ascii", 0x13: "ascii", 0x14: "latin-1", 0x16: "ascii", 0x1E: "utf-16-be"}


def values(names: Any, kind: type[Any]) -> list[Any] | None:
    return [each.value for each in names if isinstance(each, kind)] or None


def alternative_names(given: x509.SubjectAlternativeName | None) -> Object:
    names = given or ()
    return {
        "DNSNames": values(names, x509.DNSName),
        "EmailAddresses": values(names, x509.RFC822Name),
        "IPAddresses": [str(each) for each in values(names, x509.IPAddress) or ()] or None,
        "URIs": [_uri(each) for each in values(names, x509.UniformResourceIdentifier) or ()] or None,
    }


def _uri(text: str) -> Object:
    url = parse(text)
    if "%" in text.partition("#")[2]:
        raise UnsupportedError("a URI with an escape in its fragment")
    rest = text.partition(":")[2]
    return {
        "Scheme": url.scheme,
        "Opaque": url.opaque,
        "User": None if url.user is None else {},
        "Host": url.host,
        "Path": url.path,
        "RawPath": url.raw_path,
        "OmitHost": bool(url.scheme) and rest.startswith("/") and not rest.startswith("//"),
        "ForceQuery": text.partition("#")[0].endswith("?") and not url.query,
        "RawQuery": url.query,
        "Fragment": url.fragment,
        "RawFragment": "",
    }


def uri_text(text: str) -> str:
    """The URI as Go's `url.String` writes it again."""
    url = parse(text)
    shown = _uri(text)
    if url.user is not None and not url.user.replace(":", "").isalnum():
        raise UnsupportedError("a URI with a user that is not plain")
    user = "" if url.user is None else f"{url.user}@"
    authority = f"//{user}{url.host}" if url.host or user or url.path.startswith("//") else ""
    body = url.opaque or authority + escaped_path(url)
    query = f"?{url.query}" if url.query or shown["ForceQuery"] else ""
    fragment = f"#{url.fragment}" if url.fragment else ""
    return f"{url.scheme}:{body}{query}{fragment}" if url.scheme else body + query + fragment


def name(element: pem.Element) -> Object:
    """A distinguished name."""
    found: Object = dict.fromkeys(_NAMES.values())
    found |= {"SerialNumber": "", "CommonName": "", "Names": None, "ExtraNames": None}
    names = []
    for attributes in element.children():
        for attribute in attributes.children():
            kind, value = attribute.children()
            numbers = pem.oid(kind.body)
            if value.tag not in _TEXTS:
                raise BuiltinError("a name that is no text")
            text = value.body.decode(_TEXTS[value.tag])
            names.append({"Type": numbers, "Value": text})
            if (field := _NAMES.get(tuple(numbers))) is not None:
                found[field] = [*(found[field] or ()), text]
            elif (field := _SINGLE.get(tuple(numbers))) is not None:
                found[field] = text
    return {**found, "Names": names or None}
