"""Headers that are secrets by their name: taken out of an event whether or not a policy masks them."""

from collections.abc import Collection, Iterator, Mapping
from typing import Any

from mixer.decisions.mask import Event, Mask

# Where headers stand: in the input as Envoy sends them, and in the decision.
_REQUEST = ("input", "attributes", "request", "http")
_DECISION = ("headers", "response_headers_to_add")


class Secrets:
    """`names`: of headers. What a policy's mask put in a header's place stays: its author has seen to it."""

    def __init__(self, names: Collection[str]) -> None:
        self._names = frozenset(name.lower() for name in names)

    def erase(self, event: Event, upserted: Collection[tuple[str, ...]]) -> list[str]:
        """Take secrets out of the event, its documents in place; answers their paths. `upserted`: paths that a policy
        gave another value."""
        done = []
        for path in list(self._found(event)):
            if not any(path[:end] in upserted for end in range(1, len(path) + 1)):
                mask = Mask(path)
                if mask.apply(event):
                    done.append(mask.name)
        return done

    def _found(self, event: Event) -> Iterator[tuple[str, ...]]:
        http = _at(event, _REQUEST)
        if isinstance(http, Mapping):
            yield from self._named(http.get("headers"), (*_REQUEST, "headers"))
            raw = _at(http, ("headerMap", "headers"))
            for number, header in enumerate(raw if isinstance(raw, list) else ()):
                if header.get("key", "").lower() in self._names:
                    for value in header.keys() & {"value", "rawValue"}:
                        yield (*_REQUEST, "headerMap", "headers", str(number), value)
        decision = event.get("result")
        if isinstance(decision, Mapping):
            for field in _DECISION:
                headers = decision.get(field)
                if isinstance(headers, list):
                    for number, group in enumerate(headers):
                        yield from self._named(group, ("result", field, str(number)))
                else:
                    yield from self._named(headers, ("result", field))

    def _named(self, headers: Any, at: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
        if isinstance(headers, Mapping):
            for name in headers:
                if name.lower() in self._names:
                    yield (*at, name)


def _at(node: Any, path: tuple[str, ...]) -> Any:
    for part in path:
        node = node.get(part) if isinstance(node, Mapping) else None
    return node
