"""How far the reading of a workitem's input series is: progress, and the end with outputs or with a reason."""

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import select
from sqlalchemy.orm import Session

from config import Priority, Reason, Settings
from config.settings import Destination, WebDestination
from node import leases
from node.records import Delivery, Job, Result, Series
from node.states import State
from node.worklist.report import Ending, OutputObject

_NOT_FOR_READING = (
    Reason.NOT_CT,
    Reason.LOCALIZER,
    Reason.NO_RULE,
    Reason.SKIPPED_BY_RULE,
    Reason.NOT_BEST_SERIES,
)
"""Why a series beside others is not read, without harm to the work."""
_PERCENT = {
    State.RECEIVING: 5, State.COMPLETE: 10, State.VETTED: 15, State.QUEUED: 20, State.RUNNING: 50, State.ENCODED: 80,
    State.SENT: 100, State.COMMITTED: 100, State.REJECTED: 100, State.FAILED: 100, State.QUARANTINED: 100,
    State.SUPERSEDED: 100,
}  # fmt: skip
_TEXTS = (
    (5, "waiting for images"), (20, "images are there"), (50, "waiting for the analysis"),
    (80, "analysis under way"), (100, "results are sent"),
)  # fmt: skip
"""Below a percentage: what the work is at."""


@dataclass(frozen=True)
class Standing:
    """How far the work on a workitem is."""

    percent: int
    text: str
    missing: tuple[tuple[str, str], ...]
    """Study and series of inputs of which nothing came yet."""
    ending: Ending | None
    """None: it is under way."""


@dataclass(frozen=True)
class _Read:
    study: str
    series: str
    row: Series | None
    job: Job | None

    @property
    def state(self) -> State | None:
        if self.job is not None:
            return State(self.job.state)
        return None if self.row is None else State(self.row.state)


def standing(session: Session, settings: Settings, inputs: Sequence[Sequence[str]], overdue: bool) -> Standing:
    """`overdue`: images that are not there are not waited for any longer."""
    if not inputs:
        return Standing(0, "", (), Ending(Reason.WORKITEM_UNUSABLE))
    reads = [_read(session, study, series) for study, series in inputs]
    missing = tuple((one.study, one.series) for one in reads if one.state is None)
    percents = [0 if one.state is None else _PERCENT[one.state] for one in reads]
    percent = sum(percents) // len(percents)
    text = next((text for limit, text in _TEXTS if min(percents) < limit), "finished")
    ended = all(value == 100 for value in percents)
    if not ended and not (missing and overdue):
        return Standing(percent, text, missing, None)
    return Standing(percent, text, missing, _ending(session, settings, reads))


def hurry(session: Session, inputs: Sequence[Sequence[str]], priority: Priority) -> None:
    """Waiting jobs of the inputs are at least as urgent as the workitem."""
    for job in _jobs(session, inputs, State.QUEUED):
        job.priority = min(job.priority, int(priority))


def cancel_jobs(session: Session, inputs: Sequence[Sequence[str]], shared: set[str]) -> None:
    """Jobs that wait or run end as CANCELLED; not those of series that another workitem needs (`shared`)."""
    for job in _jobs(session, [one for one in inputs if one[1] not in shared], State.QUEUED, State.RUNNING):
        leases.release(job)
        job.move(State.FAILED, Reason.CANCELLED, "the worklist asked for it")


def _jobs(session: Session, inputs: Sequence[Sequence[str]], *states: State) -> Sequence[Job]:
    query = select(Job).join(Series).where(Series.series_instance_uid.in_([one[1] for one in inputs]))
    return session.scalars(query.where(Job.state.in_(states)).with_for_update(of=Job)).all()


def _read(session: Session, study: str, series: str) -> _Read:
    """The newest generation, and the newest reading of it; one that is superseded only if there is no other (then a
    better series of the study took its place)."""
    rows = select(Series).where(
        Series.series_instance_uid == series, Series.study_instance_uid == study, Series.state != State.SUPERSEDED
    )
    row = session.scalars(rows.order_by(Series.generation.desc()).limit(1)).one_or_none()
    if row is None:
        return _Read(study, series, None, None)
    jobs = select(Job).where(Job.series_id == row.id).order_by(Job.state == State.SUPERSEDED, Job.id.desc())
    return _Read(study, series, row, session.scalars(jobs.limit(1)).one_or_none())


def _ending(session: Session, settings: Settings, reads: list[_Read]) -> Ending:
    outputs: list[OutputObject] = []
    problems: list[tuple[Reason, str]] = []
    beside: list[tuple[Reason, str]] = []
    for one in reads:
        if one.row is None:
            problems.append((Reason.INPUTS_MISSING, ""))
        elif one.job is not None and one.state in (State.SENT, State.COMMITTED):
            outputs += _outputs(session, settings, one)
        elif one.job is not None and one.state in (State.FAILED, State.QUARANTINED):
            reason = Reason(one.job.reason or Reason.INTERNAL)
            (beside if reason in _NOT_FOR_READING else problems).append((reason, one.job.detail))
        elif one.state is State.SUPERSEDED and one.job is not None:
            beside.append((Reason(one.job.reason or Reason.NOT_BEST_SERIES), one.job.detail))
        elif one.state is State.REJECTED:
            reason = Reason(one.row.reason or Reason.INTERNAL)
            (beside if reason in _NOT_FOR_READING else problems).append((reason, one.row.detail))
    if not problems and len(beside) == len(reads):
        problems = beside
    if not problems:
        return Ending(outputs=tuple(outputs))
    return Ending(*problems[0], outputs=tuple(outputs))


def _outputs(session: Session, settings: Settings, read: _Read) -> list[OutputObject]:
    """The results of a job, with where they can be had: the first destination that has taken them."""
    assert read.job is not None
    found: list[OutputObject] = []
    for result in session.scalars(select(Result).where(Result.job_id == read.job.id).order_by(Result.id)):
        rows = session.execute(
            select(Delivery.destination, Delivery.sent_at).where(Delivery.result_id == result.id).order_by(Delivery.id)
        ).all()
        taken = [row.destination for row in rows if row.sent_at is not None]
        if rows and not taken:
            continue  # a companion that was refused is nowhere
        place = next((settings.destinations[name] for name in taken if name in settings.destinations), None)
        found.append(
            OutputObject(
                study=read.study,
                series=result.series_instance_uid,
                sop_class=result.sop_class_uid,
                sop_instance=result.sop_instance_uid,
                retrieve_ae=place.ae_title if isinstance(place, Destination) else "",
                retrieve_url=place.base_url if isinstance(place, WebDestination) else "",
            )
        )
    return found
