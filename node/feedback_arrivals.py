"""Readers' answers that come in as images do: SR and Key Object Selections in the spool that refer to our results."""

from collections.abc import Sequence

import structlog
from pydicom import Dataset

from config import Reason, Settings
from ct.part10 import Unfit
from ct.volume import SourceSlice
from node.database import Records
from node.pseudonyms import Pseudonyms
from node.small_object import LARGEST, read_small

_log = structlog.get_logger(__name__)

MODALITIES = frozenset({"SR", "KO"})
"""Modality of series in which feedback comes."""


def take_series(
    records: Records, settings: Settings, series_id: int, slices: Sequence[SourceSlice]
) -> tuple[Reason, str] | None:
    """Take what the objects of a series say about results of this node.

    READER_FEEDBACK if any was taken, else why the last one that is about us was not; None if none is about us. What is
    taken is committed. Raises sqlalchemy.exc.DBAPIError.
    """
    # dicom_sr takes a second and a hundred MB: most coordinators never see such a series
    from dicom_sr.reports_in import ReportError
    from dicom_sr.verdicts import read_statement
    from node.feedback_taking import FeedbackError, FeedbackTaker

    taker = FeedbackTaker(Pseudonyms(settings.data_dir), settings.results_dir)
    rows, refused = 0, None
    for one in slices:
        dataset = _load(one)
        if dataset is None:
            continue
        try:
            statement = read_statement(dataset)
            with records.session() as session:
                taken = taker.take(session, statement)
        except ReportError as error:
            _log.warning("feedback_unreadable", series=series_id, reason=error.reason, detail=error.detail)
            continue
        except FeedbackError as error:
            if error.reason is not Reason.FEEDBACK_UNKNOWN_RESULT:
                _log.warning("feedback_refused", series=series_id, reason=error.reason, detail=error.detail)
                refused = (error.reason, error.detail)
            continue
        except OSError as error:  # one answer must not stop the coordinator
            _log.error("feedback_failed", series=series_id, error=type(error).__name__)
            refused = (Reason.INTERNAL, f"feedback could not be taken ({type(error).__name__}); import it again")
            continue
        rows += taken.new + taken.known
        _log.info("feedback_taken", series=series_id, count=taken.new, known=taken.known)
    return (Reason.READER_FEEDBACK, f"verdicts: {rows}") if rows else refused


def _load(one: SourceSlice) -> Dataset | None:
    """None for what is too large (inflated, too), gone or damaged: it is judged like any other series."""
    if one.length is None or one.length > LARGEST:
        return None
    try:
        with one.path.open("rb") as file:
            file.seek(one.offset)
            return read_small(file.read(one.length))
    except (OSError, Unfit) as error:
        _log.warning("feedback_unreadable", reason=Reason.REPORT_DAMAGED, error=type(error).__name__)
        return None
