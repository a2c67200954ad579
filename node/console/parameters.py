"""What may stand in an address, for pages and `/api` alike. Anything else is answered with 400."""

from typing import Annotated

from fastapi import Depends, Path, Query, Request

from node.console.queries import Queries
from node.console.rendering import Renderer
from node.console.views import MOST
from node.states import State

_LARGEST = 2**31 - 1
"""Largest row id (a 32-bit integer on PostgreSQL)."""


def _queries(request: Request) -> Queries:
    found: Queries = request.app.state.queries
    return found


def _renderer(request: Request) -> Renderer:
    found: Renderer = request.app.state.renderer
    return found


Render = Annotated[Renderer, Depends(_renderer)]
Database = Annotated[Queries, Depends(_queries)]
PageNumber = Annotated[int, Query(alias="page", ge=1, le=100_000, description="The first page is 1.")]
Limit = Annotated[int, Query(ge=1, le=MOST, description="Rows of a page.")]
SeriesId = Annotated[int, Path(ge=1, le=_LARGEST, description="As the list of series gives it.")]
UidPrefix = Annotated[str, Query(pattern=r"^[0-9.]{0,64}$", description="Beginning of a Series or Study Instance UID.")]
DestinationName = Annotated[str, Query(max_length=64, pattern=r"^[^\x00]*$", description="Name of a destination.")]
Undelivered = Annotated[bool, Query(description="Only what has not arrived.")]
InState = Annotated[State | None, Query(description="Only series in this state.")]
