"""QIDO-RS tells what a study has, WADO-RS gives it, image by image, several at once (PS3.18 sections 10.6 and 10.4)."""

import threading
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any

from config import Reason, Settings
from config.settings import Source
from ct.part10 import is_uid
from node.database import Records
from node.fetch_pool import Refusal, fetch_all, refusal
from node.http_peer import HttpPeer, PeerError
from node.intake import Intake, IntakeSession
from node.part10_stream import Part10Stream, accepted_classes
from node.retrieve.plan import Progress, Retrieved, RetrieveError, counted, plan
from node.web.multipart import MultipartError, MultipartReader, media_type

_JSON = "application/dicom+json"
DICOM = 'multipart/related; type="application/dicom"; transfer-syntax=*'
"""As it is stored: whatever the transfer syntax, nothing is encoded anew."""
_AT_ONCE = 4
_PAGE = 1000
_MOST_PAGES = 100
_MODALITY, _SERIES, _INSTANCE = "00080060", "0020000E", "00080018"


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
    """
    longest = settings.web.max_object_mb * 2**20
    intake = Intake(settings.spool_dir, settings.dicom.min_free_mb * 2**20)
    classes = accepted_classes(settings)
    try:
        with HttpPeer(source.dicomweb_url, source, settings.delivery.timeout_s, _AT_ONCE) as peer:
            others: set[str] = set()
            series = _ct_series(peer, study, only, others)
            wanted = plan(records, settings.spool_dir, name, source.ae_title, series)
            found = counted(wanted)
            found.others = others
            lock = threading.Lock()
            progress(found.known, found.images)

            def fetch(session: IntakeSession, item: tuple[str, str]) -> Refusal | None:
                series, instance = item
                stream = Part10Stream(session, classes, longest, study=study, instance=instance)
                where = f"studies/{study}/series/{series}/instances/{instance}"
                refused = _fetch_one(peer, where, stream, longest)
                with lock:
                    found.fetched += refused is None
                    progress(found.known + found.fetched, found.images)
                return refused

            items = [(series.uid, instance) for series in wanted for instance in sorted(series.missing)]
            called = settings.dicom.ae_title
            refused = fetch_all(intake, source.ae_title, called, items, _AT_ONCE, fetch, threading.Event())
    except PeerError as error:
        raise RetrieveError(error.detail, error.reason) from error
    found.problems = [f"{reason}: {detail}" for reason, detail in refused]
    return found


def _ct_series(peer: HttpPeer, study: str, only: Collection[str], others: set[str]) -> Iterator[tuple[str, list[str]]]:
    """CT series and their instances; the rest goes into `others`. Raises PeerError, RetrieveError."""
    series = search(peer, f"studies/{study}/series", (_SERIES, _MODALITY))
    if not series:
        raise RetrieveError("the archive does not have the study")
    others |= {one[0] for one in series if one[1] != "CT"}
    for one in series:
        if one[1] == "CT" and is_uid(one[0]) and (not only or one[0] in only):
            instances = search(peer, f"studies/{study}/series/{one[0]}/instances", (_INSTANCE,))
            yield one[0], [instance[0] for instance in instances if is_uid(instance[0])]


def search(
    peer: HttpPeer, path: str, tags: tuple[str, ...], query: Mapping[str, str] | None = None
) -> list[tuple[str, ...]]:
    """QIDO-RS: all matches, page by page; of each the values of these tags. Raises PeerError."""
    found: dict[tuple[str, ...], None] = {}
    for page in range(_MOST_PAGES):
        wanted: dict[str, str | int] = {**(query or {}), "limit": _PAGE, "offset": page * _PAGE}
        answer = peer.json(path, wanted, _JSON) or []
        rows = [tuple(_value(item, tag) for tag in tags) for item in answer if isinstance(item, dict)]
        before = len(found)
        found |= dict.fromkeys(rows)
        if len(rows) < _PAGE or len(found) == before:  # the last page, or the archive does not know pages
            break
    return list(found)


def _value(item: dict[str, Any], tag: str) -> str:
    """The first value of an element (PS3.18 annex F); empty if there is none."""
    element = item.get(tag)
    values = element.get("Value") if isinstance(element, dict) else None
    return str(values[0]).strip() if isinstance(values, list) and values else ""


def _fetch_one(peer: HttpPeer, where: str, stream: Part10Stream, longest: int) -> Refusal | None:
    """One object into the stream. Raises PeerError, OSError."""
    reader: list[MultipartReader] = []

    def take(content_type: str) -> Callable[[bytes], None]:
        if media_type(content_type)[0] == "application/dicom":
            return stream.write
        reader.append(MultipartReader(content_type, _OnlyPart(stream).begin))
        return reader[0].write

    try:
        peer.fetch(where, DICOM, take, longest + 2**16)
        for one in reader:
            one.end()
    except MultipartError as error:
        return Reason.GONE_AT_SOURCE, f"WADO-RS: the answer is no whole multipart message ({error})"
    except PeerError as error:
        if not error.lasting:
            raise
        return Reason.GONE_AT_SOURCE, error.detail
    return refusal(stream.finish())


class _OnlyPart:
    """An answer has one part."""

    def __init__(self, stream: Part10Stream) -> None:
        self._stream = stream

        self._begun = False

    def begin(self, _: Mapping[str, str]) -> "_OnlyPart":
        """Raises MultipartError for a second part."""
        if self._begun:
            raise MultipartError("of several parts")
        self._begun = True
        return self

    def write(self, piece: memoryview) -> None:
        self._stream.write(piece)

    def end(self) -> None:
        """The stream is finished when the whole answer is there."""
