"""Settings, and what their files say, as JSON: how a worker gets them from the supervisor."""

from typing import Any

from mixer import config
from mixer.backends import limits_from
from mixer.loaded import Loaded
from mixer.plain import plain
from mixer.policy.sources import Module, Sources


def packed(files: Loaded) -> dict[str, Any]:
    """What `orjson` can write."""
    sources, limits = files.sources, files.limits
    return {
        "settings": plain(files.settings, secrets=True),
        "file": files.settings.file,
        "revision": files.revision,
        "digest": files.digest,
        "sources": sources
        and {
            "modules": [(module.file, module.source) for module in sources.modules],
            "data": sources.data,
            "revision": sources.revision,
            "bundles": dict(sources.bundles),
            "unusual": sources.unusual,
        },
        # Bytes of any encoding that YAML may have, one character each.
        "limits": limits and [(file, content.decode("latin-1")) for file, content in limits.files],
    }


def unpacked(told: dict[str, Any]) -> Loaded:
    settings = config.of_values(told["settings"], told["file"])
    sources, limits = told["sources"], None
    if sources is not None:
        modules = tuple(Module(*module) for module in sources["modules"])
        unusual = tuple((file, value, exponent) for file, value, exponent in sources["unusual"])
        sources = Sources(modules, sources["data"], sources["revision"], sources["bundles"], unusual)
    if told["limits"] is not None and settings.rate_limits is not None:
        files = [(file, content.encode("latin-1")) for file, content in told["limits"]]
        limits = limits_from(files, settings.rate_limits)
    return Loaded(settings, told["revision"], told["digest"], sources, limits)
