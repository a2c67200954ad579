"""Releases in SQL: which the node knows, what was done with them and by whom, what the one in shadow has read."""

from datetime import datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import JSON, ForeignKey, Index, String, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from config import Reason
from node.records import Base, now


class ReleaseState(StrEnum):
    """Where a release is in its life."""

    CANDIDATE = "candidate"
    """Known, and not in use."""
    SHADOW = "shadow"
    """Reads beside the current one; nothing of it is sent. At most one."""
    CURRENT = "current"
    """In force: it reads what comes. At most one."""
    RETIRED = "retired"
    """Was in force. It still ends what it has begun."""


class Action(StrEnum):
    """What was done with a release."""

    ADDED = "added"
    SHADOWED = "shadowed"
    UNSHADOWED = "unshadowed"
    PROMOTED = "promoted"
    ROLLED_BACK = "rolled back"
    """It took its place again."""
    CONFIGURED = "configured"
    """The node's configuration put it in force."""


class ModelRelease(Base):
    """A release that the node knows."""

    __tablename__ = "model_release"

    digest: Mapped[str] = mapped_column(String(64), primary_key=True)
    path: Mapped[str] = mapped_column(String(1000))
    """Folder, absolute, or `bundled`."""
    name: Mapped[str] = mapped_column(String(200))
    """Name and version, as its config.json says."""
    test_only: Mapped[bool]
    state: Mapped[ReleaseState] = mapped_column(String(16))
    changed_at: Mapped[datetime] = mapped_column(default=now)
    configured: Mapped[bool] = mapped_column(default=False)
    """The configuration put it in force, so a change of the configuration is followed; not after a promotion."""
    former: Mapped[str | None] = mapped_column(String(64), default=None)
    """Digest of the release whose place it took: where a rollback goes."""


class ReleaseEvent(Base):
    """Who did what with a release, when, and why. Rows are only added."""

    __tablename__ = "release_event"

    id: Mapped[int] = mapped_column(primary_key=True)
    at: Mapped[datetime] = mapped_column(default=now)
    digest: Mapped[str] = mapped_column(String(64))
    action: Mapped[Action] = mapped_column(String(16))
    done_by: Mapped[str] = mapped_column(String(64))
    """User of the operating system; `configuration`."""
    why: Mapped[str] = mapped_column(String(1000), default="")


class ShadowState(StrEnum):
    """Where a reading in shadow is."""

    WAITING = "waiting"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    SKIPPED = "skipped"
    """The queue was full: this study is not read in shadow."""


class ShadowReading(Base):
    """One series read by the release in shadow, after the job that sent its results. Never sent, no patient data."""

    __tablename__ = "shadow_reading"
    __table_args__ = (
        UniqueConstraint("job_id", "release_digest"),
        Index("ix_shadow_reading_state", "release_digest", "state"),
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    job_id: Mapped[int] = mapped_column(ForeignKey("job.id"))
    release_digest: Mapped[str] = mapped_column(String(64))
    state: Mapped[ShadowState] = mapped_column(String(16))
    changed_at: Mapped[datetime] = mapped_column(default=now)
    attempts: Mapped[int] = mapped_column(default=0)
    reason: Mapped[Reason | None] = mapped_column(String(40), default=None)
    detail: Mapped[str] = mapped_column(String(1000), default="")
    reading: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True), default=None, deferred=True)
    """`findings`: key -> [probability, verdict]; `not_assessed`: anatomy -> reason; `seconds`: stage -> seconds."""
