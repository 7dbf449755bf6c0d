"""Settings as plain values, in the words of the settings file."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pydantic import SecretStr

from mixer import config

MASK = "REDACTED"
# All before the last @: a password may have characters that end a URL's host, where nobody has quoted them.
_USERINFO = re.compile(r"(?<=://).*(?=@)", re.DOTALL)
_PARAMETER = re.compile(r"(?i)([?&][^=&#]*(?:password|secret|token|sig|key)[^=&#]*=)[^&#]+")


def plain(settings: config.Settings, *, secrets: bool = False) -> dict[str, Any]:
    """Each key with its value, defaults among them; what is left out and has no default is left out. Of secrets the
    harmless parts, unless they are wanted: then a settings file with the same meaning."""
    return _section(settings, _revealed if secrets else _masked, (lambda url: url) if secrets else _url)


def _section(
    settings: config.Settings, secret: Callable[[str], str], text: Callable[[str], str]
) -> dict[str, Any]:
    def shown(value: Any) -> Any:
        if isinstance(value, config.Settings):
            return _section(value, secret, text)
        if isinstance(value, SecretStr):
            return secret(value.get_secret_value())
        if isinstance(value, tuple):
            return [shown(each) for each in value]
        if isinstance(value, dict):
            return {key: shown(each) for key, each in value.items()}
        if isinstance(value, Path):
            return str(value)
        return text(value) if isinstance(value, str) else value

    found: dict[str, Any] = {}
    for name, field in type(settings).model_fields.items():
        value = getattr(settings, name)
        if config.OFF in field.metadata:
            found[name] = "off" if value is None else shown(value)
        elif config.DURATION in field.metadata:
            found[name] = _duration(value)
        elif value is not None:
            found[name] = shown(value)
    return found


def _revealed(secret: str) -> str:
    return secret


def _masked(secret: str) -> str:
    """A URL without what is secret in it; of anything else, nothing."""
    return _url(secret) if re.match(r"[a-z]+:/", secret) else MASK


def _url(value: str) -> str:
    """The text, without user, password and secret parameters where it is a URL."""
    return _PARAMETER.sub(rf"\1{MASK}", _USERINFO.sub(MASK, value)) if "://" in value else value


def _duration(seconds: float) -> str:
    return f"{seconds:.10g}s" if seconds >= 1 or not seconds else f"{seconds * 1000:.10g}ms"
