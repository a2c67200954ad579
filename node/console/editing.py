"""What an operator changes: the routing rules, and that a series is read against them.

It takes a user of `console.operators`. Rules are saved as a new version, with who did it, when and why; the running
node follows at its next look.
"""

from dataclasses import dataclass, replace
from typing import Annotated

import structlog
from fastapi import APIRouter, Depends, Query, Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException

from config import Settings
from config.reasons import BY_RULES
from config.rules import Rules, RulesError
from node.bell import bell_file, ring
from node.console.forms import FormsOf
from node.console.parameters import Database, Render, SeriesId
from node.console.queries import Queries
from node.console.ruled import Ruled, RuledPage
from node.console.views import SeriesPage
from node.database import Records
from node.errors import CommandError
from node.rules.book import check_text, save_rules
from node.rules.versions import RulesMovedError
from node.series_control import read_anyway
from node.states import State

_log = structlog.get_logger(__name__)

router = APIRouter(include_in_schema=False, default_response_class=HTMLResponse)

_LONGEST = 3 * 2**18
"""Bytes of the form with the rules, each character of them up to three."""
_NAME = "these rules"


class Editing:
    """Who may change the rules, and what is changed."""

    def __init__(self, writer: Records | None, settings: Settings, ruled: Ruled) -> None:
        self.settings, self.ruled = settings, ruled
        self._writer = writer
        self._operators = frozenset(settings.console.operators)

    def may(self, user: str) -> bool:
        return self._writer is not None and user in self._operators

    def may_force(self, user: str, page: SeriesPage) -> bool:
        """Whether that user may have a series read that the rules skip: its newest generation."""
        newest = max(page.generations, default=page.row.generation)
        kept_back = page.row.state in (State.REJECTED, State.FAILED) and page.row.reason in BY_RULES
        return self.may(user) and kept_back and page.row.generation == newest

    def force(self, uid: str, user: str, why: str) -> int:
        """The job that reads it. Raises CommandError."""
        assert self._writer is not None
        job_id = read_anyway(self._writer, self.settings, uid, user, why)
        ring(bell_file(self.settings.spool_dir))
        return job_id


@dataclass(frozen=True)
class Draft:
    """Rules as somebody writes them."""

    text: str
    base: int
    """Number of the rules that it was begun with."""
    why: str = ""
    problem: str = ""
    rules: Rules | None = None
    """If nothing is wrong with them."""
    view: RuledPage | None = None
    """What they say of past series."""


def _editing(request: Request) -> Editing:
    """Of a user who may. Raises HTTPException (403)."""
    found: Editing = request.app.state.editing
    if not found.may(request.state.user):
        _log.warning("not_an_operator", user=request.state.user)
        raise HTTPException(403, "Only users of console.operators may do that.")
    return found


Operator = Annotated[Editing, Depends(_editing)]
VersionNumber = Annotated[int, Query(ge=0, le=999_999, description="The rules to begin with; 0: those in force.")]


@router.get("/rules/edit")
def show_editor(
    request: Request, editing: Operator, forms: FormsOf, render: Render, version: VersionNumber = 0
) -> HTMLResponse:
    """The editor, with the rules in force or older ones in it."""
    text, base = editing.ruled.text(version)
    if text is None:
        raise HTTPException(404)
    token = forms.token(request.state.user)
    return render.page(request, "rules_edit.html", draft=Draft(text, base), token=token, why_of=version)


@router.post("/rules/edit")
async def post_rules(
    request: Request, editing: Operator, forms: FormsOf, render: Render, queries: Database
) -> Response:
    """Form fields: `token`, `text`, `why`, `base`, `do` (check or save), `page` (of past series)."""
    fields = await forms.fields(request, _LONGEST)
    base, page = (_number(fields.get(name, "")) for name in ("base", "page"))
    text = fields.get("text", "").replace("\r\n", "\n")
    draft = Draft(text, base, fields.get("why", "").strip())
    user: str = request.state.user
    if fields.get("do") == "save":
        draft = await run_in_threadpool(_saved, editing, draft, user)
        if not draft.problem:
            return RedirectResponse("/rules", 303)
    if not draft.problem:
        draft = await run_in_threadpool(_tried, editing, draft, queries, max(1, page))
    status = 422 if draft.problem else 200
    return render.page(request, "rules_edit.html", status, draft=draft, token=forms.token(user), why_of=0)


@router.post("/series/{series_id}/read")
async def post_read(
    request: Request, series_id: SeriesId, editing: Operator, forms: FormsOf, queries: Database
) -> RedirectResponse:
    """Form fields: `token`, `why`."""
    fields = await forms.fields(request)
    found = await run_in_threadpool(queries.one_series, series_id)
    if found is None:
        raise HTTPException(404)
    try:
        uid = found.row.series_instance_uid
        await run_in_threadpool(editing.force, uid, request.state.user, fields.get("why", ""))
    except CommandError as error:
        raise HTTPException(409, f"{error.cause} {error.cure}") from error
    return RedirectResponse(f"/series/{series_id}", 303)


def _saved(editing: Editing, draft: Draft, user: str) -> Draft:
    """Put them in force, or say why not."""
    if not draft.why:
        return replace(draft, problem="It is not said why. → Say it in a few words: it is kept with the rules.")
    try:
        made = save_rules(editing.settings, draft.text, _NAME, user, draft.why, draft.base)
    except RulesError as error:
        return replace(draft, problem=str(error))
    except RulesMovedError as error:
        return replace(draft, problem=f"{error.cause} → {error.cure}")
    except OSError as error:
        return replace(draft, problem=f"They cannot be kept: {error.strerror}. → See to the disk of the data folder.")
    _log.info("rules_saved", number=made.number, digest=made.digest, user=user)
    ring(bell_file(editing.settings.spool_dir))
    return draft


def _tried(editing: Editing, draft: Draft, queries: Queries, page: int) -> Draft:
    """What they say of past series, or what is wrong with them. Raises sqlalchemy.exc.SQLAlchemyError."""
    try:
        rules = check_text(draft.text, _NAME, editing.settings).rules
    except RulesError as error:
        return replace(draft, problem=str(error))
    return replace(draft, rules=rules, view=editing.ruled.page(queries.records, page, rules))


def _number(text: str) -> int:
    return int(text) if text.isascii() and text.isdigit() and len(text) <= 6 else 0
