"""How many images the source says that a series has: Number of Series Related Instances (0020,1209).

Asked by C-FIND (Study Root, PS3.4 annex C) or QIDO-RS (PS3.18 section 10.6), in threads of its own: an archive that is
slow or dead delays nothing but its own answers, and each question ends after `delivery.timeout_s`.
"""

import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime

import structlog
from pydicom.dataset import Dataset
from pynetdicom import AE, build_context
from pynetdicom.sop_class import StudyRootQueryRetrieveInformationModelFind

from config import Reason, Settings
from config.settings import Source
from node.http_peer import HttpPeer, PeerError
from node.scu import associate
from node.signals import Receiving
from node.tls import TlsError

_log = structlog.get_logger(__name__)

_FIRST_WAIT_S, _LAST_WAIT_S = 2.0, 60.0
"""Between two questions about the same series, seconds."""
_AT_ONCE = 4
_MOST_WAITING = 64
"""Questions under way or queued; more series are asked about later."""
_PENDING = (0xFF00, 0xFF01)
_COUNT_TAG = "00201209"
"""Number of Series Related Instances."""


class NoCountError(Exception):
    """The source does not say."""


@dataclass
class _Question:
    asked_for: datetime
    """`last_at` of the series when it was asked: an answer holds for what was there then."""
    answer: Future[int] | None
    wait_s: float
    again: float
    count: int | None = None
    failed: bool = False


class SourceCounts:
    """Questions about the series that are coming in; asked and answered from one thread."""

    def __init__(self, settings: Settings, clock: Callable[[], float] = time.monotonic) -> None:
        self._settings, self._clock = settings, clock
        self._pool = ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="count")
        self._questions: dict[int, _Question] = {}

    def knows(self, calling_ae: str) -> bool:
        """Whether there is somebody to ask about the series of this sender."""
        return _asks(self._settings.source_of(calling_ae))

    def count(self, series: Receiving, paused: bool) -> int | None:
        """What the source said since the last image came; None if it has not, or not yet.

        `paused`: nothing comes at the moment, so it is asked if there is no fresh answer.
        """
        question = self._questions.get(series.series_id)
        if question is not None and question.answer is not None and question.answer.done():
            self._take(series, question, question.answer)
        if paused and (question is None or self._due(series, question)):
            question = self._ask(series, question)
        if question is None or question.asked_for != series.last_at:
            return None
        return question.count

    def failed(self, series: Receiving) -> bool:
        """True if the source was asked since the last image came and gave no answer."""
        question = self._questions.get(series.series_id)
        return question is not None and question.failed and question.asked_for == series.last_at

    def stop(self) -> None:
        """Ask nothing more."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def keep_only(self, series_ids: set[int]) -> None:
        """Forget what is no longer coming in."""
        self._questions = {key: question for key, question in self._questions.items() if key in series_ids}

    def _due(self, series: Receiving, question: _Question) -> bool:
        if question.answer is not None:
            return False
        return question.asked_for != series.last_at or self._clock() >= question.again

    def _ask(self, series: Receiving, before: _Question | None) -> _Question | None:
        source = self._settings.source_of(series.source_ae)
        under_way = sum(question.answer is not None for question in self._questions.values())
        if source is None or not _asks(source) or under_way >= _MOST_WAITING:
            return before
        wait_s = _FIRST_WAIT_S
        if before is not None and before.asked_for == series.last_at:
            wait_s = min(_LAST_WAIT_S, 2 * before.wait_s)
        answer = self._pool.submit(ask, self._settings, source, series.study_instance_uid, series.series_instance_uid)
        question = _Question(series.last_at, answer, wait_s, 0.0, before.count if before else None)
        self._questions[series.series_id] = question
        return question

    def _take(self, series: Receiving, question: _Question, answer: Future[int]) -> None:
        question.answer, question.again = None, self._clock() + question.wait_s
        try:
            question.count, question.failed = answer.result(), False
        except NoCountError as error:
            question.count, question.failed = None, True
            told = {"series": series.series_id, "source_ae": series.source_ae, "detail": str(error)}
            _log.warning("count_unknown", reason=Reason.PEER_UNREACHABLE, **told)
        except Exception:  # an error in one question must not stop the only coordinator
            question.count, question.failed = None, True
            _log.exception("count_failed", series=series.series_id)


def _asks(source: Source | None) -> bool:
    return source is not None and bool(source.dicomweb_url or (source.find and source.host))


def ask(settings: Settings, source: Source, study_instance_uid: str, series_instance_uid: str) -> int:
    """Number of Series Related Instances. Raises NoCountError; its text is constant."""
    if source.dicomweb_url:
        return _by_qido(source, settings.delivery.timeout_s, study_instance_uid, series_instance_uid)
    return _by_find(settings, source, study_instance_uid, series_instance_uid)


def _by_find(settings: Settings, source: Source, study_instance_uid: str, series_instance_uid: str) -> int:
    ae = AE(ae_title=settings.dicom.ae_title)
    ae.acse_timeout = ae.dimse_timeout = ae.network_timeout = ae.connection_timeout = settings.delivery.timeout_s
    context = build_context(StudyRootQueryRetrieveInformationModelFind)
    try:
        association = associate(ae, source.host, source.port, source.ae_title, [context], tls=source.tls)
    except TlsError as error:
        raise NoCountError(str(error)) from error
    if not association.is_established:
        raise NoCountError("the source does not take the association")
    wanted = Dataset()
    wanted.QueryRetrieveLevel = "SERIES"
    wanted.StudyInstanceUID, wanted.SeriesInstanceUID = study_instance_uid, series_instance_uid
    wanted.NumberOfSeriesRelatedInstances = None
    counts = []
    try:
        for status, found in association.send_c_find(wanted, StudyRootQueryRetrieveInformationModelFind):
            if "Status" not in status:
                raise NoCountError("the source did not answer")
            if status.Status in _PENDING and found is not None:
                if found.get("SeriesInstanceUID") == series_instance_uid:
                    counts.append(found.get("NumberOfSeriesRelatedInstances"))
            elif status.Status != 0x0000:
                raise NoCountError("the source refused the query")
    except (RuntimeError, ValueError) as error:
        raise NoCountError("the source does not take the query") from error
    finally:
        association.release()
    return _number(counts)


def _by_qido(source: Source, timeout_s: float, study_instance_uid: str, series_instance_uid: str) -> int:
    query = {"SeriesInstanceUID": series_instance_uid, "includefield": _COUNT_TAG}
    try:
        with HttpPeer(source.dicomweb_url, source, timeout_s) as peer:
            found = peer.json(f"studies/{study_instance_uid}/series", query, "application/dicom+json") or []
        counts = [one[_COUNT_TAG]["Value"][0] for one in found]
    except (PeerError, KeyError, IndexError, TypeError) as error:
        raise NoCountError("the source did not answer the QIDO query") from error
    return _number(counts)


def _number(counts: list[object]) -> int:
    """The one count that was found."""
    if len(counts) != 1:
        raise NoCountError("the source does not know the series")
    try:
        return int(str(counts[0]))
    except ValueError as error:
        raise NoCountError("the source does not say how many images the series has") from error
