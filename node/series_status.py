"""How one series stands: its newest job, its deliveries, and why it is where it is. For `status` and the console."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from sqlalchemy import Select, func, select
from sqlalchemy.orm import Session, selectinload

from config import Reason
from node.announced_rows import discontinued
from node.records import Breaker, Delivery, Instance, Job, Result, Series
from node.states import State


@dataclass(frozen=True)
class SeriesStatus:
    """One generation of a series with what belongs to it. Holds no patient data."""

    series: Series
    job: Job | None
    """The newest one."""
    deliveries: Sequence[Delivery]
    """Of the newest job."""
    images: int
    """Instances in the index, without those in conflict."""
    conflicts: int
    """Instances that came again with other bytes."""
    breaker: Breaker | None = None
    """Open, of a destination that still has to receive something."""
    discontinued: bool = False
    """The modality said that it discontinued the step that made the series (MPPS)."""

    @property
    def row(self) -> Job | Series:
        """Whoever holds the state: the job from QUEUED on."""
        return self.job or self.series

    @property
    def state(self) -> State:
        return State(self.row.state)

    @property
    def reason(self) -> Reason | None:
        """Why it is in its state, or why the first delivery that was tried in vain still waits."""
        found = self.row.reason or (self.waiting and self.waiting.reason) or (self.breaker and self.breaker.reason)
        return Reason(found) if found else None

    @property
    def waiting(self) -> Delivery | None:
        """The first delivery that was tried in vain, else the first that was stored with a warning."""
        told = [d for d in self.deliveries if d.reason is not None]
        return next((d for d in told if d.sent_at is None), next(iter(told), None))

    @property
    def sent(self) -> int:
        """Deliveries that were accepted."""
        return sum(delivery.sent_at is not None for delivery in self.deliveries)

    @property
    def asked(self) -> list[Delivery]:
        """Deliveries whose destination is asked for storage commitment."""
        return [delivery for delivery in self.deliveries if delivery.asked]

    @property
    def committed(self) -> int:
        """Deliveries that the destination promises to keep."""
        return sum(delivery.committed_at is not None for delivery in self.asked)

    def completeness(self) -> Iterator[str]:
        """What closed it, and how many images it has of those that the source told of; all generations together."""
        series = self.series
        if series.signal is not None:
            expected = "" if series.expected is None else f" of {series.expected}"
            yield f"closed by {series.signal}: {series.received}{expected}"
        elif series.expected is not None:
            yield f"waits for {series.expected} in all"
        if self.discontinued:
            yield "step discontinued by the modality (MPPS)"

    @property
    def waits_for_study(self) -> bool:
        """A rule wants only the best series of the study, and more of the study may come."""
        return self.series.state == State.VETTED and self.job is None and bool(self.series.rule)

    @property
    def name(self) -> str:
        """Series Instance UID, with the generation if there was one before."""
        generation = f" ({self.series.generation})" if self.series.generation > 1 else ""
        return self.series.series_instance_uid + generation

    def why(self) -> list[str]:
        """Why it is in this state, what vetting noted, and how many images are in conflict."""
        lines = [self.row.detail]
        if self.waits_for_study:
            lines.append(f"rule `{self.series.rule}` waits until the study is complete, then chooses its best series")
        if self.row.reason is not None and not self.row.detail:
            lines.append(Reason(self.row.reason).meaning)
        if self.waiting is not None and (self.row.reason is None or self.waiting.sent_at is not None):
            lines.append(self.waiting.detail)
        if self.breaker is not None:
            lines.append(self.breaker.detail)
        return [line for line in dict.fromkeys([*lines, *notes(self.series, self.conflicts)]) if line]


def notes(series: Series, conflicts: int) -> list[str]:
    """What a person should know of a series beside its state: what vetting left out, and images in conflict."""
    told = [] if series.reason is not None or not series.detail else [series.detail]
    if conflicts:
        told.append(
            f"{Reason.DUPLICATE_CONFLICT}: {conflicts} came again with other bytes under a SOP Instance UID already "
            "known (another transfer syntax, or changed); what came first is used"
        )
    return told


def newest_first() -> Select[Series]:
    """Series, the one with the newest image first."""
    return select(Series).order_by(Series.last_at.desc(), Series.id.desc())


def load(session: Session, query: Select[Series]) -> list[SeriesStatus]:
    """The status of each series of a query, in its order."""
    loaded = query.options(selectinload(Series.jobs).selectinload(Job.results).selectinload(Result.deliveries))
    found = session.scalars(loaded).all()
    counts = _image_counts(session, [series.id for series in found])
    shut = {row.destination: row for row in session.scalars(select(Breaker))}
    broken_off = discontinued(session, {series.series_instance_uid for series in found})
    return [
        _status(series, *counts.get(series.id, (0, 0)), shut, series.series_instance_uid in broken_off)
        for series in found
    ]


def _status(series: Series, images: int, conflicts: int, shut: Mapping[str, Breaker], broken_off: bool) -> SeriesStatus:
    job = max(series.jobs, key=lambda job: job.id, default=None)
    deliveries = [] if job is None else [d for result in job.results for d in result.deliveries]
    still = [d.destination for d in deliveries if d.sent_at is None and not d.refused]
    breaker = next((shut[name] for name in still if name in shut), None)
    return SeriesStatus(series, job, deliveries, images, conflicts, breaker, broken_off)


def _image_counts(session: Session, series_ids: Iterable[int]) -> dict[int, tuple[int, int]]:
    """Series id -> images, and images in conflict."""
    query = select(Instance.series_id, Instance.conflict, func.count()).where(Instance.series_id.in_(series_ids))
    counts: dict[int, tuple[int, int]] = {}
    for series_id, conflict, count in session.execute(query.group_by(Instance.series_id, Instance.conflict)):
        images, conflicts = counts.get(series_id, (0, 0))
        counts[series_id] = (images, conflicts + count) if conflict else (images + count, conflicts)
    return counts
