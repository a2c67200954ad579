"""An archive that is asked by QIDO-RS and gives reports by WADO-RS (PS3.18 sections 10.6 and 10.4)."""

from collections.abc import Callable, Iterator, Mapping
from typing import Self

from config import Reason
from config.settings import Source
from ct.part10 import is_uid
from node.http_peer import HttpPeer, PeerError
from node.prior_search.question import Deadline, OlderStudy, Question, may_be_ours
from node.retrieve.dicomweb import DICOM, search
from node.retrieve.plan import RetrieveError
from node.small_object import LARGEST
from node.web.multipart import MultipartError, MultipartReader, media_type

_STUDY, _DAY, _TIME, _PATIENT, _ISSUER = "0020000D", "00080020", "00080030", "00100020", "00100021"
_SERIES, _MODALITY, _NUMBER = "0020000E", "00080060", "00200011"


class WebArchive:
    """An `Archive`; a context manager."""

    def __init__(self, source: Source, timeout_s: float, deadline: Deadline) -> None:
        """`timeout_s`: longest silence. Raises RetrieveError if a secret or the certificates cannot be read."""
        self._deadline = deadline
        try:
            self._peer = HttpPeer(source.dicomweb_url, source, min(timeout_s, deadline.left_s()))
        except PeerError as error:
            raise RetrieveError(error.detail, error.reason) from error

    def studies(self, question: Question) -> list[OlderStudy]:
        query = {
            "PatientID": question.patient_id,
            "StudyDate": f"-{question.day}",
            "ModalitiesInStudy": "SR",
            "includefield": _ISSUER,
        }
        rows = self._search("studies", (_STUDY, _DAY, _TIME, _PATIENT, _ISSUER), query)
        return [OlderStudy(*row) for row in rows if is_uid(row[0])]

    def report_series(self, study: str) -> list[str]:
        rows = self._search(f"studies/{study}/series", (_SERIES, _MODALITY, _NUMBER), {"Modality": "SR"})
        return [row[0] for row in rows if is_uid(row[0]) and row[1] == "SR" and may_be_ours(row[2])]

    def reports(self, study: str, series: str) -> Iterator[bytes]:
        self._deadline.left_s()
        parts: list[_Part] = []
        reader: list[MultipartReader] = []

        def begin(_: Mapping[str, str]) -> _Part:
            parts.append(_Part())
            return parts[-1]

        def take(content_type: str) -> Callable[[bytes], None]:
            if media_type(content_type)[0] == "application/dicom":
                only = begin({})
                return lambda piece: only.write(memoryview(piece))
            reader.append(MultipartReader(content_type, begin))
            return reader[0].write

        try:
            self._peer.fetch(f"studies/{study}/series/{series}", DICOM, take, LARGEST)
            for one in reader:
                one.end()
        except MultipartError as error:
            raise RetrieveError(
                f"WADO-RS: the answer is no whole multipart message ({error})", Reason.PEER_REFUSED
            ) from error
        except PeerError as error:
            raise RetrieveError(error.detail, error.reason) from error
        return iter([bytes(part.content) for part in parts])

    def _search(self, path: str, tags: tuple[str, ...], query: Mapping[str, str]) -> list[tuple[str, ...]]:
        self._deadline.left_s()
        try:
            return search(self._peer, path, tags, query)
        except PeerError as error:
            raise RetrieveError(error.detail, error.reason) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._peer.close()


class _Part:
    """One object of the answer."""

    def __init__(self) -> None:
        self.content = bytearray()

    def write(self, piece: memoryview) -> None:
        self.content += piece

    def end(self) -> None:
        """The object is looked at when the whole answer is there."""
