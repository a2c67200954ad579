"""Which release reads a job: the one place that says it. Each function works in the caller's transaction.

- A study is read with one release: the one in force when the first of its series was first taken by a worker. Until
  then its jobs go with a promotion; from then on they stay, those of its series that come later too (`STUDY_STAYS`).
- A job for which a routing rule names a release (`Job.release`) stands apart: it is read with that one, promoted or
  not, and neither a promotion nor a retry or rerun gives it another. If that one is gone, the job fails (RELEASE_GONE).
- A rerun of any other job is read with the release in force.
"""

from dataclasses import dataclass
from datetime import timedelta

import structlog
from sqlalchemy import exists, func, select, true, update
from sqlalchemy.orm import Session, aliased

from config import Reason
from node import leases
from node.analysis import PipelineError
from node.records import Job, Result, Series, now
from node.releases.rows import ModelRelease
from node.states import State

_log = structlog.get_logger(__name__)

STUDY_STAYS = timedelta(hours=24)
"""For so long after the newest job of a study further series of it are read with its release."""


@dataclass(frozen=True)
class Switched:
    """What became of the jobs under way when another release was put in force."""

    moved: int
    """Queued ones of studies that nobody had begun: the release in force reads them."""
    stay: int
    """Of studies that were begun: they end with the release they began with."""


def for_series(session: Session, series: Series, in_force: str, named: str = "") -> str:
    """Digest of the release that reads a new job of a series. `named`: of the release that its rule names."""
    return named or digest_for(session, series.study_instance_uid, in_force)


def for_rerun(job: Job, in_force: str | None) -> str:
    """Digest of the release that reads a finished job again. `in_force` None: no release was ever in force."""
    return job.release_digest if job.release or in_force is None else in_force


def digest_for(session: Session, study_instance_uid: str, in_force: str, but: int | None = None) -> str:
    """Which release reads the next series of a study: the study's own while it is young, else the one in force.

    `but`: the id of a job that does not count.
    """
    own = (
        select(Job.release_digest)
        .join(Series)
        .join(ModelRelease, ModelRelease.digest == Job.release_digest)
        .where(Series.study_instance_uid == study_instance_uid, Job.created_at > now() - STUDY_STAYS, Job.release == "")
        .where(true() if but is None else Job.id != but)
        .order_by(Job.id.desc())
        .limit(1)
    )
    return session.scalar(own) or in_force


def bind_anew(session: Session, job: Job, in_force: str) -> None:
    """A job that has no results is read as a new series of its study would be, unless that reading exists, or a routing
    rule has named its release.
    """
    if job.release:
        return
    digest = digest_for(session, job.series.study_instance_uid, in_force, job.id)
    if digest != job.release_digest and reading_of(session, job, digest) is None:
        job.release_digest, job.prior = digest, None


def reading_of(session: Session, job: Job, digest: str) -> int | None:
    """The other job that reads, or has read, the same series with that release."""
    query = select(Job.id).where(Job.series_id == job.series_id, Job.release_digest == digest, Job.id != job.id)
    return session.scalar(query)


def others_of_study(session: Session, job_id: int) -> list[int]:
    """Jobs of the other series of a study that another release has read last."""
    job = session.get_one(Job, job_id)
    query = select(Job.id).join(Series).where(Series.study_instance_uid == job.series.study_instance_uid)
    other = query.where(Job.release_digest != job.release_digest, Job.state != State.SUPERSEDED)
    return list(session.scalars(other.where(Series.series_instance_uid != job.series.series_instance_uid)))


def has_results(session: Session, study_instance_uid: str, digest: str) -> bool:
    """Whether a release has results in a study that is not superseded."""
    of_study = select(Result.id).join(Job).join(Series).where(Series.study_instance_uid == study_instance_uid)
    found = of_study.where(Job.release_digest == digest, Job.state != State.SUPERSEDED)
    return session.scalar(found.limit(1)) is not None


def adopt(session: Session, job: Job, digest: str) -> bool:
    """A job that is at work, whose own release is gone, is read with the one in force, which is `digest`; False if that
    reading exists (the job is superseded).

    Raises PipelineError (RELEASE_GONE) if the gone one has results in the same study already.
    """
    if job.release_digest == digest:
        return True
    if reading_of(session, job, digest) is not None:
        leases.release(job)
        job.move(State.SUPERSEDED, detail="the release that is loaded has read this series already")
        return False
    if has_results(session, job.series.study_instance_uid, job.release_digest):
        raise PipelineError(Reason.RELEASE_GONE, f"digest {job.release_digest[:12]}: it has read other series")
    _log.warning("release_gone", job=job.id, digest=job.release_digest, instead=digest)
    job.release_digest, job.prior = digest, None
    return True


def take_along(session: Session, digest: str) -> Switched:
    """Give the queued jobs of studies that nobody has begun to the release that is now in force."""
    other, begun = aliased(Job), select(Series.study_instance_uid).join(Job)
    begun = begun.where(Job.first_taken_at.is_not(None), Job.created_at > now() - STUDY_STAYS)
    has_one = exists().where(other.series_id == Job.series_id, other.release_digest == digest)
    waiting = (
        select(Job.id)
        .join(Series)
        .where(Job.state == State.QUEUED, Job.first_taken_at.is_(None), Job.release_digest != digest, Job.release == "")
        .where(Series.study_instance_uid.not_in(begun), ~has_one)
    )
    ids = list(session.scalars(waiting))
    if ids:
        session.execute(update(Job), [{"id": job_id, "release_digest": digest} for job_id in ids])
    at_work = select(func.count()).select_from(Job).where(Job.state.in_((State.QUEUED, State.RUNNING)))
    stay = session.scalar(at_work.where(Job.release_digest != digest)) or 0
    return Switched(len(ids), stay)
