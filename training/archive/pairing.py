"""Which report belongs to a study, and which of several is the one."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from config import Reason
from dicom_sr.reports_in import Status
from training.archive.entries import StudyEntry
from training.archive.identifiers import Known
from training.archive.reports import FoundReport
from training.archive.scrub import fold


@dataclass(frozen=True)
class Unpaired:
    """No report, and why."""

    reason: Reason


def identifier(text: str) -> str:
    """Accession number or Patient ID in the form in which two of them are compared: no leading zeros, one case."""
    return text.strip().upper().lstrip("0")


def fits(report: FoundReport, study: StudyEntry, issued_within: timedelta) -> bool:
    """Whether a report is of a study: by Study Instance UID if it has one, else by accession number, patient and day.

    The day of the examination must be that of the study; where the report does not say it, it must have been issued
    on the day of the study or within `issued_within` after it.
    """
    if report.study_uid:
        return report.study_uid == study.study_uid
    if not identifier(report.accession) or not identifier(report.patient_id) or study.day is None:
        return False
    if identifier(report.accession) != identifier(study.accession):
        return False
    if identifier(report.patient_id) != identifier(study.patient_id):
        return False
    if report.examined is not None:
        return report.examined == study.day
    return report.issued is not None and study.day <= report.issued.date() <= study.day + issued_within


def choose(study: StudyEntry, reports: Iterable[FoundReport], unverified: bool = False) -> FoundReport | Unpaired:
    """The report of a study among all that fit it; it then knows everybody whom any of them names.

    A device's word counts for nothing, a preliminary one only with `unverified`; the newest correction takes the place
    of all others; of equal texts, or one that holds the other, the longer is taken. What is left must be one.
    """
    found = list(reports)
    if not found:
        return Unpaired(Reason.NO_REPORT)
    same = [one for one in found if _same_patient(one, study)]
    if not same:
        return Unpaired(Reason.REPORT_OTHER_PATIENT)
    human = [one for one in same if not one.by_machine]
    if not human:
        return Unpaired(Reason.REPORT_BY_MACHINE)
    final = [one for one in human if unverified or one.status is not Status.PRELIMINARY]
    if not final:
        return Unpaired(Reason.REPORT_PRELIMINARY)
    final = [one for one in final if one.status is not Status.PRELIMINARY] or final
    corrected = [one for one in final if one.status is Status.CORRECTED]
    if corrected:
        newest = max(map(_issued, corrected))
        final = [one for one in corrected if _issued(one) == newest]
    left = _longest(final)
    if len(left) > 1:
        return Unpaired(Reason.REPORT_AMBIGUOUS)
    everybody = Known()
    for one in same:
        everybody |= one.known
    return replace(left[0], known=everybody)


def _same_patient(report: FoundReport, study: StudyEntry) -> bool:
    """Unless both say who the patient is and differ."""
    ids = {identifier(one) for one in (report.patient_id, study.patient_id)} - {""}
    return len(ids) < 2


def _longest(reports: Sequence[FoundReport]) -> list[FoundReport]:
    kept: list[tuple[str, FoundReport]] = []
    for report in sorted(reports, key=lambda one: (-len(_plain(one)), -len(one.sections), one.key)):
        if not any(_plain(report) in text for text, _ in kept):
            kept.append((_plain(report), report))
    return [report for _, report in kept]


def _plain(report: FoundReport) -> str:
    return re.sub(r"[\W_]", "", fold("".join(text for _, text in report.sections)))


def _issued(report: FoundReport) -> datetime:
    return report.issued.replace(tzinfo=None) if report.issued else datetime.min
