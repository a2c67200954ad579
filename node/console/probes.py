"""What monitoring asks: does the process live, can the node take images, and its figures."""

from fastapi import APIRouter, Response
from fastapi.responses import PlainTextResponse
from prometheus_client import CONTENT_TYPE_LATEST
from sqlalchemy import select
from sqlalchemy.exc import SQLAlchemyError

from node.console.overview import spool_disk
from node.console.parameters import Database
from node.console.queries import Queries
from node.console.views import View
from node.metrics import exposition
from node.records import Series

router = APIRouter(include_in_schema=False)


class Part(View):
    """One thing that the node needs."""

    ok: bool
    detail: str


class Readiness(View):
    """Ready if every part is."""

    ready: bool
    database: Part
    spool: Part


@router.get("/healthz")
def healthz() -> PlainTextResponse:
    """200 as long as the process answers."""
    return PlainTextResponse("ok\n")


@router.get("/readyz")
def readyz(queries: Database, response: Response) -> Readiness:
    """200 if the database answers and the spool takes images, else 503; the body says which does not."""
    database, spool = _database(queries), _spool(queries)
    ready = database.ok and spool.ok
    response.status_code = 200 if ready else 503
    return Readiness(ready=ready, database=database, spool=spool)


@router.get("/metrics")
def metrics(queries: Database) -> Response:
    """Prometheus' text format (`node.metrics`)."""
    return Response(exposition(queries.records, queries.settings), media_type=CONTENT_TYPE_LATEST)


def _database(queries: Queries) -> Part:
    try:
        with queries.records.reading() as session:
            session.execute(select(Series.id).limit(1))
    except SQLAlchemyError as error:
        return Part(ok=False, detail=type(error).__name__)
    return Part(ok=True, detail="answers")


def _spool(queries: Queries) -> Part:
    disk = spool_disk(queries.settings)
    if disk.free_bytes is None:
        return Part(ok=False, detail="the folder is not there")
    if not disk.writable:
        return Part(ok=False, detail="cannot be written")
    found = f"{disk.free_bytes // 2**20} MB free, low-water mark {disk.low_water_bytes // 2**20} MB"
    return Part(ok=disk.ok, detail=found)
