"""What of a request no record has: headers that are secrets, values in queries, who a URL says its user is."""

from collections.abc import Callable, Iterable, Mapping
from urllib.parse import unquote_plus

# Secrets by their nature. They do not enter a record, whatever Envoy was told to log.
DROPPED_HEADERS = frozenset(
    {b"authorization", b"proxy-authorization", b"cookie", b"set-cookie", b"x-api-key"}
)
# Headers whose value is a URL, or the end of one.
URL_HEADERS = frozenset(
    {b":path", b"content-location", b"location", b"origin", b"referer", b"x-envoy-original-path"}
    | {b"x-forwarded-uri", b"x-original-uri", b"x-original-url", b"x-rewrite-url", b":authority", b"host"}
)
REDACTED = "REDACTED"  # OpenTelemetry's word for it (semantic conventions, url.query)


class Redaction:
    """`headers`: names of those dropped beside `DROPPED_HEADERS`; `query`: names of parameters whose values are
    replaced. Case does not matter for either."""

    def __init__(self, headers: Iterable[str] = (), query: Iterable[str] = ()) -> None:
        self._headers = DROPPED_HEADERS | {name.lower().encode() for name in headers}
        self._query = frozenset(name.lower() for name in query)
        # Where none of these is, none of the names is.
        self._within = tuple(
            name for name in self._query if not any(other in name for other in self._query - {name})
        )
        self.fields: Mapping[str, Callable[[str], str]] = {
            "url_query": self.query,
            "envoy_referer": self.url,
            "envoy_rewritten_path": lambda text: self.url(text).partition("?")[0],
        }
        """What a record may have of its fields, by their names."""

    def header(self, name: bytes, value: bytes) -> bytes | None:
        """The value that a record may have of a header, by its lower-case name; None: none."""
        if name in self._headers:
            return None
        return self.url(value.decode("utf-8", "replace")).encode() if name in URL_HEADERS else value

    def is_harmless(self, text: str) -> bool:
        """Whether it is certain that no query in this text has a secret parameter. A hundred queries take little more
        time than one."""
        if not self._query or "=" not in text:
            return True
        if "%" in text or "+" in text or not text.isascii():  # a name may be spelled in another way
            return False
        plain = text.lower()
        return not any(name in plain for name in self._within)

    def tag(self, text: str) -> str:
        """The value that a record may have of a custom tag."""
        return self.url(text) if "://" in text or text.startswith("/") else text

    def query(self, text: str) -> str:
        """A query without the values of its secret parameters, however a client spelled their names."""
        if self.is_harmless(text):
            return text
        return "&".join(
            ";".join(map(self._parameter, part.split(";"))) if ";" in part else self._parameter(part)
            for part in text.split("&")
        )

    def _parameter(self, text: str) -> str:
        name, equals, _ = text.partition("=")
        plain = unquote_plus(name) if "%" in name or "+" in name else name
        return f"{name}={REDACTED}" if equals and plain.lower() in self._query else text

    def url(self, text: str) -> str:
        """A URL, or a path with its query, likewise, and without user and password."""
        start, mark, query = text.partition("?")
        before, hash_, fragment = start.partition("#")
        scheme, slashes, rest = before.partition("//")
        authority, slash, path = rest.partition("/") if slashes else before.partition("/")
        if "@" in authority:
            authority = authority.rpartition("@")[2]
        plain = f"{scheme}{slashes}{authority}" if slashes else authority
        query, ended, after = query.partition("#")
        # A fragment may hold what a query may: a token, in OAuth's implicit flow.
        fragment, after = self.query(fragment), self.query(after)
        return f"{plain}{slash}{path}{hash_}{fragment}{mark}{self.query(query)}{ended}{after}"
