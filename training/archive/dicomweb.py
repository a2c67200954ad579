"""An archive with QIDO-RS and WADO-RS (PS3.18 sections 10.4 and 10.6): Orthanc, dcm4chee, a cloud's DICOM store."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from dicomweb_client.api import DICOMwebClient
from dicomweb_client.session_utils import (
    add_certs_to_session,
    create_session,
    create_session_from_user_pass,
)
from pydicom import Dataset, dcmwrite
from pydicom.uid import ExplicitVRLittleEndian

from config import Reason
from training.archive.entries import ArchiveAwayError, CollectError, Days, SeriesEntry, StudyEntry, day_of, word
from training.archive.settings import DicomWeb

_PAGE = 200
"""Matches a request."""
_STUDY, _SERIES, _INSTANCE = "0020000D", "0020000E", "00080018"
_PATIENT_ID, _ACCESSION, _DATE, _MODALITIES = "00100020", "00080050", "00080020", "00080061"
_MODALITY, _COUNT, _NUMBER = "00080060", "00201209", "00200013"

T = TypeVar("T")


class DicomWebArchive:
    """Implements `Archive`."""

    def __init__(self, service: DicomWeb) -> None:
        """Raises CollectError if a secret or the certificates cannot be read."""
        if service.user:
            session = create_session_from_user_pass(service.user, _secret(service.password))
        else:
            session = create_session()
        if service.ca_file is not None:
            try:
                session = add_certs_to_session(session, service.ca_file)
            except OSError as error:
                raise CollectError(f"dicomweb.ca_file cannot be read ({type(error).__name__})") from error
        headers = {"Authorization": f"Bearer {_secret(service.token)}"} if service.token else None
        self._client = DICOMwebClient(
            service.url.rstrip("/"), session, headers=headers, permissive_uid=True, timeout=service.timeout_s
        )
        self._client.set_http_retry_params(retry=False)  # `collecting` tries again, whatever the archive is

    def close(self) -> None:
        """Each request has ended with its answer."""

    def studies(self, days: Days) -> Iterator[StudyEntry]:
        filters = {"ModalitiesInStudy": "CT"} | ({"StudyDate": days.dicom} if days.dicom else {})
        seen, offset = set[str](), 0
        while True:
            page = self._page(filters, offset)
            fresh = [one for one in page if _text(one, _STUDY) not in seen]
            for one in fresh:
                seen.add(_text(one, _STUDY))
                yield StudyEntry(_text(one, _STUDY), _text(one, _PATIENT_ID), _text(one, _ACCESSION), _day(one))
            if not fresh:  # also of a service that knows no offset and gives the same page for ever
                return
            offset += len(page)

    def _page(self, filters: dict[str, str], offset: int) -> list[dict[str, Any]]:
        fields = [_PATIENT_ID, _ACCESSION, _DATE, _MODALITIES]
        return _asked(
            lambda: self._client.search_for_studies(limit=_PAGE, offset=offset, fields=fields, search_filters=filters)
        )

    def series(self, study_uid: str) -> list[SeriesEntry]:
        found = _asked(lambda: self._client.search_for_series(study_uid, fields=[_MODALITY, _COUNT]))
        return [
            SeriesEntry(study_uid, uid, _text(one, _MODALITY), int(count) if count.isdecimal() else None)
            for one in found
            if (uid := _text(one, _SERIES))
            for count in [_text(one, _COUNT)]
        ]

    def peek(self, series: SeriesEntry) -> Dataset | None:
        study, uid = series.study_uid, series.series_uid
        images = _asked(lambda: self._client.search_for_instances(study, uid, fields=[_NUMBER]))
        if not images:
            return None
        images.sort(key=lambda one: number.zfill(12) if (number := _text(one, _NUMBER)).isdecimal() else "")
        middle = _text(images[len(images) // 2], _INSTANCE)
        header = _asked(lambda: self._client.retrieve_instance_metadata(study, uid, middle))
        try:
            return Dataset.from_json(header)
        except Exception:  # what a service makes of foreign headers; pydicom raises nearly any type
            return None

    def fetch(self, series: SeriesEntry, into: Path) -> int:
        def bring() -> int:
            count = 0
            for count, image in enumerate(self._client.iter_series(series.study_uid, series.series_uid), 1):
                _write(image, into / f"{count:06d}.dcm")
            return count

        return _asked(bring)


def _write(image: Dataset, file: Path) -> None:
    if not hasattr(image, "file_meta") or "TransferSyntaxUID" not in image.file_meta:
        image.ensure_file_meta()
        image.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dcmwrite(file, image, enforce_file_format=True)


def _asked(request: Callable[[], T]) -> T:
    """What the service answers. Raises ArchiveAwayError; its text has no URL, which would hold UIDs."""
    try:
        return request()
    except OSError as error:  # requests' errors are OSErrors
        status = getattr(getattr(error, "response", None), "status_code", None)
        if status is None:
            detail = f"the DICOMweb service does not answer ({type(error).__name__})"
            raise ArchiveAwayError(Reason.PEER_UNREACHABLE, detail) from None
        raise ArchiveAwayError(Reason.ARCHIVE_REFUSED, f"the DICOMweb service answers with status {status}") from None
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        detail = f"the DICOMweb service answers what is no DICOM ({type(error).__name__})"
        raise ArchiveAwayError(Reason.PROTOCOL_ERROR, detail) from None


def _text(match: dict[str, Any], tag: str) -> str:
    values = match.get(tag, {}).get("Value") or [""]
    return word(values[0])


def _day(match: dict[str, Any]) -> Any:
    return day_of(_text(match, _DATE))


def _secret(source: str) -> str:
    """What stands in `env:NAME` or `file:PATH`. Raises CollectError."""
    kind, _, name = source.partition(":")
    try:
        value = os.environ.get(name, "") if kind == "env" else Path(name).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise CollectError(f"{source} cannot be read ({type(error).__name__})") from error
    if not (value := value.strip()) or not (value.isascii() and value.isprintable()):
        raise CollectError(f"{source} holds nothing that can be used")
    return value
