"""What follows a failed attempt of a job: another one, another one in the smaller configuration, or the end."""

from config import Reason
from node.records import Job
from node.states import State

TRANSIENT = frozenset({Reason.MODEL_UNAVAILABLE, Reason.DEVICE_ERROR, Reason.TIME_LIMIT, Reason.INTERNAL})
"""Reasons that another attempt may mend; but for OUT_OF_MEMORY, every other ends the job at once."""


def attempt_failed(job: Job, max_attempts: int, reason: Reason, detail: str) -> None:
    """RUNNING -> QUEUED, FAILED or QUARANTINED.

    Out of memory gets one attempt in the smaller configuration, whatever `max_attempts` says. After an error of the GPU
    every further attempt is in the smaller configuration, which runs on the CPU.
    """
    if reason is Reason.OUT_OF_MEMORY and not job.frugal:
        job.frugal = True
        job.move(State.QUEUED, reason, detail[:1000])
    elif reason in TRANSIENT:
        job.frugal |= reason is Reason.DEVICE_ERROR
        _again(job, max_attempts, reason, detail)
    else:
        job.move(State.FAILED, reason, detail[:1000])


def worker_lost(job: Job, max_attempts: int) -> None:
    """RUNNING -> QUEUED or QUARANTINED: the worker died without a word.

    Mostly that is the kernel's out-of-memory killer, so the next attempt is in the smaller configuration.
    """
    job.frugal = True
    _again(job, max_attempts, None, "the worker was killed (out of the machine's memory?) or lost its connection")


def _again(job: Job, max_attempts: int, reason: Reason | None, detail: str) -> None:
    """QUEUED, or QUARANTINED with the reason of the last attempt if that was one too many."""
    if job.attempts < max_attempts:
        job.move(State.QUEUED, reason, detail[:1000])
    else:
        text = f"after {job.attempts} attempts: {detail}"
        job.move(State.QUARANTINED, reason or Reason.ATTEMPTS_EXHAUSTED, text[:1000])
