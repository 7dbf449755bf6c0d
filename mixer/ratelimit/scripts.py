"""The Lua scripts, and what Redis answers instead of running one."""

import re
from hashlib import sha1
from importlib.resources import files

from mixer.ratelimit.link import Reply

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
