"""Hub: the web client, served from the same origin as the interface it talks to."""

from __future__ import annotations

from pathlib import Path

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import FileResponse, HTMLResponse, JSONResponse, Response
from starlette.routing import Route

from doorstep.hub.assets import web_root
from doorstep.hub.security import content_policy
from doorstep.hub.services import services

__all__ = ["ROUTES"]

_NOT_BUILT = """<!doctype html>
<html lang="en"><meta charset="utf-8"><title>Doorstep</title>
<h1>The web client has not been built</h1>
<p>The hub is running, but this checkout has no built pages yet. Build them once:</p>
<pre>cd web_client &amp;&amp; npm ci &amp;&amp; npm run build</pre>
<p>and reload this page. An installed package brings them along.</p>
</html>
"""
_TYPES = {
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".ico": "image/x-icon",
    ".js": "text/javascript; charset=utf-8",
    ".json": "application/json",
    ".map": "application/json",
    ".png": "image/png",
    ".svg": "image/svg+xml",
    ".txt": "text/plain; charset=utf-8",
    ".wasm": "application/wasm",
    ".webmanifest": "application/manifest+json",
    ".woff2": "font/woff2",
}


async def config(request: Request) -> Response:
    """``GET /config.json``: where the page finds its back end, and with which key."""
    hub = services(request)
    origin = str(request.base_url).rstrip("/") if hub.config.public_url is None else hub.url
    body = {"url": origin, "key": hub.keys.anon_key}
    if hub.config.relay_url is not None:
        body["relay"] = hub.config.relay_url
    return JSONResponse(body, headers={"Cache-Control": "no-store"})


async def health(_: Request) -> Response:
    """``GET /health``."""
    return JSONResponse({"status": "ok"}, headers={"Cache-Control": "no-store"})


async def page(request: Request) -> Response:
    """A file of the web client; any other path without a suffix is the page itself."""
    relay = services(request).config.relay_url
    policy = {"Content-Security-Policy": content_policy(request.headers.get("host", ""), relay)}
    root = web_root()
    if root is None:
        return HTMLResponse(_NOT_BUILT, status_code=503, headers=policy)
    path = _file(root, request.path_params["path"])
    hashed = path.parent.name == "assets"
    caching = "public, max-age=31536000, immutable" if hashed else "no-cache"
    return FileResponse(
        path, media_type=_TYPES[path.suffix.lower()], headers=policy | {"Cache-Control": caching}
    )


def _file(root: Path, name: str) -> Path:
    if not Path(name).suffix:
        return root / "index.html"
    path = (root / name).resolve()
    if not path.is_relative_to(root.resolve()) or not path.is_file() or path.suffix.lower() not in _TYPES:
        raise HTTPException(404)
    return path


ROUTES = [
    Route("/config.json", config, methods=["GET"]),
    Route("/health", health, methods=["GET"]),
    Route("/{path:path}", page, methods=["GET"]),
]
