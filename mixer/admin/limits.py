"""Pages on rate limits: what is loaded, what a request would get, where counters are at.

`/json` and `/rlconfig` are envoyproxy/ratelimit's. They change counters or tell of them, so they answer only callers on
the same machine, wherever the listener is bound to.
"""

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from aiohttp import web
from envoy.service.ratelimit.v3.rls_pb2 import RateLimitRequest, RateLimitResponse
from google.protobuf import json_format

from mixer.admin.near import guarded
from mixer.errors import RequestError
from mixer.ratelimit import shown
from mixer.ratelimit.desk import Desk, Entry, Seen

Quota = Callable[[bytes, float | None], bytes | Awaitable[bytes]]


class LimitPages:
    """`quota` answers RateLimitRequests as it does on gRPC. The limits of `desk` may be exchanged."""

    def __init__(self, desk: Desk, quota: Quota) -> None:
        self.desk = desk
        self._quota = quota

    def routes(self) -> Sequence[web.RouteDef]:
        return [
            web.post("/json", guarded(self._json)),
            web.get("/rlconfig", guarded(self._rlconfig)),
            web.post("/limits/peek", guarded(self._peek)),
            web.post("/limits/reset", guarded(self._reset)),
        ]

    async def _json(self, request: web.Request) -> web.Response:
        """A RateLimitRequest as JSON, which is judged and counted: 200, or 429 where it is over a limit."""
        answer = self._quota((await _asked(request)).SerializeToString(), None)
        response = RateLimitResponse.FromString(answer if isinstance(answer, bytes) else await answer)
        over = response.overall_code == RateLimitResponse.OVER_LIMIT
        text = json_format.MessageToJson(response, indent=None)
        return web.Response(status=429 if over else 200, text=text, content_type="application/json")

    async def _rlconfig(self, _: web.Request) -> web.Response:
        return web.Response(text=shown.dump(self.desk.limits))

    async def _peek(self, request: web.Request) -> web.Response:
        """What applies to each descriptor of a RateLimitRequest, or to each of `{"limits": […]}` as a policy writes
        them; nothing is counted."""
        return await _each(request, self.desk.peek, self.desk.peek_object)

    async def _reset(self, request: web.Request) -> web.Response:
        """Set the counter of each descriptor of a RateLimitRequest back, or of each of `{"limits": […]}`."""
        if request.content_type != "application/json":  # which no other site's page can make a browser send
            raise RequestError(f"content-type: expected application/json, got {request.content_type}")
        return await _each(request, self.desk.reset, self.desk.reset_object)


async def _limits(request: web.Request) -> list[Any] | None:
    """Limits as a policy writes them, None where a RateLimitRequest is asked for."""
    try:
        asked = await request.json()
    except (ValueError, LookupError, RecursionError):
        return None  # as is said then, of a RateLimitRequest
    limits = asked.get("limits") if isinstance(asked, dict) else None
    return limits if isinstance(limits, list) and limits else None


async def _asked(request: web.Request) -> RateLimitRequest:
    try:
        return json_format.Parse(await request.text(), RateLimitRequest())
    except (json_format.ParseError, UnicodeDecodeError, LookupError, RecursionError) as error:
        raise RequestError(f"expected a RateLimitRequest as JSON: {error}") from None


async def _each(
    request: web.Request,
    do: Callable[[str, Sequence[Entry]], Awaitable[Seen]],
    do_object: Callable[[object], Awaitable[Seen]],
) -> web.Response:
    if (limits := await _limits(request)) is not None:
        return web.json_response([(await do_object(each)).plain() for each in limits])
    asked = await _asked(request)
    if not asked.descriptors:
        raise RequestError("descriptors: expected at least one, got none")
    found: list[dict[str, Any]] = []
    for descriptor in asked.descriptors:
        entries = [Entry(entry.key, entry.value) for entry in descriptor.entries]
        found.append((await do(asked.domain, entries)).plain())
    return web.json_response(found)
