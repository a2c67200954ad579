"""Every change in the life of a release. Each function works in the caller's transaction.

Which release reads what then is said in `node.releases.binding`. Who promotes locks the row of the current release; who
queues or takes a job shares that lock. So no job is queued or begun with a release that has just been replaced.
"""

from dataclasses import dataclass

from sqlalchemy import select
from sqlalchemy.orm import Session

from config import Reason
from node.records import Job, now
from node.release import Facts
from node.releases import binding
from node.releases.binding import Switched
from node.releases.rows import Action, ModelRelease, ReleaseEvent, ReleaseState
from node.states import State

CONFIGURATION = "configuration"
"""Who put a release in force that nobody promoted."""


class ReleaseRefusedError(ValueError):
    """A release may not be used. Carries the stable reason code."""

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail


@dataclass(frozen=True)
class Deed:
    """Who does something with a release, and why."""

    done_by: str
    why: str


def current(session: Session) -> ModelRelease | None:
    """The release in force; None before the node has run with one."""
    return session.scalar(select(ModelRelease).where(ModelRelease.state == ReleaseState.CURRENT))


def in_shadow(session: Session) -> ModelRelease | None:
    """The release that reads beside it, if there is one."""
    return session.scalar(select(ModelRelease).where(ModelRelease.state == ReleaseState.SHADOW))


def hold(session: Session, change: bool = False) -> str | None:
    """Digest of the release in force, which stays so until the transaction ends; None before there is one.

    `change`: nobody else may hold it, as it is to be changed.
    """
    query = select(ModelRelease.digest).where(ModelRelease.state == ReleaseState.CURRENT)
    locked = query.with_for_update(read=not change)
    # PostgreSQL finds none if the row that it waited for is not the current one any more: the next look finds the new.
    return session.scalar(locked) or session.scalar(locked)


def path_in_force(session: Session, configured: str) -> str:
    """Where the release in force lies; `configured` is `settings.model.release`, which rules until a promotion."""
    row = current(session)
    return configured if row is None or row.configured else row.path


def path_of(session: Session, digest: str) -> str | None:
    """Where a known release lies."""
    return session.scalar(select(ModelRelease.path).where(ModelRelease.digest == digest))


def follows(row: ModelRelease | None, configured_digest: str) -> bool:
    """Whether the release in force is what the configuration wants, or was promoted since."""
    return row is not None and (not row.configured or row.digest == configured_digest)


def follow_configuration(session: Session, facts: Facts) -> Switched:
    """Put the release of the configuration in force: at the first start, and when the configuration has changed."""
    hold(session, change=True)
    row = _known(session, facts)
    return _put_in_force(session, row, Action.CONFIGURED, Deed(CONFIGURATION, ""), configured=True)


def add(session: Session, facts: Facts, deed: Deed) -> ModelRelease:
    """Know a release. One that is known keeps its state; its folder may be another now."""
    known = session.get(ModelRelease, facts.digest) is not None
    row = _known(session, facts)
    if not known:
        _note(session, row, Action.ADDED, deed)
    return row


def shadow(session: Session, facts: Facts, deed: Deed) -> None:
    """CANDIDATE or RETIRED -> SHADOW; another one in shadow is a candidate again. Raises ReleaseRefusedError."""
    row = _known(session, facts)
    if row.state == ReleaseState.CURRENT:
        raise ReleaseRefusedError(Reason.RELEASE_UNFIT, f"{row.name} is in force: there is nothing to compare it with")
    if row.state != ReleaseState.SHADOW:
        end_shadow(session, deed)
        _move(row, ReleaseState.SHADOW)
        _note(session, row, Action.SHADOWED, deed)


def end_shadow(session: Session, deed: Deed) -> ModelRelease | None:
    """SHADOW -> CANDIDATE; which one, if there was one. What it has read stays."""
    row = in_shadow(session)
    if row is not None:
        _move(row, ReleaseState.CANDIDATE)
        _note(session, row, Action.UNSHADOWED, deed)
        session.flush()
    return row


def promote(session: Session, facts: Facts, deed: Deed) -> Switched:
    """Put a release in force; the caller has checked it (`node.releases.check`)."""
    hold(session, change=True)
    return _put_in_force(session, _known(session, facts), Action.PROMOTED, deed)


def former(session: Session) -> ModelRelease:
    """The release whose place the current one took. Raises ReleaseRefusedError (RELEASE_UNKNOWN)."""
    row = current(session)
    before = session.get(ModelRelease, row.former) if row is not None and row.former else None
    if before is None:
        raise ReleaseRefusedError(Reason.RELEASE_UNKNOWN, "no release was in force before the current one")
    return before


def roll_back(session: Session, digest: str, deed: Deed) -> Switched:
    """Put the former release in force again; the caller has checked it, which is `digest`. Raises ReleaseRefusedError
    (RELEASE_UNKNOWN) if somebody has put another one in force meanwhile.
    """
    hold(session, change=True)
    before = former(session)
    if before.digest != digest:
        raise ReleaseRefusedError(Reason.RELEASE_UNKNOWN, "somebody has put another release in force meanwhile")
    return _put_in_force(session, before, Action.ROLLED_BACK, deed)


def needed(session: Session) -> set[str]:
    """Digests of the releases that still have something to read: the one in force, and those of waiting jobs."""
    at_work = select(Job.release_digest).where(Job.state.in_((State.QUEUED, State.RUNNING))).distinct()
    row = current(session)
    return {*session.scalars(at_work), *(() if row is None else (row.digest,))}


def _known(session: Session, facts: Facts) -> ModelRelease:
    row = session.get(ModelRelease, facts.digest, with_for_update=True)
    if row is None:
        row = ModelRelease(
            digest=facts.digest, path="", name="", test_only=facts.test_only, state=ReleaseState.CANDIDATE
        )
        session.add(row)
    row.path, row.name, row.test_only = facts.path[:1000], facts.name[:200], facts.test_only
    session.flush()
    return row


def _put_in_force(
    session: Session, row: ModelRelease, action: Action, deed: Deed, configured: bool = False
) -> Switched:
    present = current(session)
    if present is not None and present is not row:
        _move(present, ReleaseState.RETIRED)
        if action is not Action.ROLLED_BACK:
            row.former = present.digest
    _move(row, ReleaseState.CURRENT)
    row.configured = configured
    _note(session, row, action, deed)
    session.flush()
    return binding.take_along(session, row.digest)


def _move(row: ModelRelease, state: ReleaseState) -> None:
    row.state, row.changed_at = state, now()


def _note(session: Session, row: ModelRelease, action: Action, deed: Deed) -> None:
    session.add(ReleaseEvent(digest=row.digest, action=action, done_by=deed.done_by[:64], why=deed.why[:1000]))
