"""An archive that is asked by C-FIND and gives reports by C-GET, or by C-MOVE to the node itself (PS3.4 annex C).

What C-GET brings is held in memory. What C-MOVE brings comes in like any other series: it is read from the spool, and
ends there as one that is not for reading.
"""

import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Self

from pydicom import Dataset
from pynetdicom import build_context, evt
from pynetdicom.sop_class import (
    Comprehensive3DSRStorage,
    StudyRootQueryRetrieveInformationModelFind,
    StudyRootQueryRetrieveInformationModelGet,
    StudyRootQueryRetrieveInformationModelMove,
)
from sqlalchemy import select

from config import Reason, Settings
from config.settings import Source
from ct.part10 import is_uid
from node.database import Records
from node.file_meta import Origin, part10_header
from node.prior_search.question import Deadline, OlderStudy, Question, may_be_ours
from node.records import SegmentSeries, SpoolSegment
from node.retrieve.dimse import association, find, query, retrieve
from node.retrieve.plan import Retrieved, RetrieveError
from node.small_object import LARGEST
from node.spool import Record, scan

_LOOK_S = 0.1
"""Seconds between two looks for what C-MOVE has sent."""
_SUCCESS, _CANNOT_STORE = 0x0000, 0xA900


class DimseArchive:
    """An `Archive`; a context manager."""

    def __init__(self, settings: Settings, records: Records, source: Source, deadline: Deadline) -> None:
        self._settings, self._records, self._source, self._deadline = settings, records, source, deadline
        self._stack = ExitStack()

    def studies(self, question: Question) -> list[OlderStudy]:
        wanted = query("STUDY", "", "", "StudyTime", "IssuerOfPatientID")
        wanted.PatientID, wanted.StudyDate, wanted.ModalitiesInStudy = question.patient_id, f"-{question.day}", "SR"
        told = ("StudyInstanceUID", "StudyDate", "StudyTime", "PatientID", "IssuerOfPatientID")
        rows = [[_text(match, keyword) for keyword in told] for match in self._find(wanted)]
        return [OlderStudy(*row) for row in rows if is_uid(row[0])]

    def report_series(self, study: str) -> list[str]:
        wanted = query("SERIES", study, "", "SeriesNumber")
        wanted.Modality = "SR"
        return [
            uid
            for match in self._find(wanted)
            if is_uid(uid := _text(match, "SeriesInstanceUID"))
            and _text(match, "Modality") == "SR"
            and may_be_ours(_text(match, "SeriesNumber"))
        ]

    def reports(self, study: str, series: str) -> Iterator[bytes]:
        return self._get(study, series) if self._source.retrieve == "c-get" else self._move(study, series)

    def _get(self, study: str, series: str) -> Iterator[bytes]:
        came: list[bytes] = []

        def store(event: evt.Event) -> int:
            data_set = event.request.DataSet.getvalue()
            if sum(map(len, came)) + len(data_set) > LARGEST:
                return _CANNOT_STORE
            request, syntax = event.request, str(event.context.transfer_syntax)
            origin = Origin(str(request.AffectedSOPClassUID), str(request.AffectedSOPInstanceUID), syntax, "", "")
            came.append(part10_header(origin) + data_set)
            return _SUCCESS

        model = StudyRootQueryRetrieveInformationModelGet
        contexts, handlers = [build_context(Comprehensive3DSRStorage)], [(evt.EVT_C_STORE, store)]
        with association(self._settings, self._source, model, contexts, handlers, self._timeout_s()) as asking:
            _whole("C-GET", asking.send_c_get(query("SERIES", study, series), model))
        return iter(came)

    def _move(self, study: str, series: str) -> Iterator[bytes]:
        """Waits until what is sent is in the index."""
        wanted = query("IMAGE", study, series, "SOPInstanceUID")
        uids = {uid for match in self._find(wanted) if is_uid(uid := _text(match, "SOPInstanceUID"))}
        there = self._spooled(series, uids)
        if there.keys() != uids:
            model = StudyRootQueryRetrieveInformationModelMove
            with association(self._settings, self._source, model, timeout_s=self._timeout_s()) as asking:
                answers = asking.send_c_move(query("SERIES", study, series), self._settings.dicom.ae_title, model)
                _whole("C-MOVE", answers)
        while there.keys() != uids:
            self._deadline.left_s()
            time.sleep(_LOOK_S)
            there = self._spooled(series, uids)
        return (_stored(self._settings.spool_dir, record) for record in there.values())

    def _spooled(self, series: str, uids: set[str]) -> dict[str, Record]:
        """Not by the rows of the instances: of what came before and was deleted, they name the first place."""
        brought = select(SegmentSeries.segment).join(SpoolSegment, SpoolSegment.name == SegmentSeries.segment)
        with self._records.reading() as session:
            there = brought.where(SegmentSeries.series_instance_uid == series, SpoolSegment.released_at.is_(None))
            segments = session.scalars(there).all()
        found = (record for name in segments for record in scan(self._settings.spool_dir / name))
        return {uid: record for record in found if (uid := record.origin.sop_instance_uid) in uids}

    def _find(self, wanted: Dataset) -> Iterator[Dataset]:
        for match in find(self._asking, wanted):
            self._deadline.left_s()
            yield match

    def _timeout_s(self) -> float:
        return min(self._settings.delivery.timeout_s, self._deadline.left_s())

    def __enter__(self) -> Self:
        model = StudyRootQueryRetrieveInformationModelFind
        made = association(self._settings, self._source, model, timeout_s=self._timeout_s())
        self._asking: Any = self._stack.enter_context(made)
        return self

    def __exit__(self, *exception: Any) -> None:
        self._stack.__exit__(*exception)


def _whole(what: str, answers: Iterator[tuple[Dataset, Any]]) -> None:
    """A request to its end. Raises RetrieveError, also if only some came through."""
    found = Retrieved()
    retrieve(what, answers, found)
    if found.problems:
        raise RetrieveError(found.problems[0], Reason.PEER_REFUSED)


def _stored(spool_dir: Path, record: Record) -> bytes:
    """Raises OSError."""
    with (spool_dir / record.segment).open("rb") as file:
        file.seek(record.offset)
        return file.read(min(record.length, LARGEST + 1))


def _text(match: Dataset, keyword: str) -> str:
    return str(match.get(keyword) or "").strip()
