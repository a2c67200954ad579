"""What happened to a series, in the order in which it happened, as far as the database remembers."""

from collections.abc import Iterator
from datetime import UTC, datetime

from config import Reason
from node.console.views import Event, Mood
from node.records import Delivery, Job, Series
from node.series_status import SeriesStatus, notes
from node.states import State

_NEVER = datetime.max.replace(tzinfo=UTC)
"""What still waits stands last."""
_MOODS = {
    State.REJECTED: Mood.PROBLEM,
    State.FAILED: Mood.PROBLEM,
    State.QUARANTINED: Mood.PROBLEM,
    State.QUEUED: Mood.WAITING,
    State.RUNNING: Mood.WORKING,
    State.ENCODED: Mood.WORKING,
}


def timeline(status: SeriesStatus) -> list[Event]:
    """First and last image, completion and vetting, each job with its attempts, each delivery."""
    events = [*_arrival(status), *_vetting(status)]
    for job in sorted(status.series.jobs, key=lambda job: job.id):
        events += _work(job)
        events += [_delivery(d, result.kind) for result in job.results for d in result.deliveries]
    return sorted(events, key=lambda event: event.at or _NEVER)


def _arrival(status: SeriesStatus) -> Iterator[Event]:
    series = status.series
    yield Event(at=series.first_at, what="First image", detail=f"from {series.source_ae}", mood=Mood.DONE)
    detail = f"{status.images} images in the spool's index"
    yield Event(at=series.last_at, what="Last image", detail=detail, mood=Mood.DONE)


def _vetting(status: SeriesStatus) -> Iterator[Event]:
    series = status.series
    state = State(series.state)
    if state is State.RECEIVING:
        return
    what = {
        State.COMPLETE: "Complete",
        State.VETTED: "Complete, fit to be read",
        State.REJECTED: f"Rejected: {series.reason}",
    }.get(state, str(state).capitalize())
    detail = "; ".join(_text(series) + notes(series, status.conflicts))
    yield Event(at=series.changed_at, what=what, detail=detail, mood=_MOODS.get(state, Mood.DONE))


def _text(series: Series) -> list[str]:
    if series.reason is None:
        return []
    return [series.detail or Reason(series.reason).meaning]


def _work(job: Job) -> Iterator[Event]:
    yield Event(at=job.created_at, what=f"Job {job.id} queued", detail="", mood=Mood.DONE)
    if job.forced_by:
        what = f"Read against the rules, as {job.forced_by} wanted"
        yield Event(at=job.forced_at, what=what, detail=job.forced_why, mood=Mood.DONE)
    state = State(job.state)
    if state is State.QUEUED and job.attempts == 0:
        return
    attempts = f"attempt {job.attempts}" if job.attempts else ""
    why = f"{job.reason}: {job.detail or Reason(job.reason).meaning}" if job.reason else job.detail
    detail = "; ".join(part for part in (attempts, why) if part)
    words = {State.QUEUED: "waits for another attempt", State.ENCODED: "read; results written"}
    what = f"Job {job.id} {words.get(state, str(state).lower())}"
    yield Event(at=job.changed_at, what=what, detail=detail, mood=_MOODS.get(state, Mood.DONE))


def _delivery(row: Delivery, kind: str) -> Event:
    told = f"{row.reason}: {row.detail or Reason(row.reason).meaning}" if row.reason else row.detail
    if row.sent_at is not None:
        return Event(at=row.sent_at, what=f"{kind} arrived at {row.destination}", detail=told, mood=Mood.DONE)
    if row.refused:
        return Event(at=None, what=f"{kind} refused by {row.destination}", detail=told, mood=Mood.PROBLEM)
    mood = Mood.WAITING if row.reason else Mood.WORKING
    return Event(at=None, what=f"{kind} waits for {row.destination}", detail=told, mood=mood)
