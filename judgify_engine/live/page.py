"""The page at `/`, its files, and signing in: by a one-time code in a printed address, or with a token.

A session's cookie reads the API, and changes what people do on the page (`CHANGED_ON_PAGE`) where its token is an admin's. It
never judges and never defines workflows.
"""

import asyncio
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlsplit

import msgspec
from aiohttp import web
from aiohttp.typedefs import Handler

from judgify_engine import resources
from judgify_engine.errors import BodyTooLarge, Forbidden, InvalidField, NotFound, Overloaded, Unauthorized
from judgify_engine.pipeline.access import Access, Grant, speaking_for
from judgify_engine.wire.request import decode_body

SESSION_COOKIE = "judgify_session"
SESSION_SCOPES = frozenset(("read", "admin"))
"""What a session keeps of its token's scopes."""
CHANGED_ON_PAGE = re.compile(r"/api/v1/(dashboards|silences)/|/api/v1/alerts/[^/]+/acknowledge\Z")
SIGN_IN_BYTES = 4096
SIGN_INS_AT_ONCE = 50
SIGN_IN_S = 5.0
"""Bounds on what comes from people who have not said who they are yet."""
SECURITY = {
    "Content-Security-Policy": "default-src 'self'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "connect-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'self'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",  # an address with a code must not travel
}
TYPES = {
    ".html": "text/html",
    ".js": "text/javascript",
    ".css": "text/css",
    ".svg": "image/svg+xml",
    ".map": "application/json",
}
TYPES |= {".png": "image/png", ".json": "application/json", ".txt": "text/plain"}


class SignIn(msgspec.Struct, forbid_unknown_fields=True):
    """What the sign-in form sends."""

    token: str


class SessionStore(Protocol):
    """Where sessions are kept."""

    async def open_session(self, grant: Grant, ttl_s: float) -> str: ...

    async def close_session(self, secret: str) -> None: ...

    async def use_code(self, code: str) -> Grant | None: ...


