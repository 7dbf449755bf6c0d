"""`/config`: the settings in use, every default among them, without their secrets."""

import json
from collections.abc import Callable

import yaml
from aiohttp import web

from mixer import config
from mixer.admin.near import guarded
from mixer.plain import plain


def page(settings: Callable[[], config.Config]) -> web.RouteDef:
    """As YAML that is a settings file again, but for the secrets; as JSON where that is asked for (`accept`)."""

    async def show(request: web.Request) -> web.Response:
        shown = plain(settings())
        if "application/json" in request.headers.get("accept", ""):
            return web.Response(text=json.dumps(shown, indent=2), content_type="application/json")
        text = yaml.safe_dump(shown, sort_keys=False, allow_unicode=True, width=120)
        return web.Response(text=text, content_type="application/yaml")

    return web.get("/config", guarded(show))
