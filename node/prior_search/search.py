"""The last report of ours in an archive on an older study of the same patient, by the same release."""

from itertools import islice
from pathlib import Path

import structlog
from pydicom import Dataset

from ct.part10 import Unfit
from node.archived_prior import ArchivedPrior
from node.prior_search.question import Archive, Question
from node.small_object import read_small
from node.whose import whose

_log = structlog.get_logger(__name__)

_MOST_STUDIES, _MOST_SERIES = 10, 10
"""Older studies of a patient, and report series of one, that are looked at."""


def last_report(archive: Archive, question: Question, data_dir: Path) -> ArchivedPrior | None:
    """That of the newest older study which has one; of several the one that is dated last. Raises RetrieveError."""
    older = sorted(
        (study for study in archive.studies(question) if study.may_answer(question)),
        key=lambda study: (study.studied_at, study.uid),
        reverse=True,
    )
    for study in older[:_MOST_STUDIES]:
        found: list[tuple[str, ArchivedPrior]] = []
        for series in islice(archive.report_series(study.uid), _MOST_SERIES):
            for stored in archive.reports(study.uid, series):
                report = recognised(stored, question, data_dir)
                if report is not None:
                    found.append(report)
        if found:
            return max(found, key=lambda one: (one[0], one[1].report))[1]
    return None


def recognised(stored: bytes, question: Question, data_dir: Path) -> tuple[str, ArchivedPrior] | None:
    """When a report is dated, and what it says; None if it is not one of ours, not by the release or not of the
    patient, or not older. It is believed for what stands in it, not for where it was found.
    """
    from dicom_sr.errors import ReadError
    from dicom_sr.identity import MANUFACTURER, PRODUCT
    from dicom_sr.parse import read

    try:
        dataset = read_small(stored)
        if (dataset.get("Manufacturer"), dataset.get("ManufacturerModelName")) != (MANUFACTURER, PRODUCT):
            return None
        report = read(dataset)
    except (Unfit, ReadError) as error:
        _log.info("report_not_ours", error=type(error).__name__)
        return None
    study = whose(dataset, data_dir)
    if (
        study is None
        or study.patient != question.whose.patient
        or study.studied_at >= question.whose.studied_at
        or report.study_instance_uid == question.study
        or report.reading.model.digest != question.release
    ):
        return None
    findings = {
        finding.key: [finding.probability, str(finding.verdict)]
        for anatomy in report.reading.anatomies
        for finding in anatomy.findings
    }
    said = ArchivedPrior(question.release, study.patient, study.studied_at, report.sop_instance_uid, findings)
    return _dated(dataset), said


def _dated(dataset: Dataset) -> str:
    """Content Date and Time."""
    return f"{dataset.ContentDate}{dataset.ContentTime}"
