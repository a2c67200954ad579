"""Agree or disagree: what a reader says of a finding, as a plain form.

It takes a user of `console.readers`, and leaves a line in the log.
"""

import structlog
from fastapi import APIRouter, Request
from fastapi.responses import RedirectResponse
from sqlalchemy.orm import Session
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException

from config import ReaderVerdict, Settings, load_vocabulary
from node.console.forms import FormsOf
from node.console.parameters import SeriesId
from node.console.views import FindingRow, Said
from node.database import Records
from node.feedback_rows import agrees, judge_on_console, newest_findings, verdicts_of
from node.pseudonyms import Pseudonyms

_log = structlog.get_logger(__name__)

router = APIRouter(include_in_schema=False)

_CHOICES = (ReaderVerdict.PRESENT, ReaderVerdict.ABSENT)


class Judging:
    """Who may judge, and what was judged."""

    def __init__(self, writer: Records | None, settings: Settings) -> None:
        self.writer = writer
        self._readers = frozenset(settings.console.readers)
        self._pseudonyms = Pseudonyms(settings.data_dir)

    def may(self, user: str) -> bool:
        return self.writer is not None and user in self._readers

    def findings(self, session: Session, series_id: int, user: str) -> list[FindingRow]:
        """What the newest reading of a series says, the most probable first, and what was said of it."""
        found = newest_findings(session, series_id)
        if not found:
            return []
        said: dict[str, list[Said]] = {}
        mine = f"console:{self._pseudonyms.known(user)}" if self.may(user) else ""
        chosen: dict[str, str] = {}
        for row in verdicts_of(session, next(iter(found.values())).job_id):
            view = Said(verdict=ReaderVerdict(row.reader_verdict), agrees=agrees(row), source=row.source)
            said.setdefault(row.tracking_uid, []).append(view)
            if row.said_by == mine:
                chosen[row.tracking_uid] = row.reader_verdict
        titles = {finding.key: finding.title for finding in load_vocabulary().findings}
        return [
            FindingRow(
                tracking_uid=uid,
                finding=row.finding,
                title=titles.get(row.finding, row.finding),
                probability=row.probability,
                verdict=row.verdict,
                said=said.get(uid, []),
                mine=chosen.get(uid, ""),
            )
            for uid, row in found.items()
        ]

    def judge(self, series_id: int, tracking_uid: str, verdict: ReaderVerdict, user: str) -> bool:
        """False if the newest reading of the series has no such finding. Raises OSError, sqlalchemy.exc.DBAPIError."""
        assert self.writer is not None
        reader = self._pseudonyms.of(user)
        with self.writer.session() as session:
            row = judge_on_console(session, series_id, tracking_uid, verdict, reader)
            if row is None:
                return False
            _log.info(
                "finding_judged", series=series_id, job=row.job_id, finding=row.finding, verdict=verdict, reader=reader
            )
        return True


@router.post("/series/{series_id}/verdict")
async def post_verdict(request: Request, series_id: SeriesId, forms: FormsOf) -> RedirectResponse:
    """Form fields: `token`, `tracking_uid`, `verdict` (present or absent)."""
    judging: Judging = request.app.state.judging
    user: str = request.state.user
    if not judging.may(user):
        _log.warning("finding_not_judged", series=series_id, detail="not a reader")
        raise HTTPException(403, "Only users of console.readers may agree or disagree.")
    fields = await forms.fields(request)
    uid, said = fields.get("tracking_uid", ""), fields.get("verdict", "")
    if said not in _CHOICES:
        raise HTTPException(400)
    if not await run_in_threadpool(judging.judge, series_id, uid, ReaderVerdict(said), user):
        raise HTTPException(404)
    return RedirectResponse(f"/series/{series_id}#findings", 303)
