"""Which release is in force, which one is in shadow and how far it is: for `status`, console and metrics."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import case, func, select
from sqlalchemy.orm import Session

from config import Settings
from node.records import Job
from node.release import release_digest
from node.releases import shadow_queue
from node.releases.registry import current, in_shadow
from node.releases.rows import ModelRelease, ReleaseEvent, ReleaseState
from node.states import State

_RANK = {ReleaseState.CURRENT: 0, ReleaseState.SHADOW: 1, ReleaseState.CANDIDATE: 2, ReleaseState.RETIRED: 3}


@dataclass(frozen=True)
class ReleaseRow:
    """One release that the node knows."""

    digest: str
    name: str
    test_only: bool
    path: str
    state: str
    since: datetime
    at_work: int
    """Jobs that wait for it or are read with it."""


@dataclass(frozen=True)
class EventRow:
    """One thing that was done with a release."""

    at: datetime
    digest: str
    action: str
    done_by: str
    why: str


@dataclass(frozen=True)
class Standing:
    """The releases of the node at a glance. No patient data."""

    releases: tuple[ReleaseRow, ...]
    """The current one first, then the one in shadow, candidates, retired ones."""
    shadow: dict[str, int]
    """Readings of the release in shadow by state; empty: none is in shadow."""
    other_configured: str
    """Digest of the release that the configuration names and that is not in force; empty: it is, or cannot be read."""

    @property
    def current(self) -> ReleaseRow | None:
        return next((row for row in self.releases if row.state == ReleaseState.CURRENT), None)

    @property
    def in_shadow(self) -> ReleaseRow | None:
        return next((row for row in self.releases if row.state == ReleaseState.SHADOW), None)

    def lines(self) -> list[str]:
        """For a terminal: what is in force, what is in shadow, and what is odd."""
        now = self.current
        if now is None:
            return []
        mark = ", TEST MODEL - NOT FOR CLINICAL USE" if now.test_only else ""
        told = [f"Release in force: {now.name} ({now.digest[:12]}) since {now.since:%Y-%m-%d %H:%M:%S} UTC{mark}"]
        if ending := sum(row.at_work for row in self.releases if row.digest != now.digest):
            told.append(f"Jobs that end with another release, as their study was begun: {ending}")
        if (shadow := self.in_shadow) is not None:
            counts = ", ".join(f"{count} {state}" for state, count in self.shadow.items() if count)
            told.append(f"In shadow: {shadow.name} ({shadow.digest[:12]}): {counts or 'nothing read yet'}")
        if self.other_configured:
            told.append(
                f"The configuration names another release ({self.other_configured[:12]}), which a promotion has "
                "overruled → fvlm-node model promote puts it in force"
            )
        return told


def standing(session: Session, settings: Settings) -> Standing:
    """Raises sqlalchemy.exc.SQLAlchemyError."""
    jobs = select(Job.release_digest, func.count()).where(Job.state.in_((State.QUEUED, State.RUNNING)))
    at_work = dict(session.execute(jobs.group_by(Job.release_digest)).tuples().all())
    order = case(*((ModelRelease.state == state, rank) for state, rank in _RANK.items()))
    rows = session.scalars(select(ModelRelease).order_by(order, ModelRelease.changed_at.desc()))
    shadow = in_shadow(session)
    counts = shadow_queue.progress(session, shadow.digest) if shadow is not None else {}
    return Standing(
        tuple(
            ReleaseRow(
                row.digest,
                row.name,
                row.test_only,
                row.path,
                row.state,
                row.changed_at,
                at_work.get(row.digest, 0),
            )
            for row in rows
        ),
        {state.value: count for state, count in counts.items()},
        _other_configured(current(session), settings.model.release),
    )


def history(session: Session, limit: int) -> Sequence[EventRow]:
    """What was done with releases, the last first."""
    rows = session.scalars(select(ReleaseEvent).order_by(ReleaseEvent.id.desc()).limit(limit))
    return [EventRow(row.at, row.digest, row.action, row.done_by, row.why) for row in rows]


def _other_configured(row: ModelRelease | None, configured: str) -> str:
    if row is None or row.configured:
        return ""
    try:
        digest = release_digest(configured)
    except OSError:
        return ""
    return "" if digest == row.digest else digest
