"""What a job says of each finding, kept with the job: readers answer to it long after the SR file may be gone."""

from sqlalchemy import delete
from sqlalchemy.orm import Session

from dicom_sr.identity import tracking_uid
from fvlm.reading import Reading
from node.records import Job, ReportedFinding


def store(session: Session, job: Job, reading: Reading) -> None:
    """Keep the findings of a job's reading; those of an earlier attempt are replaced."""
    session.execute(delete(ReportedFinding).where(ReportedFinding.job_id == job.id))
    for anatomy in reading.anatomies:
        for finding in anatomy.findings:
            session.add(
                ReportedFinding(
                    job_id=job.id,
                    finding=finding.key,
                    tracking_uid=tracking_uid(job.series.series_instance_uid, finding.key),
                    probability=finding.probability,
                    verdict=finding.verdict.value,
                )
            )
