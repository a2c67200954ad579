"""C-FIND tells what a study has; C-GET brings it on the same association, C-MOVE on one that the archive opens
(Study Root, PS3.4 annex C).
"""

from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from pydicom import Dataset
from pynetdicom import AE, ALL_TRANSFER_SYNTAXES, build_context, build_role, evt
from pynetdicom.presentation import PresentationContext
from pynetdicom.sop_class import (
    CTImageStorage,
    StudyRootQueryRetrieveInformationModelFind,
    StudyRootQueryRetrieveInformationModelGet,
    StudyRootQueryRetrieveInformationModelMove,
)

from config import Reason, Settings
from config.settings import Source
from ct.part10 import is_uid
from node.database import Records
from node.intake import OUT_OF_RESOURCES, Intake, IntakeSession, Stored
from node.part10_stream import accepted_classes
from node.retrieve.plan import Progress, Retrieved, RetrieveError, WantedSeries, counted, plan
from node.scu import associate, cut
from node.tls import TlsError

_PENDING = (0xFF00, 0xFF01)
_MOST_UIDS = 200
"""UIDs in one request: a list of them is limited to 16 kB by careful archives."""
_MOST_CLASSES = 80
"""Storage classes in one request for an association; it may have 128 presentation contexts."""
_WARNING = 0xB000
"""Sub-operations complete, one or more failed (PS3.4 table C.4-2)."""


def pull(
    settings: Settings,
    records: Records,
    name: str,
    source: Source,
    study: str,
    progress: Progress,
    only: Collection[str] = (),
) -> Retrieved:
    """Fetch the CT series of a study, or `only` these. Raises RetrieveError, OSError, sqlalchemy.exc.DBAPIError; what
    is Stored stays.

    C-MOVE sends to the node's own AE title, where the running node takes it in; what the archive says of it counts.
    """
    with association(settings, source, StudyRootQueryRetrieveInformationModelFind) as asking:
        told = _series(asking, study)
        series = [
            (uid, [one.get("SOPInstanceUID", "") for one in find(asking, query("IMAGE", study, uid, "SOPInstanceUID"))])
            for uid, modality in told
            if modality == "CT" and (not only or uid in only)
        ]
    images = [(uid, filter(is_uid, map(str, instances))) for uid, instances in series]
    wanted = plan(records, settings.spool_dir, name, source.ae_title, images)
    found = counted(wanted)
    found.others = {uid for uid, modality in told if modality != "CT"}
    progress(found.known, found.images)
    if source.retrieve == "c-get":
        _get(settings, source, study, wanted, found, progress)
    else:
        _move(settings, source, study, wanted, found, progress)
    return found


def _series(asking: Any, study: str) -> list[tuple[str, str]]:
    """Series of a study, each with its modality. Raises RetrieveError."""
    series = list(find(asking, query("SERIES", study, "", "Modality")))
    if not series:
        raise RetrieveError("the archive does not have the study")
    told = [(str(one.get("SeriesInstanceUID", "")), str(one.get("Modality", ""))) for one in series]
    return [(uid, modality) for uid, modality in told if is_uid(uid)]


def query(level: str, study: str, series: str = "", *returned: str) -> Dataset:
    """The identifier of a request; `returned`: what is to be told beside the UIDs."""
    wanted = Dataset()
    wanted.QueryRetrieveLevel, wanted.StudyInstanceUID = level, study
    if level != "STUDY":
        wanted.SeriesInstanceUID = series
    for keyword in returned:
        setattr(wanted, keyword, "")
    return wanted


def find(asking: Any, wanted: Dataset) -> Iterator[Dataset]:
    """Matches of a C-FIND. Raises RetrieveError."""
    try:
        for status, match in asking.send_c_find(wanted, StudyRootQueryRetrieveInformationModelFind):
            code = status.get("Status")
            if code in _PENDING and match is not None:
                yield match
            elif code != 0x0000:
                raise RetrieveError(_why("C-FIND", code), _reason(code))
    except (RuntimeError, ValueError) as error:
        raise RetrieveError("the archive does not take the query (C-FIND)", Reason.PEER_REFUSED) from error


def _get(
    settings: Settings, source: Source, study: str, wanted: list[WantedSeries], found: Retrieved, progress: Progress
) -> None:
    """Over our own association, on which the archive sends."""
    intake = Intake(settings.spool_dir, settings.dicom.min_free_mb * 2**20)
    with intake.open(source.ae_title, settings.dicom.ae_title) as session:

        def store(event: evt.Event) -> int:
            status = _store(session, event)
            found.fetched += status == 0x0000
            progress(found.known + found.fetched, found.images)
            return status

        model = StudyRootQueryRetrieveInformationModelGet
        with association(settings, source, model, _ct_contexts(settings), [(evt.EVT_C_STORE, store)]) as asking:
            for one in _queries(study, wanted):
                retrieve("C-GET", asking.send_c_get(one, model), found)


