"""`/api`: what the pages show, as JSON. Read-only; the same password; described by /api/openapi.json."""

from fastapi import APIRouter
from starlette.exceptions import HTTPException

from node.console.overview import overview
from node.console.parameters import (
    Database,
    DestinationName,
    InState,
    Limit,
    PageNumber,
    SeriesId,
    UidPrefix,
    Undelivered,
)
from node.console.refused import refused_callers
from node.console.releases import releases
from node.console.views import DeliveryRow, DestinationRow, Overview, Page, RefusedRow, Releases, SeriesPage, SeriesRow
from node.console.views import UnreadableRow as Unread

router = APIRouter(prefix="/api")


@router.get("/overview")
def get_overview(queries: Database) -> Overview:
    """The whole node at a glance."""
    return overview(queries)


@router.get("/series")
def get_series(
    queries: Database, page: PageNumber = 1, limit: Limit = 50, state: InState = None, uid: UidPrefix = ""
) -> Page[SeriesRow]:
    """Series, the newest first."""
    return queries.series(page, limit, state, uid)


@router.get("/series/{series_id}")
def get_one_series(queries: Database, series_id: SeriesId) -> SeriesPage:
    """Everything about one series."""
    found = queries.one_series(series_id)
    if found is None:
        raise HTTPException(404)
    return found


@router.get("/deliveries")
def get_deliveries(
    queries: Database,
    page: PageNumber = 1,
    limit: Limit = 50,
    destination: DestinationName = "",
    undelivered: Undelivered = False,
) -> Page[DeliveryRow]:
    """Results on their way, the newest first."""
    return queries.deliveries(page, limit, destination, undelivered)


@router.get("/destinations")
def get_destinations(queries: Database) -> list[DestinationRow]:
    """Where results go, and what keeps them from arriving."""
    return queries.destinations()


@router.get("/messages")
def get_messages(queries: Database) -> list[DestinationRow]:
    """Who is told of results, urgent findings and failures, and what keeps messages from arriving."""
    return queries.messages()


@router.get("/unreadable")
def get_unreadable(queries: Database, page: PageNumber = 1, limit: Limit = 50) -> Page[Unread]:
    """What is in the spool but is no readable instance, the newest first."""
    return queries.unreadable(page, limit)


@router.get("/refused")
def get_refused(queries: Database, page: PageNumber = 1, limit: Limit = 50) -> Page[RefusedRow]:
    """Who was refused an association, the last first."""
    with queries.records.reading() as session:
        return refused_callers(session, page, limit)


@router.get("/releases")
def get_releases(queries: Database) -> Releases:
    """Which release reads, which one reads in shadow, and what was done with them."""
    return releases(queries)
