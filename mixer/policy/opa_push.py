"""Policies and data put into an OPA server, so that it holds all of them or is known not to.

OPA takes modules one request at a time, so nothing it has while a push is under way may decide. The document
`data.mixer_push` says what was pushed: it is set to incomplete first, and to complete last. With it stands a digest of
the modules: two that push at the same time leave a mixture, which does not match.

Of several Mixers that push different policies to one server, the one that was started last wins; the others decide by
its policies. So an old one and a new one never take turns, whichever finds the server empty after a restart.
"""

import contextlib
import hashlib
import os.path
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any, Final, Literal
from urllib.parse import quote

import orjson
import structlog

from mixer.errors import LoadError, PolicyError, Problem
from mixer.policy.bundle import package_of
from mixer.policy.documents import Module
from mixer.policy.opa_server import OpaServer, RefusedError, modules
from mixer.policy.sources import Sources

log = structlog.get_logger()

MARKER: Final = "mixer_push"  # the document below data
_OURS: Final = "mixer/"  # what ids of pushed modules begin with
_ABANDONED: Final = 5.0  # seconds that another's push may stand incomplete

Standing = Literal["ours", "others", "under way", "not there"]


@dataclass(frozen=True, slots=True)
class Marker:
    """What `data.mixer_push` says. `started`: of the Mixer that pushed, Unix seconds. `data`: keys below data."""

    revision: str
    content: str
    started: float
    data: tuple[str, ...]
    digest: str  # of the modules; "" while the push is under way

    @classmethod
    def read(cls, document: Any) -> "Marker | None":
        match document:
            case {
                "revision": str(revision),
                "content": str(content),
                "started": float() | int() as started,
                "data": [*data],
                "digest": str(digest),
            }:
                return cls(revision, content, float(started), tuple(map(str, data)), digest)
        return None


