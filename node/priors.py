"""The patient's earlier reading, with which a new one is compared.

Only from the node's own records: another study of the same patient, earlier, read and sent by the same release. Two
studies are the same patient's if Patient ID, its issuer, birth date and sex are the same; the records keep a keyed hash
of them.
"""

from sqlalchemy import select
from sqlalchemy.orm import Session

from dicom_sr.prior import Prior, Said
from fvlm.reading import Verdict
from node.records import Job, ReportedFinding, Result, Series
from node.states import State
from node.whose import Whose, day_of


def prior_of(session: Session, job: Job, study: Whose | None) -> Prior | None:
    """The reading with which the one of this job is compared, chosen at its first attempt and kept.

    So that a repeat writes the same report, whatever else has been read since.
    """
    if job.prior is None:
        found = None
        if study is not None:
            job.patient, job.studied_at = study.patient, study.studied_at
            found = _last_before(session, job, study)
        job.prior = [] if found is None else [found]
    if not job.prior:
        return None
    former = session.get_one(Job, job.prior[0])
    report = session.scalar(select(Result.sop_instance_uid).where(Result.job_id == former.id, Result.kind == "SR"))
    day = day_of(former.studied_at[:8])
    rows = session.scalars(select(ReportedFinding).where(ReportedFinding.job_id == former.id))
    findings = {row.finding: Said(row.probability, Verdict(row.verdict)) for row in rows}
    return Prior(day, report, findings) if day is not None and report is not None else None


def _last_before(session: Session, job: Job, study: Whose) -> int | None:
    """The job that read the patient's last study before this one; of several readings of it the last."""
    return session.scalar(
        select(Job.id)
        .join(Series)
        .where(
            Job.patient == study.patient,
            Job.studied_at < study.studied_at,
            Job.release_digest == job.release_digest,
            Job.state.in_((State.SENT, State.COMMITTED)),
            Series.study_instance_uid != job.series.study_instance_uid,
        )
        .order_by(Job.studied_at.desc(), Job.id.desc())
        .limit(1)
    )
