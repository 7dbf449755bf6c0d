"""`http.send` and `net.lookup_ip_addr` for the embedded engine, which never hold the event loop.

An evaluation that meets a call whose reply is not there ends with it. The reply is awaited on the loop, while other
checks go on, and the policy is evaluated again with it; so on, until nothing is missing. What OPA keeps for one query
(`time.now_ns`, `rand.intn`, `uuid.rfc4122`) is the same in all of these evaluations.
"""

import asyncio
import random
import socket
import time
import uuid
from collections import OrderedDict
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, TypeVar

from mixer import config
from mixer.errors import DecisionError
from mixer.policy.builtins import Builtin, BuiltinError, http
from mixer.policy.builtins.numbers import HELD
from mixer.policy.builtins.operands import UnsupportedError, integer, string

if TYPE_CHECKING:
    from mixer.policy.http_client import HttpClient

Result = TypeVar("Result")
Chosen = TypeVar("Chosen")
_MOST = 100  # replies that one evaluation may wait for, one after the other


class _WaitError(Exception):
    """Ends an evaluation whose reply is to be awaited."""


@dataclass(slots=True)
class _Evaluation:
    """What one check's evaluations have in common. `replies`: JSON text, addresses, or an error, by request."""

    now: int = field(default_factory=time.time_ns)
    replies: dict[str, str | list[str] | Exception] = field(default_factory=dict)
    chosen: dict[tuple[str, object], Any] = field(default_factory=dict)  # by chance, and kept
    missing: http.Request | str | None = None  # a request, or a host's name

    @property
    def waits(self) -> bool:
        return self.missing is not None


@dataclass(frozen=True, slots=True)
class _Kept:
    reply: http.Reply
    expires: float  # Unix seconds

    @property
    def size(self) -> int:
        return len(self.reply.body) + sum(
            len(name) + sum(map(len, v)) for name, v in self.reply.headers.items()
        )