def _store(session: IntakeSession, event: evt.Event) -> int:
    """One image of a C-GET into the spool; the C-STORE status."""
    request = event.request
    if request.DataSet is None:
        return OUT_OF_RESOURCES
    answer = session.store(
        str(request.AffectedSOPClassUID),
        str(request.AffectedSOPInstanceUID),
        str(event.context.transfer_syntax),
        request.DataSet.getbuffer(),
    )
    return 0x0000 if isinstance(answer, Stored) else answer.status


def _move(
    settings: Settings, source: Source, study: str, wanted: list[WantedSeries], found: Retrieved, progress: Progress
) -> None:
    """To the node's own AE title."""
    model = StudyRootQueryRetrieveInformationModelMove
    with association(settings, source, model) as asking:
        for one in _queries(study, wanted):
            before = found.fetched

            def told(status: Dataset, before: int = before) -> None:
                done = status.get("NumberOfCompletedSuboperations")
                if done is not None:
                    found.fetched = before + int(done)
                    progress(found.known + found.fetched, found.images)

            retrieve("C-MOVE", asking.send_c_move(one, settings.dicom.ae_title, model), found, told)


def retrieve(what: str, answers: Iterable[tuple[Dataset, Any]], found: Retrieved, told: Any = lambda _: None) -> None:
    """One request to its end. Raises RetrieveError."""
    code: int | None = None
    failed = 0
    try:
        for status, _ in answers:
            code = status.get("Status")
            told(status)
            failed = int(status.get("NumberOfFailedSuboperations") or 0)
    except (RuntimeError, ValueError) as error:
        raise RetrieveError(f"the archive does not take the request ({what})", Reason.PEER_REFUSED) from error
    if failed:
        found.problems.append(f"{what}: {failed} images of a series did not come through")
    if code not in (0x0000, _WARNING) and not failed:
        raise RetrieveError(_why(what, code), _reason(code))


def _reason(code: int | None) -> Reason:
    return Reason.PEER_SILENT if code is None else Reason.PEER_REFUSED


def _why(what: str, code: int | None) -> str:
    """What a status means to a person."""
    if code is None:
        return f"the archive did not answer ({what})"
    known = {0xA801: "it does not know the AE title of the node as a destination", 0xA701: "out of resources"}
    return f"the archive refuses {what}: status 0x{code:04X}" + (f", {known[code]}" if code in known else "")


def _queries(study: str, wanted: Iterable[WantedSeries]) -> Iterator[Dataset]:
    """Whole series where nothing is there, else the images that are missing."""
    for series in wanted:
        if series.missing == series.images:
            yield query("SERIES", study, series.uid)
            continue
        missing = sorted(series.missing)
        for start in range(0, len(missing), _MOST_UIDS):
            some = query("IMAGE", study, series.uid)
            some.SOPInstanceUID = missing[start : start + _MOST_UIDS]
            yield some


def _ct_contexts(settings: Settings) -> list[PresentationContext]:
    """A context for each syntax of CT images: the archive takes one of each context, and may not transcode."""
    others = [one for one in sorted(accepted_classes(settings))[:_MOST_CLASSES] if one != CTImageStorage]
    ct = [build_context(CTImageStorage, syntax) for syntax in ALL_TRANSFER_SYNTAXES]
    return ct + [build_context(one, ALL_TRANSFER_SYNTAXES) for one in others]


@contextmanager
def association(
    settings: Settings,
    source: Source,
    model: Any,
    stored: Iterable[PresentationContext] = (),
    handlers: Iterable[Any] = (),
    timeout_s: float | None = None,
) -> Iterator[Any]:
    """To the archive; `stored`: what it may send on it; `timeout_s`: None takes `delivery.timeout_s`.

    Raises RetrieveError.
    """
    ae = AE(ae_title=settings.dicom.ae_title)
    longest_s = timeout_s or settings.delivery.timeout_s
    ae.acse_timeout = ae.dimse_timeout = ae.network_timeout = ae.connection_timeout = longest_s
    taken = list(stored)
    roles = [build_role(one, scp_role=True) for one in sorted({str(one.abstract_syntax) for one in taken})]
    try:
        made = associate(
            ae,
            source.host,
            source.port,
            source.ae_title,
            [build_context(model), *taken],
            roles,
            list(handlers),
            tls=source.tls,
        )
    except TlsError as error:
        raise RetrieveError(str(error), Reason.INTERNAL) from error
    if not made.is_established:
        raise RetrieveError(f"{source.ae_title} at {source.host}:{source.port} does not take the association")
    try:
        yield made
    except BaseException:  # whatever ends the use, an interrupt too, the peer is not left waiting; it is raised again
        cut(made)
        raise
    else:
        made.release()
