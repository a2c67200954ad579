"""The patient's earlier reading, with which a new one is compared.

Another study of the same patient, earlier, read and sent by the same release: from the node's own records, or as an
archive gave it back before the job was taken (`node.prior_search`). Two studies are the same patient's if Patient ID,
its issuer, birth date and sex are the same; the records keep a keyed hash of them.
"""

from datetime import datetime, timedelta

from sqlalchemy import select
from sqlalchemy.orm import Session

from config import Settings
from dicom_sr.prior import Prior, Said
from fvlm.reading import Verdict
from node.archived_prior import ArchivedPrior
from node.records import Job, ReportedFinding, Result, Series, now
from node.states import State
from node.whose import Whose, day_of


def held_until(settings: Settings) -> datetime | None:
    """Until when a new job waits for what the archive says of earlier readings; None: no archive is asked."""
    asked = settings.priors
    return None if asked.source is None else now() + timedelta(seconds=asked.wait_s)


def breaker_of(source: str) -> str:
    """Name of the circuit breaker of an archive that is asked for earlier readings (`node.breaker`)."""
    return f"priors from {source}"[:64]


def prior_of(session: Session, job: Job, study: Whose | None) -> Prior | None:
    """The reading with which the one of this job is compared, chosen at its first attempt and kept.

    So that a repeat writes the same report, whatever else has been read since.
    """
    if job.prior is None:
        job.prior = []
        if study is not None:
            job.patient, job.studied_at = study.patient, study.studied_at
            own = last_before(session, job, study)
            archived = _archived(job)
            if own is not None and (archived is None or own.studied_at >= archived.studied_at):
                job.prior = [own.id]
    if not job.prior:
        archived = _archived(job)
        return None if archived is None else archived.prior()
    former = session.get_one(Job, job.prior[0])
    report = session.scalar(select(Result.sop_instance_uid).where(Result.job_id == former.id, Result.kind == "SR"))
    day = day_of(former.studied_at[:8])
    rows = session.scalars(select(ReportedFinding).where(ReportedFinding.job_id == former.id))
    findings = {row.finding: Said(row.probability, Verdict(row.verdict)) for row in rows}
    return Prior(day, report, findings) if day is not None and report is not None else None


def last_before(session: Session, job: Job, study: Whose) -> Job | None:
    """The job that read the patient's last study before this one; of several readings of it the last."""
    return session.scalar(
        select(Job)
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


def _archived(job: Job) -> ArchivedPrior | None:
    """What an archive gave back, if it is the same patient's and by the release that reads the job."""
    found = ArchivedPrior.of(job.archived_prior)
    if found is None or (found.release, found.patient) != (job.release_digest, job.patient):
        return None
    return found if found.studied_at < job.studied_at else None
