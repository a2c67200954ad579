"""The pages: a query, a template."""

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse
from starlette.exceptions import HTTPException

from node.console.editing import Editing
from node.console.forms import FormsOf
from node.console.judging import Judging
from node.console.overview import SHOWN, overview
from node.console.parameters import (
    Database,
    DestinationName,
    InState,
    PageNumber,
    Render,
    SeriesId,
    UidPrefix,
    Undelivered,
)
from node.console.refused import refused_callers
from node.console.releases import releases
from node.console.ruled import Ruled
from node.states import State

router = APIRouter(include_in_schema=False, default_response_class=HTMLResponse)

_ROWS = 50
"""Rows of a page."""


@router.get("/")
def show_overview(request: Request, queries: Database, render: Render) -> HTMLResponse:
    return render.page(request, "overview.html", view=overview(queries), shown=SHOWN)


@router.get("/series")
def show_series(
    request: Request,
    queries: Database,
    render: Render,
    page: PageNumber = 1,
    state: InState = None,
    uid: UidPrefix = "",
) -> HTMLResponse:
    found = queries.series(page, _ROWS, state, uid)
    asked = {"state": str(state) if state else "", "uid": uid}
    return render.page(request, "series_list.html", view=found, asked=asked, states=list(State))


@router.get("/series/{series_id}")
def show_one_series(
    request: Request, queries: Database, render: Render, forms: FormsOf, series_id: SeriesId
) -> HTMLResponse:
    found = queries.one_series(series_id)
    if found is None:
        raise HTTPException(404)
    judging: Judging = request.app.state.judging
    editing: Editing = request.app.state.editing
    user: str = request.state.user
    with queries.records.reading() as session:
        findings = judging.findings(session, series_id, user)
    return render.page(
        request,
        "series.html",
        view=found,
        max_attempts=queries.settings.work.max_attempts,
        findings=findings,
        token=forms.token(user),
        may_judge=judging.may(user),
        may_force=editing.may_force(user, found),
    )


@router.get("/deliveries")
def show_deliveries(
    request: Request,
    queries: Database,
    render: Render,
    page: PageNumber = 1,
    destination: DestinationName = "",
    undelivered: Undelivered = False,
) -> HTMLResponse:
    found = queries.deliveries(page, _ROWS, destination, undelivered)
    asked = {"destination": destination, "undelivered": "true" if undelivered else ""}
    places = queries.destinations()
    told = queries.messages()
    return render.page(request, "deliveries.html", view=found, destinations=places, messages=told, asked=asked)


@router.get("/unreadable")
def show_unreadable(request: Request, queries: Database, render: Render, page: PageNumber = 1) -> HTMLResponse:
    return render.page(request, "unreadable.html", view=queries.unreadable(page, _ROWS), asked={})


@router.get("/refused")
def show_refused(request: Request, queries: Database, render: Render, page: PageNumber = 1) -> HTMLResponse:
    with queries.records.reading() as session:
        found = refused_callers(session, page, _ROWS)
    return render.page(request, "refused.html", view=found, asked={})


@router.get("/rules")
def show_rules(request: Request, queries: Database, render: Render, page: PageNumber = 1) -> HTMLResponse:
    ruled: Ruled = request.app.state.ruled
    view = ruled.page(queries.records, page)
    editing: Editing = request.app.state.editing
    return render.page(
        request,
        "rules.html",
        view=view,
        rules=ruled.rules,
        versions=ruled.versions(),
        problem=ruled.problem,
        may_edit=editing.may(request.state.user),
        asked={},
    )


@router.get("/releases")
def show_releases(request: Request, queries: Database, render: Render) -> HTMLResponse:
    return render.page(request, "releases.html", view=releases(queries))
