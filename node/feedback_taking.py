"""What an object of a reader says -> feedback rows. The same object again makes no second row; what is not about us, or
not of a person, is refused.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from pydicom import dcmread
from pydicom.errors import InvalidDicomError
from sqlalchemy import select
from sqlalchemy.orm import Session, joinedload

from config import ReaderVerdict, Reason
from dicom_sr.reports_in.parts import ObserverKind
from dicom_sr.verdicts import Statement
from node.feedback_rows import new_row, reported_findings
from node.pseudonyms import Pseudonyms
from node.records import Feedback, Job, ReportedFinding, Result


class FeedbackError(ValueError):
    """It is no feedback that can be used. Carries the stable reason code; the text holds no patient data."""

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail


@dataclass(frozen=True)
class Taken:
    """What became of one object."""

    new: int = 0
    """Rows that it made."""
    known: int = 0
    """Rows that it had made before."""
    unknown: int = 0
    """Findings of its own that are none of ours."""


@dataclass(frozen=True)
class FeedbackTaker:
    """Takes statements. `results_dir` holds our objects, as long as they are kept: there the patient is compared."""

    pseudonyms: Pseudonyms
    results_dir: Path

    def take(self, session: Session, statement: Statement) -> Taken:
        """Raises FeedbackError if it is nothing that can be used, and OSError."""
        if session.scalar(select(Result.id).where(Result.sop_instance_uid == statement.sop_instance_uid).limit(1)):
            raise FeedbackError(Reason.FEEDBACK_NOT_A_PERSON, "it is an object of this node itself")
        jobs = self._jobs(session, statement)
        if not jobs:
            raise FeedbackError(Reason.FEEDBACK_UNKNOWN_RESULT, "none of its tracking and SOP Instance UIDs is known")
        if statement.observer is ObserverKind.DEVICE or not (statement.observer or statement.key_object):
            raise FeedbackError(Reason.FEEDBACK_NOT_A_PERSON, "its observer is a device, or not told")
        for job in jobs:
            self._check_patient(job, statement)
        said = {job: self._said(session, job, statement) for job in jobs}
        if not any(said.values()):
            raise FeedbackError(Reason.FEEDBACK_NOTHING_SAID, "no finding is changed, removed or verified")
        ours = {finding.tracking_uid for job in jobs for finding in reported_findings(session, job.id).values()}
        taken = Taken(unknown=len(statement.findings.keys() - ours))
        for job, rows in said.items():
            taken = self._add(session, job, rows, statement, taken)
        return taken

    def _jobs(self, session: Session, statement: Statement) -> list[Job]:
        """The jobs it speaks of: of the version it replaces, else of the results it refers to, else the newest one that
        has one of its tracking UIDs. A Key Object Selection speaks of every result it refers to.
        """
        by_result = select(Job).join(Result).options(joinedload(Job.series)).distinct().order_by(Job.id.desc())
        for uids in (statement.predecessors, statement.references):
            if uids and (found := session.scalars(by_result.where(Result.sop_instance_uid.in_(uids))).all()):
                return list(found) if statement.key_object else [found[0]]
        if not statement.findings:
            return []
        tracked = select(Job).join(ReportedFinding, ReportedFinding.job_id == Job.id).options(joinedload(Job.series))
        newest = tracked.where(ReportedFinding.tracking_uid.in_(statement.findings)).order_by(Job.id.desc()).limit(1)
        return list(session.scalars(newest))

    def _check_patient(self, job: Job, statement: Statement) -> None:
        if job.series.study_instance_uid != statement.study_instance_uid:
            raise FeedbackError(Reason.FEEDBACK_OTHER_STUDY, "its study is not the one that was read")
        for result in job.results:
            try:
                header = dcmread(self.results_dir / result.path, specific_tags=["PatientID"], stop_before_pixels=True)
            except (OSError, InvalidDicomError):
                continue  # cleaned up; the study has been compared
            if str(header.get("PatientID") or "").strip() != statement.patient_id:
                raise FeedbackError(Reason.FEEDBACK_OTHER_STUDY, "its patient is not the one that was read")
            return

    def _said(
        self, session: Session, job: Job, statement: Statement
    ) -> list[tuple[ReportedFinding | None, ReaderVerdict]]:
        if statement.key_object:
            return [(None, statement.whole)] if statement.whole is not None else []
        replaces = {result.sop_instance_uid for result in job.results} & statement.predecessors
        said: list[tuple[ReportedFinding | None, ReaderVerdict]] = []
        for finding in reported_findings(session, job.id).values():
            if finding.tracking_uid not in statement.findings:
                if replaces:
                    said.append((finding, ReaderVerdict.REMOVED))
                continue
            presence = statement.findings[finding.tracking_uid]
            if presence is not None and (statement.verified or presence != finding.verdict):
                said.append((finding, ReaderVerdict(presence)))
        return said

    def _add(
        self,
        session: Session,
        job: Job,
        said: Iterable[tuple[ReportedFinding | None, ReaderVerdict]],
        statement: Statement,
        taken: Taken,
    ) -> Taken:
        uid = statement.sop_instance_uid
        known = set(
            session.scalars(select(Feedback.tracking_uid).where(Feedback.said_by == uid, Feedback.job_id == job.id))
        )
        reader = self.pseudonyms.of(statement.observer_name)
        fresh, repeated = 0, 0
        for finding, verdict in said:
            row = new_row(job, finding, verdict)
            if row.tracking_uid in known:
                repeated += 1
                continue
            row.source, row.said_by, row.reader = "key_object" if statement.key_object else "sr", uid, reader
            row.said_at = statement.at if statement.at is not None and statement.at.tzinfo else None
            session.add(row)
            fresh += 1
        session.flush()
        return Taken(taken.new + fresh, taken.known + repeated, taken.unknown)
