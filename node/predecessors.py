"""Which report a new one takes the place of."""

from sqlalchemy import exists, select
from sqlalchemy.orm import Session

from dicom_sr.identity import Predecessor
from node.records import Delivery, Job, Result, Series


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