class Push:
    """What one Mixer pushes to one server."""

    def __init__(self, server: OpaServer, loaded: Sources) -> None:
        self._server = server
        self._modules = _named(loaded.modules)
        self._sources = {name: module.source for name, module in self._modules.items()}
        self._data = loaded.data
        self._started = time.time()
        self._abandoned_at: tuple[Marker | None, float] = (None, 0.0)
        self._own = Marker(
            loaded.revision,
            _digest(self._sources, orjson.dumps(loaded.data, option=orjson.OPT_SORT_KEYS)),
            self._started,
            tuple(sorted(loaded.data)),
            _digest(self._sources),
        )
        self.revision = loaded.revision

    @property
    def data(self) -> Mapping[str, Any]:
        return self._data

    def stands(self, policies: dict[str, str], marker: Marker | None) -> Standing:
        """Whose policies the server has: our own, those of a Mixer started later, or none that may decide."""
        whole = marker is not None and marker.digest == _digest(_pushed(policies))
        if marker is None:
            return "not there"
        if whole and marker.content == self._own.content:
            self.revision = self._own.revision
            return "ours"
        if marker.started <= self._started:
            return "not there"
        if whole:
            self.revision = marker.revision
            return "others"
        seen, since = self._abandoned_at
        if seen != marker:
            self._abandoned_at = marker, time.monotonic()
        elif time.monotonic() - since > _ABANDONED:
            return "not there"
        return "under way"

    async def put(self, policies: dict[str, str], marker: Marker | None) -> None:
        """Put all of it in the place of what was pushed before; what is OPA's own stays. Raises `PolicyError` for what
        OPA refuses, and then tries to leave what was there; `AwayError`."""
        await self._refuse_taken(policies, marker)
        before = set(marker.data) if marker is not None else set()
        keys = tuple(sorted(before | self._data.keys()))
        begun = Marker(self._own.revision, "", self._started, keys, "")
        await self._patch([], begun)
        old = _pushed(policies)
        try:
            await self._exchange(old)
            await self._patch([_add(key, value) for key, value in self._data.items()], begun)
        except LoadError:
            if marker is not None and marker.digest == _digest(old):
                await self._restore(old, marker)
            raise
        for key in sorted(before - self._data.keys()):
            with contextlib.suppress(RefusedError):  # it may be gone
                await self._server.call("DELETE", "data/" + quote(key, safe=""))
        await self._patch([], self._own)
        log.info("opa_pushed", url=self._server.url, revision=self._own.revision, modules=len(self._modules))

    async def _exchange(self, old: dict[str, str]) -> None:
        """The modules in the place of those pushed before."""
        changes: dict[str, str | None] = {name: None for name in old if name not in self._sources}
        changes |= {name: source for name, source in self._sources.items() if old.get(name) != source}
        if not await self._apply(changes):
            return
        # What is left fits neither beside the old ones: without those, then.
        await self._apply(dict.fromkeys(_pushed(await self._server.policies())))
        if problems := await self._apply(dict(self._sources)):
            raise PolicyError(problems)

    async def _apply(self, changes: dict[str, str | None]) -> list[Problem]:
        """Put modules and remove those that are None, in an order that OPA takes: each must find the functions that it
        calls. Answers what it takes in none."""
        while changes:
            left: dict[str, str | None] = {}
            problems: list[Problem] = []
            for name, source in changes.items():
                try:
                    if source is None:
                        await self._server.call("DELETE", _path(name))
                    else:
                        await self._server.call("PUT", _path(name), source.encode())
                except RefusedError as error:
                    if error.status == 404 and source is None:
                        continue  # another removed it
                    left[name] = source
                    problems += self._problems(name, error)
            if len(left) == len(changes):
                return problems
            changes = left
        return []

    async def _restore(self, old: dict[str, str], marker: Marker) -> None:
        now = _pushed(await self._server.policies())
        back: dict[str, str | None] = {name: None for name in now if name not in old}
        if not await self._apply(back | {name: text for name, text in old.items() if now.get(name) != text}):
            await self._patch([], marker)

    async def _refuse_taken(self, policies: dict[str, str], marker: Marker | None) -> None:
        """Raises `PolicyError` for data that OPA has from elsewhere: it would be lost."""
        packages = {(package_of(module) or "").partition("/")[0] for module in modules(policies)}
        before = set(marker.data) if marker is not None else set()
        problems = [
            Problem(
                f"data.{key}",
                "",
                f"OPA at {self._server.url} has it from elsewhere; leave it out there, or in policy.paths",
            )
            for key in self._data
            if key not in before | packages and await self._server.document(quote(key, safe="")) is not None
        ]
        if problems:
            raise PolicyError(problems)

    async def _patch(self, changes: list[dict[str, Any]], marker: Marker) -> None:
        """Change data and the marker together."""
        try:
            await self._server.call("PATCH", "data", orjson.dumps([*changes, _add(MARKER, marker)]))
        except RefusedError as error:
            raise PolicyError([Problem("data", "", _said(error))]) from None

    def _problems(self, name: str, error: RefusedError) -> list[Problem]:
        """What OPA says of a module, by the file that it came from."""
        found = []
        for said in (error.answer or {}).get("errors") or () if isinstance(error.answer, dict) else ():
            match said:
                case {"message": str(message), "location": {"file": str(file), "row": row, "col": column}}:
                    source = self._modules.get(file)
                    place = f"line {row}, column {column}"
                    found.append(Problem(source.file if source is not None else file, place, message))
                case {"message": str(message)}:
                    found.append(Problem(name, "", message))
        source = self._modules.get(name)
        return found or [Problem(source.file if source is not None else name, "", _said(error))]


def _named(given: tuple[Module, ...]) -> dict[str, Module]:
    """The modules by the ids that they get: wherever the folder lies, a Mixer beside this one gives the same."""
    folder = os.path.commonpath([PurePath(module.file).parent for module in given])
    return {_OURS + PurePath(module.file).relative_to(folder).as_posix(): module for module in given}


def _pushed(policies: Mapping[str, str]) -> dict[str, str]:
    return {name: source for name, source in policies.items() if name.startswith(_OURS)}


def _digest(sources: Mapping[str, str], data: bytes = b"") -> str:
    digest = hashlib.sha256()
    for name, source in sorted(sources.items()):
        for part in (name.encode(), source.encode()):
            digest.update(b"%d:%b" % (len(part), part))
    digest.update(data)
    return digest.hexdigest()


def _path(name: str) -> str:
    return "policies/" + quote(name)


def _add(key: str, value: Any) -> dict[str, Any]:
    return {"op": "add", "path": _pointer(key), "value": value}


def _pointer(key: str) -> str:
    """As OPA reads it: escaped for a URL, within that as a JSON pointer."""
    return "/" + quote(key.replace("~", "~0").replace("/", "~1"), safe="~")


def _said(error: RefusedError) -> str:
    hint = "; let the token write, or leave out policy.opa.push" if error.status in (401, 403) else ""
    return f"{error}{hint}"
