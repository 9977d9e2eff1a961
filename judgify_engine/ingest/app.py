"""The aiohttp application: all routes, and one place where errors become answers."""

import logging
from collections.abc import Iterable

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from judgify_engine.config import HttpConfig
from judgify_engine.errors import Draining, JudgifyError, MethodNotAllowed, NotFound, Rejected
from judgify_engine.ingest.admission import too_large
from judgify_engine.observe.metrics import Metrics
from judgify_engine.wire.problem import encode_problem

log = logging.getLogger(__name__)


class BadRequest(Rejected):
    """A request that HTTP itself refuses."""

    code, status, title = "bad_request", 400, "The request is not valid HTTP"


class ExpectationFailed(Rejected):
    """A header Expect that nobody here understands."""

    code, status, title = "expectation_failed", 417, "The header Expect cannot be met"


def build_app(routes: Iterable[web.RouteDef], config: HttpConfig, metrics: Metrics) -> web.Application:
    """The application with these routes. Every error leaves it as application/problem+json."""
    app = web.Application(middlewares=[_answer_errors(metrics)], client_max_size=config.max_body_bytes)

    async def expect(request: web.Request) -> web.StreamResponse | None:
        """The header Expect, which aiohttp looks at before any middleware."""
        if request.headers["Expect"].lower() == "100-continue":
            await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            request.writer.output_size = 0
            return None
        metrics.requests[_route(request), ExpectationFailed.status] += 1
        return problem(ExpectationFailed(f"Expect: {request.headers['Expect'][:80]!r}; 100-continue is possible"), metrics)

    app.add_routes([web.RouteDef(r.method, r.path, r.handler, {**r.kwargs, "expect_handler": expect}) for r in routes])
    return app


def _answer_errors(metrics: Metrics) -> Middleware:
    @web.middleware
    async def middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
        return await answer(request, handler, _route(request), metrics)

    return middleware


async def answer(request: web.Request, handler: Handler, route: str, metrics: Metrics) -> web.StreamResponse:
    """What the handler answers, or its error as a problem; counted."""
    response: web.StreamResponse
    try:
        response = await handler(request)
    except JudgifyError as error:
        response = problem(error, metrics)
    except web.HTTPException as error:
        if error.status < 400:
            raise
        response = problem(_translate(error, request), metrics)
        if isinstance(error, web.HTTPMethodNotAllowed):
            response.headers["Allow"] = ", ".join(sorted(error.allowed_methods))
    except web.RequestPayloadError as error:
        response = problem(BadRequest(f"the body could not be read: {error}"), metrics)
    except ConnectionError:
        raise  # the client has gone; there is nobody to answer
    except Exception as error:
        if isinstance(error, RuntimeError) and request.transport is None:
            raise ConnectionResetError("the client has gone") from error  # aiohttp says it so when a body is being read
        log.exception("a request failed", extra={"route": route})
        response = problem(JudgifyError("something went wrong here; it is in the log"), metrics)
    metrics.requests[route, response.status] += 1
    return response


def problem(error: JudgifyError, metrics: Metrics) -> web.Response:
    """The answer that says an error; counted by its code."""
    status, body, headers = encode_problem(error)
    metrics.errors[error.code] += 1
    response = web.Response(status=status, body=body, headers=headers)
    if isinstance(error, Draining):
        response.force_close()  # the next request goes to a server that stays
    return response


def _translate(error: web.HTTPException, request: web.Request) -> JudgifyError:
    if isinstance(error, web.HTTPNotFound):
        return NotFound(f"there is nothing at {request.path[:200]}")
    if isinstance(error, web.HTTPMethodNotAllowed):
        return MethodNotAllowed(f"{request.method} is not possible here; {', '.join(sorted(error.allowed_methods))} is")
    if isinstance(error, web.HTTPRequestEntityTooLarge):
        return too_large(request.client_max_size)
    return BadRequest(error.text or error.reason)


def _route(request: web.Request) -> str:
    """The route's pattern: a closed set, unlike paths."""
    resource = request.match_info.route.resource
    return "none" if resource is None else resource.canonical
