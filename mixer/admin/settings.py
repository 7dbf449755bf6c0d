"""`/config`: the settings in use, every default among them, without their secrets."""

import json
import re
from pathlib import Path
from typing import Any

import yaml
from aiohttp import web
from pydantic import SecretStr

from mixer import config
from mixer.admin.near import guarded

MASK = "REDACTED"
# All before the last @: a password may have characters that end a URL's host, where nobody has quoted them.
_USERINFO = re.compile(r"(?<=://).*(?=@)", re.DOTALL)
_PARAMETER = re.compile(r"(?i)([?&][^=&#]*(?:password|secret|token|sig|key)[^=&#]*=)[^&#]+")


def page(settings: config.Config) -> web.RouteDef:
    """As YAML that is a settings file again, but for the secrets; as JSON where that is asked for (`accept`)."""

    async def show(request: web.Request) -> web.Response:
        shown = effective(settings)
        if "application/json" in request.headers.get("accept", ""):
            return web.Response(text=json.dumps(shown, indent=2), content_type="application/json")
        text = yaml.safe_dump(shown, sort_keys=False, allow_unicode=True, width=120)
        return web.Response(text=text, content_type="application/yaml")

    return web.get("/config", guarded(show))


def effective(settings: config.Settings) -> dict[str, Any]:
    """Each key with its value, in the words of the settings file; what is left out and has no default is left out."""
    shown: dict[str, Any] = {}
    for name, field in type(settings).model_fields.items():
        value = getattr(settings, name)
        if config.OFF in field.metadata:
            shown[name] = "off" if value is None else _plain(value)
        elif config.DURATION in field.metadata:
            shown[name] = _duration(value)
        elif value is not None:
            shown[name] = _plain(value)
    return shown


def _plain(value: Any) -> Any:
    if isinstance(value, config.Settings):
        return effective(value)
    if isinstance(value, SecretStr):
        return _masked(value.get_secret_value())
    if isinstance(value, tuple):
        return [_plain(each) for each in value]
    if isinstance(value, dict):
        return {key: _plain(each) for key, each in value.items()}
    if isinstance(value, Path):
        return str(value)
    return _url(value) if isinstance(value, str) else value


def _masked(secret: str) -> str:
    """A URL without what is secret in it; of anything else, nothing."""
    return _url(secret) if re.match(r"[a-z]+:/", secret) else MASK


def _url(value: str) -> str:
    """The text, without user, password and secret parameters where it is a URL."""
    return _PARAMETER.sub(rf"\1{MASK}", _USERINFO.sub(MASK, value)) if "://" in value else value


def _duration(seconds: float) -> str:
    return f"{seconds:g}s" if seconds >= 1 or not seconds else f"{seconds * 1000:g}ms"
