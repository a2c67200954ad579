"""An archive that is a DICOM node: C-FIND, then C-GET, or C-MOVE into a storage SCP of our own (PS3.4 annex C).

Each request has an association of its own: an archive may then drop an idle one as it likes.
"""

import shutil
import ssl
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

from pydicom import Dataset, dcmread
from pydicom.errors import InvalidDicomError
from pynetdicom import AE, build_context, build_role
from pynetdicom.presentation import PresentationContext
from pynetdicom.sop_class import (
    StudyRootQueryRetrieveInformationModelFind,
    StudyRootQueryRetrieveInformationModelGet,
    StudyRootQueryRetrieveInformationModelMove,
)

from config import Reason
from config.settings import PeerTls
from training.archive.entries import ArchiveAwayError, Days, SeriesEntry, StudyEntry, day_of, word
from training.archive.settings import Pacs
from training.archive.storage import CLASSES, Inbox

_PENDING = (0xFF00, 0xFF01)
_MOVE_DESTINATION_UNKNOWN = 0xA801
_TOO_MANY = 0xA700
_PDU = 131072


class DimseArchive:
    """Implements `Archive`. Nobody listens here unless C-MOVE is asked for, and then only to the archive's AE title."""

    def __init__(self, pacs: Pacs, staging: Path) -> None:
        """`staging`: folder for single images on their way. Raises ArchiveAwayError if the port for C-MOVE is taken."""
        self._pacs, self._staging, self._inbox = pacs, staging, Inbox()
        self._server: Any = None
        if pacs.retrieve == "move":
            self._server = self._listen()

    def close(self) -> None:
        if self._server is not None:
            self._server.shutdown()
        shutil.rmtree(self._staging, ignore_errors=True)

    def studies(self, days: Days) -> Iterator[StudyEntry]:
        """Day by day where both ends are given: archives limit how much one answer may have."""
        for part in _single_days(days):
            query = _keys("STUDY", StudyDate=part.dicom, ModalitiesInStudy="CT", PatientID="", AccessionNumber="")
            for found in self._find(query):
                uid, modalities = word(found.get("StudyInstanceUID")), found.get("ModalitiesInStudy")
                listed = [modalities] if isinstance(modalities, str) else list(modalities or ["CT"])
                if uid and "CT" in listed:
                    yield StudyEntry(
                        uid,
                        word(found.get("PatientID")),
                        word(found.get("AccessionNumber")),
                        day_of(found.get("StudyDate")),
                    )

    def series(self, study_uid: str) -> list[SeriesEntry]:
        query = _keys("SERIES", study_uid, "", Modality="", NumberOfSeriesRelatedInstances="")
        return [
            SeriesEntry(
                study_uid, uid, word(found.get("Modality")), _count(found.get("NumberOfSeriesRelatedInstances"))
            )
            for found in self._find(query)
            if (uid := word(found.get("SeriesInstanceUID")))
        ]

    def peek(self, series: SeriesEntry) -> Dataset | None:
        images = self._find(_keys("IMAGE", series.study_uid, series.series_uid, "", InstanceNumber=""))
        uids = [uid for one in sorted(images, key=_number) if (uid := word(one.get("SOPInstanceUID")))]
        if not uids:
            return None
        with tempfile.TemporaryDirectory(dir=self._staging) as folder:
            middle = uids[len(uids) // 2]
            self._retrieve(_keys("IMAGE", series.study_uid, series.series_uid, middle), Path(folder))
            for file in Path(folder).iterdir():
                try:
                    return dcmread(file, stop_before_pixels=True)
                except InvalidDicomError:
                    return None
        return None

    def fetch(self, series: SeriesEntry, into: Path) -> int:
        return self._retrieve(_keys("SERIES", series.study_uid, series.series_uid), into)

    def _listen(self) -> Any:
        pacs = self._pacs
        ae = AE(ae_title=pacs.calling)
        ae.maximum_pdu_size = _PDU
        ae.require_called_aet = True
        ae.require_calling_aet = [pacs.ae_title]
        for sop_class, syntaxes in CLASSES.items():
            ae.add_supported_context(sop_class, list(syntaxes))
        try:
            where = (pacs.listen_host, pacs.listen_port)
            return ae.start_server(where, block=False, evt_handlers=self._inbox.handlers)
        except OSError as error:
            detail = f"{pacs.listen_host}:{pacs.listen_port} cannot be listened on ({error.strerror}); set listen_port"
            raise ArchiveAwayError(Reason.NO_ADDRESS, detail) from error

    def _find(self, query: Dataset) -> list[Dataset]:
        found = []
        with self._association([build_context(StudyRootQueryRetrieveInformationModelFind)]) as association:
            for status, identifier in association.send_c_find(query, StudyRootQueryRetrieveInformationModelFind):
                code = self._status(status, "C-FIND")
                if code in _PENDING and identifier is not None:
                    found.append(identifier)
                elif code == _TOO_MANY:
                    raise ArchiveAwayError(
                        Reason.ARCHIVE_REFUSED,
                        "C-FIND has too many matches (0xA700); ask for fewer days with --from, --to",
                    )
                elif code not in _PENDING and code != 0:
                    raise ArchiveAwayError(Reason.ARCHIVE_REFUSED, f"C-FIND ended with status 0x{code:04X}")
        return found

    def _retrieve(self, query: Dataset, into: Path) -> int:
        self._inbox.open(into)
        try:
            self._move(query) if self._pacs.retrieve == "move" else self._get(query)
        finally:
            self._inbox.close()
        wanted = str(query.SeriesInstanceUID)
        for file in into.iterdir():
            if _series_of(file) != wanted:
                file.unlink()
        return sum(1 for _ in into.iterdir())

    def _move(self, query: Dataset) -> None:
        model = StudyRootQueryRetrieveInformationModelMove
        with self._association([build_context(model)]) as association:
            for status, _ in association.send_c_move(query, self._pacs.calling, model):
                code = self._status(status, "C-MOVE")
                if code == _MOVE_DESTINATION_UNKNOWN:
                    raise ArchiveAwayError(
                        Reason.NO_ADDRESS,
                        f"C-MOVE: the archive does not know {self._pacs.calling}; "
                        "let it know this AE title with host and port, or set retrieve: get",
                    )
                where = f"{self._pacs.listen_host}:{self._pacs.listen_port}"
                _check_end(code, "C-MOVE", f"; it has to reach {self._pacs.calling} at {where}")

    def _get(self, query: Dataset) -> None:
        model = StudyRootQueryRetrieveInformationModelGet
        # a context for each transfer syntax, so that compressed images come as they are stored
        contexts = [build_context(one, syntax) for one, syntaxes in CLASSES.items() for syntax in syntaxes]
        roles = [build_role(one, scp_role=True) for one in CLASSES]
        with self._association([build_context(model), *contexts], roles) as association:
            for status, _ in association.send_c_get(query, model):
                _check_end(self._status(status, "C-GET"), "C-GET")

    def _status(self, status: Dataset, what: str) -> int:
        """The status of a response. Raises ArchiveAwayError if none came."""
        if "Status" not in status:
            detail = f"{what}: the archive broke off or fell silent; if it is up, let it know {self._pacs.calling}"
            raise ArchiveAwayError(Reason.PEER_UNREACHABLE, detail)
        return int(status.Status)

    @contextmanager
    def _association(self, contexts: list[PresentationContext], roles: Sequence[Any] = ()) -> Iterator[Any]:
        pacs = self._pacs
        ae = AE(ae_title=pacs.calling)
        ae.acse_timeout = ae.connection_timeout = min(30.0, pacs.timeout_s)
        ae.dimse_timeout = ae.network_timeout = pacs.timeout_s
        tls = None if pacs.tls is None else (_context(pacs.tls), pacs.tls.name or pacs.host)
        association = ae.associate(
            pacs.host,
            pacs.port,
            contexts=contexts,
            ae_title=pacs.ae_title,
            max_pdu=_PDU,
            ext_neg=list(roles),
            evt_handlers=self._inbox.handlers,
            tls_args=tls,
        )
        if not association.is_established:
            if association.is_rejected:
                detail = f"{pacs.ae_title} rejects the association; it has to know the AE title {pacs.calling}"
                raise ArchiveAwayError(Reason.ARCHIVE_REFUSED, detail)
            hint = (
                ""
                if pacs.tls is None
                else "; if it is up, see pacs.tls: one side may not trust the other's certificate"
            )
            raise ArchiveAwayError(Reason.PEER_UNREACHABLE, f"no association with {pacs.host}:{pacs.port}{hint}")
        try:
            if not association.accepted_contexts:
                raise ArchiveAwayError(Reason.ARCHIVE_REFUSED, "the archive offers nothing of what is asked of it")
            yield association
        except ValueError as error:  # pynetdicom: no accepted context for the request
            raise ArchiveAwayError(Reason.ARCHIVE_REFUSED, "the archive does not offer this service") from error
        except RuntimeError as error:  # pynetdicom: the association has ended
            raise ArchiveAwayError(Reason.PEER_UNREACHABLE, "the association has ended") from error
        finally:
            if association.is_established:
                association.release()


def _keys(level: str, study: str = "", series: str | None = None, image: str | None = None, **more: str) -> Dataset:
    query = Dataset()
    query.QueryRetrieveLevel, query.StudyInstanceUID = level, study
    if series is not None:
        query.SeriesInstanceUID = series
    if image is not None:
        query.SOPInstanceUID = image
    for keyword, value in more.items():
        setattr(query, keyword, value)
    return query


def _single_days(days: Days) -> Iterator[Days]:
    if days.first is None or days.last is None:
        yield days
        return
    day = days.first
    while day <= days.last:
        yield Days(day, day)
        day += timedelta(days=1)


def _check_end(code: int, what: str, hint: str = "") -> None:
    """A warning, or "unable to perform sub-operations", means that some did not come: whoever asked counts them."""
    if code not in (*_PENDING, 0x0000, 0xB000, 0xA702):
        raise ArchiveAwayError(Reason.ARCHIVE_REFUSED, f"{what} ended with status 0x{code:04X}{hint}")


def _count(value: Any) -> int | None:
    text = word(value)
    return int(text) if text.isdecimal() else None


def _number(image: Dataset) -> tuple[int, str]:
    return _count(image.get("InstanceNumber")) or 0, word(image.get("SOPInstanceUID"))


def _series_of(file: Path) -> str:
    try:
        return word(
            dcmread(file, specific_tags=["SeriesInstanceUID"], stop_before_pixels=True).get("SeriesInstanceUID")
        )
    except Exception:  # an object of a stranger; pydicom raises nearly any type
        return ""


def _context(tls: PeerTls) -> ssl.SSLContext:
    """TLS 1.2 or newer (PS3.15 annex B.9, BCP 195). Raises ArchiveAwayError if a file cannot be used."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        if not tls.verify:
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        elif tls.ca is not None:
            context.load_verify_locations(tls.ca)
        else:
            context.load_default_certs()
        if tls.certificate is not None:
            context.load_cert_chain(tls.certificate, tls.key, password=lambda: "")  # else OpenSSL asks at the terminal
    except OSError as error:
        detail = f"pacs.tls: a file cannot be used ({type(error).__name__}); PEM, the key without a password"
        raise ArchiveAwayError(Reason.TLS_FAILED, detail) from error
    return context
