"""The Lua scripts, and what Redis answers instead of running one."""

import re
from collections.abc import Sequence
from hashlib import sha1
from importlib.resources import files

from mixer.ratelimit.link import Link, Reply, pack

# Errors that mean "not this server, or not now", and no fault of the script.
NOT_NOW = frozenset(
    (
        *("LOADING", "READONLY", "MASTERDOWN", "NOREPLICAS", "MISCONF", "BUSY", "UNKILLABLE", "NOAUTH"),
        *("CLUSTERDOWN", "TRYAGAIN", "MOVED", "ASK"),
    )
)
# Those after which the connection leads nowhere: the name may lead to another server, or the wait is a long one.
LEAVE = frozenset(("LOADING", "READONLY", "MASTERDOWN", "NOAUTH"))
# Errors that are no counter's own: whoever asks gets them.
OF_SERVER = NOT_NOW | {"OOM", "NOPERM", "NOSCRIPT"}
REDIRECTS = frozenset(("MOVED", "ASK"))

PROBE_TTL = 1  # ms that a probe's counter lives
_ASKING = pack(("ASKING",))
_CODE = re.compile(
    r"(?:@\w+: \d+: -)?([A-Z]+)"
)  # Redis 6 puts the script's line before some errors within it


class Script:
    """A script, by its text and by the hash under which Redis keeps it."""

    def __init__(self, name: str) -> None:
        self.text = files("mixer.ratelimit").joinpath(name).read_bytes()
        self.sha = sha1(self.text, usedforsecurity=False).hexdigest().encode()


HIT, RELEASE = Script("hit.lua"), Script("release.lua")


def code(reply: Reply) -> str:
    """The first word of an error, by which Redis says what kind it is."""
    match = _CODE.match(str(reply))
    return match[1] if match else ""


async def run(link: Link, script: Script, arguments: Sequence[str | int], asking: bool = False) -> Reply:
    """The reply to a script call, whether the server knows the script or not."""
    for command, text in ((b"EVALSHA", script.sha), (b"EVAL", script.text)):
        if asking:
            ask_for_moved(link)
        reply = await link.ask(command, text, *arguments)
        if code(reply) != "NOSCRIPT":
            break
    return reply


def ask_for_moved(link: Link) -> None:
    """Have the next command done although the node does not have its slot yet."""
    link.send(_ASKING, lambda _: None)


async def prove(link: Link, key: str | None, is_cluster: bool) -> bool:
    """Count on a counter of our own, if the server has one; whether it is this server's still.

    Raises:
        OSError: it is refused.
    """
    arguments: tuple[str | int, ...] = (0, 0) if key is None else (1, key, 1, 1, PROBE_TTL)
    reply = await run(link, HIT, arguments)
    if isinstance(reply, OSError):
        raise reply
    if code(reply) in REDIRECTS and is_cluster:
        return False
    if not isinstance(reply, list):
        is_node = code(reply) == "MOVED"
        hint = "; it is one of a cluster: set rate_limits.redis.mode: cluster" if is_node else ""
        raise ConnectionRefusedError(f"Redis answers EVALSHA with: {reply}{hint}")
    for count in reply:
        if type(count) is not int:
            text = count.decode(errors="replace") if isinstance(count, bytes) else repr(count)
            raise ConnectionRefusedError(f"Redis cannot count: {text}".rstrip())
    return True
