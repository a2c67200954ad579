"""The console as an ASGI application: pages, the same as JSON under `/api`, probes, all behind one guard."""

from pathlib import Path

import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from fastapi.staticfiles import StaticFiles
from sqlalchemy.exc import DBAPIError, SQLAlchemyError
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp

from config import Settings
from node.console import api, editing, judging, pages, probes
from node.console.access import Gate
from node.console.editing import Editing
from node.console.forms import Forms
from node.console.guard import Guard
from node.console.judging import Judging
from node.console.password import PasswordFile
from node.console.queries import Queries
from node.console.rendering import Renderer
from node.console.ruled import Ruled
from node.database import Records

_log = structlog.get_logger(__name__)

_STATIC = Path(__file__).parent / "static"


def make_app(records: Records, settings: Settings, writer: Records | None = None) -> ASGIApp:
    """The whole console on a database that it only reads; only what readers say of findings, and that an operator has
    a series read, goes through `writer`.

    `writer` None: nobody can say or change anything.
    """
    app = FastAPI(title="fVLM Node", docs_url=None, redoc_url=None, openapi_url="/api/openapi.json")
    app.state.queries = Queries(records, settings)
    app.state.renderer = Renderer(settings)
    app.state.judging = Judging(writer, settings)
    app.state.forms = Forms()
    app.state.ruled = Ruled(settings)
    app.state.editing = Editing(writer, settings, app.state.ruled)
    app.mount("/static", StaticFiles(directory=_STATIC))
    for module in (probes, api, editing, pages, judging):
        app.include_router(module.router)
    app.add_exception_handler(SQLAlchemyError, _database_away)
    app.add_exception_handler(HTTPException, _refused)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(Exception, _broken)
    return Guard(app, settings.console, _gate(settings))


def _gate(settings: Settings) -> Gate:
    readers = {name: PasswordFile.of(settings.data_dir, name) for name in settings.console.users}
    return Gate(PasswordFile.of(settings.data_dir), readers)


def _database_away(request: Request, error: Exception) -> Response:
    cause = type(error.orig).__name__ if isinstance(error, DBAPIError) and error.orig else type(error).__name__
    _log.warning("database_away", error=cause)
    return _told(
        request,
        503,
        "The database does not answer",
        f"{cause}. Images are received all the same and wait in the spool. Check database_url and its server.",
    )


def _refused(request: Request, error: Exception) -> Response:
    status = error.status_code if isinstance(error, HTTPException) else 500
    title = {
        404: "There is no such page",
        405: "The console only shows",
        403: "That is not yours to do",
        409: "That cannot be done",
    }.get(status, "That does not work")
    told = str(error.detail) if status in (403, 409) and isinstance(error, HTTPException) else ""
    return _told(request, status, title, told or "It may be an old address: see the overview.")


def _invalid(request: Request, _: Exception) -> Response:
    return _told(request, 400, "The address is not understood", "A number or a name in it is out of range.")


def _broken(request: Request, _: Exception) -> Response:
    """The server logs the error's type and place; nothing of it is shown."""
    return _told(request, 500, "An error inside the console", "logs/console.log in the data folder says where.")


def _told(request: Request, status: int, title: str, text: str) -> Response:
    if request.url.path.startswith("/api/"):
        return JSONResponse({"error": title, "detail": text}, status)
    renderer: Renderer = request.app.state.renderer
    return renderer.page(request, "problem.html", status, title=title, text=text)
