"""Which report a new one takes the place of."""

from sqlalchemy import exists, select
from sqlalchemy.orm import Session

from dicom_sr.identity import Predecessor
from node.records import Delivery, Job, Result, Series


def predecessor_of(session: Session, job: Job) -> Predecessor | None:
    """The report that the one of this job takes the place of, chosen at its first attempt and kept.

    So that a repeat writes the same report, whatever has become of other deliveries since.
    """
    if job.predecessor is None:
        found = delivered_before(session, job)
        job.predecessor = (
            [] if found is None else [found.series_instance_uid, found.sop_instance_uid, found.sop_class_uid]
        )
    return Predecessor(*job.predecessor) if job.predecessor else None


def delivered_before(session: Session, job: Job) -> Predecessor | None:
    """The last SR that an earlier job on the same series delivered anywhere; None if there is none.

    That job read another generation of the series, or read it with another release. What was written but stored
    nowhere is not named: nobody could follow the reference.
    """
    stored = exists().where(Delivery.result_id == Result.id, Delivery.sent_at.is_not(None))
    report = session.scalar(
        select(Result)
        .join(Job)
        .join(Series)
        .where(
            Series.series_instance_uid == job.series.series_instance_uid,
            Job.id < job.id,
            Result.kind == "SR",
            Result.series_instance_uid != "",
            stored,
        )
        .order_by(Job.id.desc())
        .limit(1)
    )
    if report is None:
        return None
    return Predecessor(report.series_instance_uid, report.sop_instance_uid, report.sop_class_uid)
