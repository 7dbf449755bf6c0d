"""Which settings take effect while Mixer runs, and what becomes of the others."""

from typing import Any

from mixer import config
from mixer.config import Config, Settings
from mixer.errors import SettingsError

_ALWAYS = {"drain_timeout"}
_ANSWERS = {f"policy.{key}" for key in ("cache", "dry_run", "proto_descriptor", "skip_request_body_parse")}
# Of policies from files. Those in bundles are exchanged as these come, and those of an OPA server are its own.
_POLICIES = {f"policy.{key}" for key in ("paths", "decision", "decisions", "keys", "bundle_size_limit")}
_LIMITS = {
    f"rate_limits.{key}"
    for key in (
        *("paths", "decision", "on_error", "instances", "count_over_limit", "shadow_mode", "quota_mode"),
        *("merge_domain_config", "response_dynamic_metadata", "response_headers"),
    )
}


def settled(running: Config, wanted: Config, file: str) -> tuple[Config, tuple[str, ...]]:
    """The settings that can take effect now: those wanted, where they can be exchanged, else those that run; and the
    keys of wanted ones that need a restart. Raises `SettingsError` where the two do not go together."""
    reloadable = set(_ALWAYS) | _LIMITS
    if (policy := running.policy) is not None:
        reloadable |= _ANSWERS
        if policy.bundles:
            reloadable.remove("rate_limits.decision")  # the bundles' policy was not asked for another
        elif policy.engine == "embedded" or not policy.opa.push:
            reloadable |= _POLICIES
    waiting: list[str] = []
    settings: Config = _settled(running, wanted, "", reloadable, waiting)
    if waiting and (problems := config.combinations(settings, file)):
        raise SettingsError(problems)
    return settings, tuple(waiting)


def _settled(running: Any, wanted: Any, at: str, reloadable: set[str], waiting: list[str]) -> Any:
    if running == wanted or at in reloadable:
        return wanted
    inner = any(key.startswith(f"{at}.") for key in reloadable) or not at
    if not inner or not isinstance(running, Settings) or type(running) is not type(wanted):
        waiting += _changed(running, wanted, at)
        return running
    changes = {}
    for name in type(running).model_fields:
        key = f"{at}.{name}" if at else name
        changes[name] = _settled(getattr(running, name), getattr(wanted, name), key, reloadable, waiting)
    return running.model_copy(update=changes)


def _changed(running: Any, wanted: Any, at: str) -> list[str]:
    """The keys below which the two differ."""
    if not isinstance(running, Settings) or type(running) is not type(wanted):
        return [at]
    differing = [
        name for name in type(running).model_fields if getattr(running, name) != getattr(wanted, name)
    ]
    return [
        key
        for name in differing
        for key in _changed(getattr(running, name), getattr(wanted, name), f"{at}.{name}")
    ]