class Network:
    """Connections, and replies kept for later checks (`cache`, `force_cache`), for all policies of one loop."""

    def __init__(self, settings: config.Http) -> None:
        self._settings = settings
        self._client: HttpClient | None = None
        self._waiting = 0
        self._now: _Evaluation | None = None
        self._kept: OrderedDict[str, _Kept] = OrderedDict()
        self._size = 0

    def builtins(self) -> dict[str, Builtin]:
        return {
            "mixer.http_send": (1, self._http_send),
            "net.lookup_ip_addr": (1, self._lookup),
            "time.now_ns": (0, lambda: self._evaluation.now),
            "rand.intn": (2, self._random),
            "uuid.rfc4122": (
                1,
                lambda key: self._choice("uuid.rfc4122", string(key), lambda: str(uuid.uuid4())),
            ),
        }

    def decide(
        self, evaluate: Callable[[], Result], timeout: float | None
    ) -> Result | Coroutine[Any, Any, Result]:
        """What `evaluate` gives: at once where no reply is missing, else to be awaited. Raises `DecisionError`."""
        evaluation = _Evaluation()
        value = self._evaluated(evaluate, evaluation)
        if value is not None:
            return value
        if self._waiting >= self._settings.max_waiting:
            raise DecisionError(
                "overload", f"{self._waiting} checks wait for replies already (policy.http.max_waiting)"
            )
        return self._awaited(evaluate, evaluation, timeout)

    async def _awaited(
        self, evaluate: Callable[[], Result], evaluation: _Evaluation, timeout: float | None
    ) -> Result:
        self._waiting += 1
        try:
            async with asyncio.timeout(timeout):
                for _ in range(_MOST):
                    await self._await(evaluation)
                    if (value := self._evaluated(evaluate, evaluation)) is not None:
                        return value
        except TimeoutError:
            raise DecisionError("timeout", f"a reply did not come within {timeout or 0:.3f} s") from None
        finally:
            self._waiting -= 1
        raise DecisionError("evaluation", f"the policy asks for more than {_MOST} replies")

    def _evaluated(self, evaluate: Callable[[], Result], evaluation: _Evaluation) -> Result | None:
        """None where a reply is missing."""
        evaluation.missing, self._now = None, evaluation
        value: Result | None = None
        try:
            value = evaluate()
        except DecisionError as error:
            if not evaluation.waits or error.reason == "limit":
                raise
        finally:
            self._now = None
        return None if evaluation.waits else value

    @property
    def _evaluation(self) -> _Evaluation:
        return self._now or _Evaluation()  # at load, say, when the policy is compiled

    def _reply(self, key: str, missing: http.Request | str) -> str | list[str]:
        reply = self._evaluation.replies.get(key)
        if reply is None:
            self._evaluation.missing = missing
            raise _WaitError
        if isinstance(reply, Exception):
            raise reply
        return reply

    def _http_send(self, operand: object) -> str:
        """The reply as JSON text."""
        raises = http.raises(operand)
        try:
            asked = http.request(operand)
            reply = str(self._reply(asked.key, asked))
        except http.SendError as error:
            if raises:
                raise BuiltinError("http.send failed") from None
            return http.failure(error)
        HELD.watch(reply)
        return reply

    def _lookup(self, operand: object) -> set[str]:
        name = string(operand)
        return set(self._reply(f"net.lookup_ip_addr {name}", name))

    def _random(self, key: object, operand: object) -> int:
        most = abs(integer(operand))
        return self._choice(f"rand.intn {string(key)}", most, lambda: random.randrange(most) if most else 0)  # noqa: S311

    def _choice(self, name: str, key: object, choose: Callable[[], Chosen]) -> Chosen:
        chosen = self._evaluation.chosen
        if (name, key) not in chosen:
            chosen[name, key] = choose()
        value: Chosen = chosen[name, key]
        return value

    async def _await(self, evaluation: _Evaluation) -> None:
        """Have the reply that is missing."""
        missing = evaluation.missing
        if missing is None or isinstance(missing, str):
            evaluation.replies[f"net.lookup_ip_addr {missing}"] = await _addresses(missing or "")
            return
        try:
            reply = await (self._cached(missing) if missing.cache else self._send(missing))
        except (http.SendError, UnsupportedError) as error:
            evaluation.replies[missing.key] = error.with_traceback(None)
        else:
            evaluation.replies[missing.key] = reply.to_json(missing)

    async def _send(self, asked: http.Request) -> http.Reply:
        if self._client is None:
            from mixer.policy.http_client import HttpClient  # and aiohttp with it, which takes memory

            self._client = HttpClient(self._settings)
        return await self._client.send(asked)

    async def _cached(self, asked: http.Request) -> http.Reply:
        """A reply that is kept, or has been found to hold still (RFC 9111, 4.3), or a new one."""
        kept = self._kept.get(asked.key)
        if kept is not None:
            if time.time() < kept.expires:
                return kept.reply
            self._drop(asked.key)
            if (reply := await self._revalidated(asked, kept)) is not None:
                return reply
        reply = await self._send(asked)
        self._keep(asked, reply)
        return reply

    async def _revalidated(self, asked: http.Request, kept: _Kept) -> http.Reply | None:
        conditions = {"If-None-Match": kept.reply.header("etag")}
        conditions["If-Modified-Since"] = kept.reply.header("last-modified")
        conditions = {name: value for name, value in conditions.items() if value}
        if not conditions:
            return None
        reply = await self._send(replace(asked, headers={**asked.kept_headers, **conditions}))
        if reply.code == 200:
            self._keep(asked, reply)
            return reply
        if reply.code != 304:
            return None
        fresh = replace(kept.reply, headers={**kept.reply.headers, **reply.headers})
        try:
            expires = time.time() + asked.force_cache if asked.force_cache else reply.expires()
        except ValueError as error:
            raise http.SendError(http.INTERNAL, str(error)) from None
        self._insert(asked.key, _Kept(fresh, expires))
        return fresh

    def _keep(self, asked: http.Request, reply: http.Reply) -> None:
        if not asked.mode_known or reply.code not in http.CACHEABLE:
            return
        if asked.force_cache > 0:
            self._insert(asked.key, _Kept(reply, time.time() + asked.force_cache))
        elif reply.storable():
            try:
                self._insert(asked.key, _Kept(reply, reply.expires()))
            except ValueError:
                return

    def _insert(self, key: str, kept: _Kept) -> None:
        self._drop(key)
        size = len(key) + kept.size
        if size > self._settings.max_cache_size:
            return
        self._kept[key] = kept
        self._size += size
        while self._size > self._settings.max_cache_size:
            self._drop(next(iter(self._kept)))

    def _drop(self, key: str) -> None:
        if (kept := self._kept.pop(key, None)) is not None:
            self._size -= len(key) + kept.size

    async def close(self) -> None:
        if self._client is not None:
            await self._client.close()
            self._client = None


async def _addresses(name: str) -> list[str] | BuiltinError:
    try:
        found = await asyncio.get_running_loop().getaddrinfo(name, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        return BuiltinError("no such host")
    return sorted({str(address[4][0]) for address in found})