class PageRoutes:
    """The handlers; see `routes`."""

    def __init__(self, sessions: SessionStore, access: Access, ttl_s: float) -> None:
        self._sessions, self._access, self._ttl_s = sessions, access, ttl_s
        self._files = _load(resources.static())
        self._signing_in = 0

    def routes(self) -> list[web.RouteDef]:
        return [
            web.get("/", self.index),
            web.get("/login", self.login),
            web.get("/docs", self.docs),
            web.get("/assets/{name}", self.asset),
            web.get("/session", self.session, allow_head=False),
            web.post("/session", self.sign_in),
            web.delete("/session", self.sign_out),
        ]

    async def index(self, request: web.Request) -> web.Response:
        """The page for who is signed in; a code in the address signs in and leaves the address at once."""
        code = request.query.get("code")
        if code is not None and request.method == "GET":
            grant = await self._sessions.use_code(code)
            response = _see_other("/" if grant else "/login")
            if grant is not None:
                self._set_cookie(request, response, await self._sessions.open_session(grant, self._ttl_s))
            return response
        try:
            await self._grant_of(request)
        except Unauthorized:
            return _see_other("/login")
        return self._html("index.html")

    async def login(self, request: web.Request) -> web.Response:
        return self._html("login.html")

    async def docs(self, request: web.Request) -> web.Response:
        return self._html("docs.html")

    async def asset(self, request: web.Request) -> web.Response:
        """A built file; its name carries a hash of its content, so it may be kept for ever."""
        name = request.match_info["name"]
        content = self._files.get(f"assets/{name}")
        if content is None:
            raise NotFound(f"there is nothing at {request.path[:200]}")
        headers = {**SECURITY, "Cache-Control": "public, max-age=31536000, immutable", "Vary": "Accept-Encoding"}
        for encoding, suffix in (("br", ".br"), ("gzip", ".gz")):
            packed = self._files.get(f"assets/{name}{suffix}")
            if packed is not None and encoding in request.headers.get("Accept-Encoding", ""):
                headers["Content-Encoding"], content = encoding, packed
                break
        return web.Response(
            body=content, content_type=TYPES.get(Path(name).suffix, "application/octet-stream"), headers=headers
        )

    async def session(self, request: web.Request) -> web.Response:
        """Who is signed in."""
        grant = await self._grant_of(request)
        body: dict[str, Any] = {"tenant_id": grant.tenant_id, "scopes": sorted(grant.scopes)}
        return web.Response(body=msgspec.json.encode(body), content_type="application/json")

    async def sign_in(self, request: web.Request) -> web.Response:
        """Open a session with a token."""
        self.check_origin(request)
        wanted: SignIn = decode_body(await self._read(request), SignIn)
        grant = await self._access.check_token(wanted.token.strip(), "read")
        response = web.Response(status=204)
        secret = await self._sessions.open_session(grant._replace(scopes=grant.scopes & SESSION_SCOPES), self._ttl_s)
        self._set_cookie(request, response, secret)
        return response

    async def _read(self, request: web.Request) -> bytes:
        if (request.content_length or 0) > SIGN_IN_BYTES or request.content_length is None:
            detail = f"the body may have {SIGN_IN_BYTES} bytes at most, got {request.content_length or 'no Content-Length'}"
            raise BodyTooLarge(detail, limit=SIGN_IN_BYTES)
        if self._signing_in >= SIGN_INS_AT_ONCE:
            raise Overloaded(f"{SIGN_INS_AT_ONCE} others are signing in just now")
        self._signing_in += 1
        try:
            async with asyncio.timeout(SIGN_IN_S):
                return await request.read()
        except TimeoutError as error:
            raise InvalidField(f"the body did not arrive within {SIGN_IN_S:.0f} s", field="body") from error
        finally:
            self._signing_in -= 1

    async def sign_out(self, request: web.Request) -> web.Response:
        self.check_origin(request)
        cookie = request.cookies.get(SESSION_COOKIE)
        if cookie:
            await self._sessions.close_session(cookie)
            self._access.forget_session(cookie)
        response = web.Response(status=204)
        response.del_cookie(SESSION_COOKIE, path="/")
        return response

    async def _grant_of(self, request: web.Request) -> Grant:
        cookie = request.cookies.get(SESSION_COOKIE)
        if not cookie:
            raise Unauthorized("nobody is signed in")
        return await self._access.check_session(cookie, "read")

    def _set_cookie(self, request: web.Request, response: web.Response, secret: str) -> None:
        response.set_cookie(
            SESSION_COOKIE,
            secret,
            max_age=int(self._ttl_s),
            path="/",
            httponly=True,
            samesite="Strict",
            secure=request.secure or request.headers.get("X-Forwarded-Proto") == "https",
        )

    def _html(self, name: str) -> web.Response:
        content = self._files.get(name)
        if content is None:
            raise NotFound("the page was not built; run `make setup`")
        return web.Response(
            body=content, content_type="text/html", charset="utf-8", headers={**SECURITY, "Cache-Control": "no-cache"}
        )

    @staticmethod
    def check_origin(request: web.Request) -> None:
        """Refuse what another site's page sent with our cookie."""
        origin = request.headers.get("Origin")
        try:
            same = origin is None or urlsplit(origin).netloc == request.host
        except ValueError:
            same = False
        if not same:
            raise Forbidden("this came from a page of another site")


def with_sessions(routes: Iterable[web.RouteDef]) -> list[web.RouteDef]:
    """The routes; those of the API that the page uses take a session's cookie where there is no token."""
    return [
        web.RouteDef(route.method, route.path, _with_session(route.handler), route.kwargs) if _on_page(route) else route
        for route in routes
    ]


def _on_page(route: web.RouteDef) -> bool:
    reads = route.method == "GET" and route.path.startswith("/api/v1/")
    return reads or CHANGED_ON_PAGE.match(route.path) is not None


def _with_session(handler: Any) -> Handler:
    async def handle(request: web.Request) -> web.StreamResponse:
        cookie = None if "Authorization" in request.headers else request.cookies.get(SESSION_COOKIE)
        if not cookie:
            response: web.StreamResponse = await handler(request)
            return response
        PageRoutes.check_origin(request)  # a cookie is sent by any page's request, a token is not
        with speaking_for(cookie):
            response = await handler(request)
        return response

    return handle


def _see_other(path: str) -> web.Response:
    return web.Response(status=303, headers={**SECURITY, "Location": path, "Cache-Control": "no-store"})


def _load(folder: Path) -> dict[str, bytes]:
    """All built files by their path, in memory: they are few and small, and reading never blocks."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
