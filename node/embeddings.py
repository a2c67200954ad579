"""The anatomy features of every series read: kept with the job, found again by release and anatomy.

A feature says what an anatomy looked like to one release, whatever is asked of it later. It takes 512 bytes with the
public model (256 x float16): 100,000 studies of 15 anatomies are less than 1 GB, of which a search reads one anatomy.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from sqlalchemy import delete, exists, select
from sqlalchemy.orm import Session

from fvlm.reading import Reading
from node.records import Embedding, Job, Series

_ON_DISK = np.dtype("<f2")


@dataclass(frozen=True)
class Stored:
    """One anatomy of N series as one release saw it, only the newest generation of each series."""

    series: tuple[tuple[str, str], ...]
    """Study and Series Instance UID of each row."""
    features: npt.NDArray[np.float32]
    """[N, E], unit length but for the rounding to float16."""


def store(session: Session, job: Job, reading: Reading) -> None:
    """Keep the features of a job's reading; those of an earlier attempt are replaced."""
    session.execute(delete(Embedding).where(Embedding.job_id == job.id))
    for anatomy in reading.anatomies:
        if anatomy.embedding is not None:
            feature = anatomy.embedding.astype(_ON_DISK).tobytes()
            row = Embedding(release_digest=job.release_digest, anatomy=anatomy.anatomy, job_id=job.id, feature=feature)
            session.add(row)


def load(session: Session, release_digest: str, anatomy: str, study: str | None = None) -> Stored:
    """What is kept of one anatomy, of all studies or of one."""
    query = (
        select(Series.study_instance_uid, Series.series_instance_uid, Series.generation, Embedding.feature)
        .select_from(Embedding)
        .join(Job, Job.id == Embedding.job_id)
        .join(Series, Series.id == Job.series_id)
        .where(Embedding.release_digest == release_digest, Embedding.anatomy == anatomy)
    )
    if study is not None:
        query = query.where(Series.study_instance_uid == study)
    newest: dict[str, tuple[int, str, bytes]] = {}
    for study_uid, series_uid, generation, feature in session.execute(query):
        if series_uid not in newest or newest[series_uid][0] < generation:
            newest[series_uid] = (generation, study_uid, feature)
    features = np.frombuffer(b"".join(row[2] for row in newest.values()), _ON_DISK).astype(np.float32)
    uids = tuple((study_uid, series_uid) for series_uid, (_, study_uid, _) in newest.items())
    return Stored(uids, features.reshape(len(uids), -1) if uids else features.reshape(0, 0))


def releases_of(session: Session, study: str) -> frozenset[str] | None:
    """Digests of the releases whose features of a study are kept; None if no series of the study was ever received."""
    if not session.scalar(select(exists().where(Series.study_instance_uid == study))):
        return None
    query = (
        select(Embedding.release_digest)
        .join(Job, Job.id == Embedding.job_id)
        .join(Series, Series.id == Job.series_id)
        .where(Series.study_instance_uid == study)
    )
    return frozenset(session.scalars(query.distinct()))
