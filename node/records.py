"""What the node remembers, in SQL: instances, series, jobs, results, deliveries.

Images themselves live in the spool (`node.spool`); instance rows are an index over it and can be rebuilt from it.
"""

from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    Float,
    ForeignKey,
    Index,
    LargeBinary,
    String,
    UniqueConstraint,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship

from config import Priority, Reason
from config.outputs import ProfileName
from node.database import UtcDateTime
from node.spool import Ending
from node.states import TRANSITIONS, ForbiddenTransition, State


class Signal(StrEnum):
    """What told that a series is complete, best first."""

    COMMITMENT = "commitment"
    """The sender asked for storage commitment of every image."""
    MPPS = "mpps"
    """The modality says that the step which made the series is completed, and names every image."""
    IAN = "ian"
    """An archive names every image as available: by Instance Availability Notification, or asked by the node before it
    fetched them (`node.manifest`)."""
    FIND_COUNT = "find_count"
    """The source counts as many images as were received."""
    RELEASE = "release"
    """One association brought them all without a gap and was released in order."""
    QUIET_TIME = "quiet_time"
    """Nothing came for long enough."""
    FORCED = "forced"
    """A person closed it (`fvlm-node series complete`)."""


class Base(DeclarativeBase):
    type_annotation_map = {datetime: UtcDateTime, State: String(16), Signal: String(16), Reason: String(40)}  # noqa: RUF012


def now() -> datetime:
    """The time, UTC, aware."""
    return datetime.now(UTC)


class _Stateful:
    """A row with a state that only moves along TRANSITIONS."""

    state: Mapped[State]
    reason: Mapped[Reason | None]
    detail: Mapped[str]
    changed_at: Mapped[datetime]

    def move(self, to: State, reason: Reason | None = None, detail: str = "") -> None:
        """Change the state. Raises ForbiddenTransition if the state machine does not allow it."""
        if to not in TRANSITIONS[State(self.state)]:
            raise ForbiddenTransition(f"{type(self).__name__}: {self.state} -> {to}")
        self.state, self.reason, self.detail, self.changed_at = to, reason, detail, now()


class Outgoing:
    """A row that has to arrive at a destination (`node.outbox`)."""

    id: Mapped[int] = mapped_column(primary_key=True)
    destination: Mapped[str] = mapped_column(String(64))
    """Name in the settings."""
    due_at: Mapped[datetime] = mapped_column(default=now)
    """When it is tried next; for what was refused, when that was."""
    attempts: Mapped[int] = mapped_column(default=0)
    sent_at: Mapped[datetime | None] = mapped_column(default=None)
    refused: Mapped[bool] = mapped_column(default=False)
    """True: refused for good, a repeat does not mend it."""
    reason: Mapped[Reason | None] = mapped_column(String(40), default=None)
    detail: Mapped[str] = mapped_column(String(1000), default="")


class Series(_Stateful, Base):
    """One generation of one series: a late instance after completion opens the next generation."""

    __tablename__ = "series"
    __table_args__ = (
        UniqueConstraint("series_instance_uid", "generation"),
        Index("ix_series_state", "state"),
        Index("ix_series_study", "study_instance_uid"),
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    series_instance_uid: Mapped[str] = mapped_column(String(64))
    generation: Mapped[int] = mapped_column(default=1)
    study_instance_uid: Mapped[str] = mapped_column(String(64))
    modality: Mapped[str] = mapped_column(String(16))
    source_ae: Mapped[str] = mapped_column(String(16))
    state: Mapped[State] = mapped_column(String(16), default=State.RECEIVING)
    reason: Mapped[Reason | None] = mapped_column(String(40), default=None)
    detail: Mapped[str] = mapped_column(String(1000), default="")
    changed_at: Mapped[datetime] = mapped_column(default=now)
    first_at: Mapped[datetime]
    last_at: Mapped[datetime]
    signal: Mapped[Signal | None] = mapped_column(String(16), default=None)
    """What closed it; None while it is RECEIVING."""
    expected: Mapped[int | None] = mapped_column(default=None)
    """Images that the series has as the source told, all generations together; None if it told nothing."""
    received: Mapped[int | None] = mapped_column(default=None)
    """Images of it that were there when it was closed, all generations together."""
    released: Mapped[bytes | None] = mapped_column(default=None, deferred=True)
    """Of each image of this generation that was deleted from the spool, a mark of 8 bytes (`node.retention`)."""
    rule: Mapped[str] = mapped_column(String(64), default="")
    """The routing rule that decided about it, or that waits for the rest of its study; empty: none was asked, or none
    fits."""
    rules_version: Mapped[str] = mapped_column(String(200), default="")
    rules_digest: Mapped[str] = mapped_column(String(64), default="")
    """Version and SHA-256 of the rules file that was asked."""
    rank: Mapped[list[float] | None] = mapped_column(JSON(none_as_null=True), default=None)
    """How good it is among the series of its study, smallest first, where the rule wants only the best."""
    patient: Mapped[str] = mapped_column(String(32), default="")
    """Keyed hash of the Patient ID (`node.pseudonyms`), then; else empty."""
    instances: Mapped[list["Instance"]] = relationship(back_populates="series")
    jobs: Mapped[list["Job"]] = relationship(back_populates="series")


class Instance(Base):
    """One received SOP instance: where the spool holds it."""

    __tablename__ = "instance"
    __table_args__ = (UniqueConstraint("segment", "offset"), Index("ix_instance_sop", "sop_instance_uid"))

    id: Mapped[int] = mapped_column(primary_key=True)
    series_id: Mapped[int] = mapped_column(ForeignKey("series.id"), index=True)
    sop_instance_uid: Mapped[str] = mapped_column(String(64))
    sop_class_uid: Mapped[str] = mapped_column(String(64))
    transfer_syntax_uid: Mapped[str] = mapped_column(String(64))
    segment: Mapped[str] = mapped_column(String(80))
    """File name of the spool segment."""
    offset: Mapped[int] = mapped_column(BigInteger)
    """Start of the Part 10 stream in the segment, bytes."""
    length: Mapped[int] = mapped_column(BigInteger)
    """Length of the Part 10 stream, bytes."""
    sha256: Mapped[str] = mapped_column(String(64))
    """Of the data set as sent, hex."""
    received_at: Mapped[datetime]
    """When this content of it came first."""
    conflict: Mapped[bool] = mapped_column(default=False)
    """The same SOP Instance UID was indexed before with other bytes; kept. Of all, what was received first is used."""
    series: Mapped[Series] = relationship(back_populates="instances")


class Unreadable(Base):
    """Something in the spool that is no readable DICOM instance: kept, shown, never read."""

    __tablename__ = "unreadable"
    __table_args__ = (UniqueConstraint("segment", "offset"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    segment: Mapped[str] = mapped_column(String(80))
    """File name of the spool segment."""
    offset: Mapped[int] = mapped_column(BigInteger)
    """Start of the Part 10 stream in the segment, or of the damaged record, bytes."""
    length: Mapped[int] = mapped_column(BigInteger)
    """Bytes."""
    sop_instance_uid: Mapped[str] = mapped_column(String(64))
    """As the sender named it; empty if the record itself is damaged."""
    source_ae: Mapped[str] = mapped_column(String(16))
    reason: Mapped[Reason] = mapped_column(String(40))
    detail: Mapped[str] = mapped_column(String(1000))
    received_at: Mapped[datetime]


class SpoolSegment(Base):
    """How far a spool segment is indexed."""

    __tablename__ = "spool_segment"

    name: Mapped[str] = mapped_column(String(80), primary_key=True)
    """File name."""
    indexed_to: Mapped[int] = mapped_column(BigInteger)
    """Every record before this byte is in the index."""
    row_count: Mapped[int]
    """Instance and Unreadable rows written for it. Fewer in the tables: the index has lost some, it is read again."""
    sealed: Mapped[bool] = mapped_column(default=False)
    """Read to its end, and nobody writes to it any more."""
    ending: Mapped[Ending | None] = mapped_column(String(16), default=None)
    """How its association ended; None: it is open, or nobody could tell."""
    ended_at: Mapped[datetime | None] = mapped_column(default=None)
    released_at: Mapped[datetime | None] = mapped_column(default=None)
    """Since when its images are not needed; the file is deleted, the row stays so that it is never read again."""


class SegmentSeries(Base):
    """A segment holds images of a series, be they only repetitions of what was there."""

    __tablename__ = "segment_series"

    segment: Mapped[str] = mapped_column(String(80), primary_key=True)
    """File name."""
    series_instance_uid: Mapped[str] = mapped_column(String(64), primary_key=True, index=True)


class CommitmentRequest(Base):
    """A sender asked whether the node keeps what it sent (storage commitment, PS3.4 annex J), and what it was told."""

    __tablename__ = "commitment_request"
    __table_args__ = (Index("ix_commitment_request_due", "ended_at", "due_at"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    token: Mapped[str] = mapped_column(String(64), unique=True)
    """Name of its file in the spool, without suffix."""
    transaction_uid: Mapped[str] = mapped_column(String(64))
    calling_ae: Mapped[str] = mapped_column(String(16), index=True)
    called_ae: Mapped[str] = mapped_column(String(16))
    received_at: Mapped[datetime]
    references: Mapped[list[list[str]]] = mapped_column(JSON, deferred=True)
    """SOP class and instance of each object asked for."""
    failures: Mapped[list[list[Any]]] = mapped_column(JSON, deferred=True)
    """Of those that are not kept: SOP class, instance, Failure Reason (PS3.3 C.14.1.1)."""
    weighed: Mapped[bool] = mapped_column(default=False)
    """It has said all that it can about the completeness of series."""
    due_at: Mapped[datetime]
    """When the report is sent next."""
    attempts: Mapped[int] = mapped_column(default=0)
    ended_at: Mapped[datetime | None] = mapped_column(default=None)
    """When the sender confirmed the report, or was given up (then with a reason)."""
    reason: Mapped[Reason | None] = mapped_column(String(40), default=None)
    detail: Mapped[str] = mapped_column(String(1000), default="")


class AnnouncedSeries(Base):
    """What a modality (MPPS) or an archive (Instance Availability Notification) said of the images of one series."""

    __tablename__ = "announced_series"
    __table_args__ = (UniqueConstraint("token", "series_instance_uid"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    token: Mapped[str] = mapped_column(String(64))
    """Name of the announcement's file in the spool, without suffix; it may be about several series."""
    kind: Mapped[str] = mapped_column(String(8))
    """mpps or ian."""
    calling_ae: Mapped[str] = mapped_column(String(16))
    series_instance_uid: Mapped[str] = mapped_column(String(64), index=True)
    discontinued: Mapped[bool]
    """The step was discontinued (MPPS): nothing is to be waited for."""
    received_at: Mapped[datetime]
    images: Mapped[list[str]] = mapped_column(JSON, deferred=True)
    """SOP Instance UIDs that were named."""
    away: Mapped[list[str]] = mapped_column(JSON, deferred=True)
    """Those that the archive has no longer, or not at hand."""


class PullWish(Base):
    """A study that was announced and is to be fetched from an archive (`node.announced_pull`). No patient data."""

    __tablename__ = "pull_wish"
    __table_args__ = (UniqueConstraint("source", "study_instance_uid"), Index("ix_pull_wish_due", "ended_at", "due_at"))

    id: Mapped[int] = mapped_column(primary_key=True)
    source: Mapped[str] = mapped_column(String(64))
    """Name in `settings.sources`."""
    study_instance_uid: Mapped[str] = mapped_column(String(64))
    token: Mapped[str] = mapped_column(String(64))
    """The announcement that asked last."""
    due_at: Mapped[datetime] = mapped_column(default=now)
    attempts: Mapped[int] = mapped_column(default=0)
    ended_at: Mapped[datetime | None] = mapped_column(default=None)
    """When it was there, or given up (`reason`)."""
    reason: Mapped[Reason | None] = mapped_column(String(40), default=None)
    detail: Mapped[str] = mapped_column(String(1000), default="")


class Knock(Base):
    """Somebody was refused an association, once or many times in the same way."""

    __tablename__ = "knock"
    __table_args__ = (UniqueConstraint("calling_ae", "called_ae", "host", "reason"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    calling_ae: Mapped[str] = mapped_column(String(16))
    """As the caller wrote it; empty if it was closed before it could say."""
    called_ae: Mapped[str] = mapped_column(String(16))
    host: Mapped[str] = mapped_column(String(64))
    reason: Mapped[Reason] = mapped_column(String(40))
    count: Mapped[int]
    first_at: Mapped[datetime]
    last_at: Mapped[datetime]


class OrthancCursor(Base):
    """How far the changes of an Orthanc have been followed, and how it went the last time."""

    __tablename__ = "orthanc_cursor"

    source: Mapped[str] = mapped_column(String(32), primary_key=True)
    """Name in `settings.orthancs`."""
    cursor: Mapped[int] = mapped_column(BigInteger)
    """Every image that its changes up to this one told of, as far as it is to be fetched, is in the spool."""
    not_before: Mapped[datetime | None] = mapped_column(default=None)
    """Its list of changes began anew: what is older than this was followed in the former list."""
    seen_at: Mapped[datetime] = mapped_column(default=now)
    """When it answered last, to within some minutes."""
    reason: Mapped[Reason | None] = mapped_column(String(40), default=None)
    """Why nothing can be fetched from it now; None: it answers."""
    detail: Mapped[str] = mapped_column(String(1000), default="")


class OrthancWanted(Base):
    """A person asked for a series that an Orthanc has to be read; or a series could not be fetched as a whole."""

    __tablename__ = "orthanc_wanted"
    __table_args__ = (UniqueConstraint("source", "orthanc_series"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    source: Mapped[str] = mapped_column(String(32))
    """Name in `settings.orthancs`."""
    orthanc_series: Mapped[str] = mapped_column(String(44))
    """Orthanc's own name of the series."""
    waits: Mapped[bool]
    """It is still to be fetched."""
    asked_at: Mapped[datetime] = mapped_column(default=now)
    """When it was asked for, or found that it cannot be fetched."""
    reason: Mapped[Reason | None] = mapped_column(String(40), default=None)
    """Why it could not be fetched."""
    detail: Mapped[str] = mapped_column(String(1000), default="")


class WorkitemClaim(Base):
    """A workitem of a worklist that this node has claimed, or was about to (`node.worklist`). No patient data."""

    __tablename__ = "workitem_claim"
    __table_args__ = (UniqueConstraint("worklist", "uid"), Index("ix_workitem_claim_phase", "worklist", "phase"))

    id: Mapped[int] = mapped_column(primary_key=True)
    worklist: Mapped[str] = mapped_column(String(32))
    """Name in `settings.worklists`."""
    uid: Mapped[str] = mapped_column(String(64))
    """SOP Instance UID of the workitem."""
    transaction_uid: Mapped[str] = mapped_column(String(64))
    """Kept before it is used: with it alone can the workitem be ended."""
    phase: Mapped[str] = mapped_column(String(16))
    """A `node.worklist.claims.Phase`."""
    inputs: Mapped[list[list[str]]] = mapped_column(JSON)
    """Study and series of each input."""
    priority: Mapped[int]
    """A `config.Priority`."""
    progress: Mapped[int] = mapped_column(default=-1)
    """Percent that the worklist was told; -1: nothing yet."""
    cancel_asked: Mapped[bool] = mapped_column(default=False)
    """Somebody asked for its cancellation."""
    attempts: Mapped[int] = mapped_column(default=0)
    """How often the worklist did not let it be ended."""
    claimed_at: Mapped[datetime] = mapped_column(default=now)
    ended_at: Mapped[datetime | None] = mapped_column(default=None)
    reason: Mapped[Reason | None] = mapped_column(String(40), default=None)
    """Why it was cancelled, lost, or cannot be ended now."""
    detail: Mapped[str] = mapped_column(String(1000), default="")


class WorklistContact(Base):
    """How it went with a worklist the last time."""

    __tablename__ = "worklist_contact"

    worklist: Mapped[str] = mapped_column(String(32), primary_key=True)
    """Name in `settings.worklists`."""
    seen_at: Mapped[datetime | None] = mapped_column(default=None)
    """When it answered last, to within a minute."""
    reason: Mapped[Reason | None] = mapped_column(String(40), default=None)
    """None: it answers."""
    detail: Mapped[str] = mapped_column(String(1000), default="")


class Job(_Stateful, Base):
    """One reading of one generation of a series by one release."""

    __tablename__ = "job"
    __table_args__ = (
        UniqueConstraint("series_id", "release_digest"),
        Index("ix_job_queue", "state", "priority", "id"),
        Index("ix_job_patient", "patient", "studied_at"),
        Index("ix_job_changed", "changed_at"),
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    series_id: Mapped[int] = mapped_column(ForeignKey("series.id"))
    release_digest: Mapped[str] = mapped_column(String(64))
    state: Mapped[State] = mapped_column(String(16), default=State.QUEUED)
    reason: Mapped[Reason | None] = mapped_column(String(40), default=None)
    detail: Mapped[str] = mapped_column(String(1000), default="")
    changed_at: Mapped[datetime] = mapped_column(default=now)
    created_at: Mapped[datetime] = mapped_column(default=now)
    priority: Mapped[int] = mapped_column(default=int(Priority.ROUTINE))
    """A `config.Priority`: the lower, the sooner."""
    frugal: Mapped[bool] = mapped_column(default=False)
    """The next attempt runs in the smaller configuration (`settings.model.frugal`, on the CPU)."""
    attempts: Mapped[int] = mapped_column(default=0)
    first_taken_at: Mapped[datetime | None] = mapped_column(default=None)
    """When a worker first took it: since then its release is fixed (`node.releases.registry`)."""
    lease_owner: Mapped[str] = mapped_column(String(80), default="")
    lease_expires: Mapped[datetime | None] = mapped_column(default=None)
    seconds: Mapped[dict[str, float]] = mapped_column(JSON, default=dict)
    """Wall seconds per stage of the last attempt."""
    predecessor: Mapped[list[str] | None] = mapped_column(JSON(none_as_null=True), default=None)
    """UIDs (series, instance, class) of the report that this job's replaces; empty: none; NULL: not chosen."""
    patient: Mapped[str] = mapped_column(String(32), default="")
    """Keyed hash (`node.priors`); empty: not known, or not looked at yet."""
    studied_at: Mapped[str] = mapped_column(String(14), default="")
    """Study Date and Time, `YYYYMMDDHHMMSS`."""
    prior: Mapped[list[int] | None] = mapped_column(JSON(none_as_null=True), default=None)
    """The job with whose reading its own is compared; empty: none; NULL: not chosen."""
    held_until: Mapped[datetime | None] = mapped_column(default=None)
    """Until then it waits for what an archive says of earlier readings (`node.prior_search`); NULL: it does not."""
    archived_prior: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True), default=None)
    """A `node.archived_prior.ArchivedPrior`, compared with if `prior` names no job; NULL: none was found."""
    destinations: Mapped[list[str] | None] = mapped_column(JSON(none_as_null=True), default=None)
    """Where its results go, as the rules had it when it was made; NULL: it is older than that, the settings tell."""
    release: Mapped[str] = mapped_column(String(300), default="")
    """The model release that a rule named, as `model.release` does; empty: the one in force."""
    preset: Mapped[str] = mapped_column(String(32), default="")
    """The preset of the vocabulary whose findings are reported; empty: all that the release asks."""
    profile: Mapped[ProfileName | None] = mapped_column(String(8), default=None)
    """Which objects each destination gets; NULL: what the settings say of it."""
    shadow: Mapped[bool] = mapped_column(default=True)
    """Whether the release in shadow, if there is one, reads it too."""
    anatomies: Mapped[list[str] | None] = mapped_column(JSON(none_as_null=True), default=None)
    """Those of the release that were segmented whole and plausible; NULL: not segmented yet."""
    later_rule: Mapped[str] = mapped_column(String(64), default="")
    """The rule for after the segmentation that decided about it; empty: none did."""
    forced_by: Mapped[str] = mapped_column(String(64), default="")
    """Who had it read against the rules; empty: nobody."""
    forced_at: Mapped[datetime | None] = mapped_column(default=None)
    forced_why: Mapped[str] = mapped_column(String(1000), default="")
    series: Mapped[Series] = relationship(back_populates="jobs")
    results: Mapped[list["Result"]] = relationship(back_populates="job")


class WorkerStart(Base):
    """How the last start of an analyze worker went; `fvlm-node status` tells when it failed."""

    __tablename__ = "worker_start"

    worker: Mapped[str] = mapped_column(String(80), primary_key=True)
    at: Mapped[datetime] = mapped_column(default=now)
    reason: Mapped[Reason | None] = mapped_column(String(40), default=None)
    """None: the model is loaded."""
    detail: Mapped[str] = mapped_column(String(1000), default="")


class Result(Base):
    """One DICOM object written for a job."""

    __tablename__ = "result"
    __table_args__ = (UniqueConstraint("job_id", "sop_instance_uid"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    job_id: Mapped[int] = mapped_column(ForeignKey("job.id"), index=True)
    kind: Mapped[str] = mapped_column(String(8))
    """A `config.Output`: SR, SEG, ..."""
    sop_instance_uid: Mapped[str] = mapped_column(String(64))
    sop_class_uid: Mapped[str] = mapped_column(String(64))
    series_instance_uid: Mapped[str] = mapped_column(String(64), default="")
    """Of the result's own series; empty for results from before it was kept."""
    path: Mapped[str] = mapped_column(String(200))
    """Relative to the results folder."""
    removed_at: Mapped[datetime | None] = mapped_column(default=None)
    """Since when the file is not needed (`node.result_retention`)."""
    job: Mapped[Job] = relationship(back_populates="results")
    deliveries: Mapped[list["Delivery"]] = relationship(back_populates="result")


class Embedding(Base):
    """What one anatomy of a series looked like to the release that read it (`node.embeddings`).

    Stored in the order of the key, so that one anatomy of all series is read in one sweep.
    """

    __tablename__ = "embedding"
    __table_args__ = {"sqlite_with_rowid": False}  # noqa: RUF012

    release_digest: Mapped[str] = mapped_column(String(64), primary_key=True)
    anatomy: Mapped[str] = mapped_column(String(40), primary_key=True)
    job_id: Mapped[int] = mapped_column(ForeignKey("job.id"), primary_key=True, index=True, autoincrement=False)
    feature: Mapped[bytes] = mapped_column(LargeBinary)
    """Float16, little endian, unit length."""


class ReportedFinding(Base):
    """What a job says of one finding: readers answer to it (`node.feedback_taking`), also when its SR file is gone."""

    __tablename__ = "reported_finding"
    __table_args__ = (UniqueConstraint("job_id", "finding"), Index("ix_reported_finding_tracking", "tracking_uid"))

    id: Mapped[int] = mapped_column(primary_key=True)
    job_id: Mapped[int] = mapped_column(ForeignKey("job.id"))
    finding: Mapped[str] = mapped_column(String(80))
    """`anatomy.finding` of the vocabulary."""
    tracking_uid: Mapped[str] = mapped_column(String(64))
    """As in the SR; the same in every job of the series."""
    probability: Mapped[float] = mapped_column(Float)
    """0..1"""
    verdict: Mapped[str] = mapped_column(String(24))
    """A `fvlm.reading.Verdict`."""


class Feedback(Base):
    """What one reader said of one finding of a job, or (`finding` empty) of its whole result. No patient data."""

    __tablename__ = "feedback"
    __table_args__ = (UniqueConstraint("said_by", "job_id", "tracking_uid"), Index("ix_feedback_job", "job_id"))

    id: Mapped[int] = mapped_column(primary_key=True)
    job_id: Mapped[int] = mapped_column(ForeignKey("job.id"))
    finding: Mapped[str] = mapped_column(String(80))
    """`anatomy.finding`; empty: the whole result."""
    tracking_uid: Mapped[str] = mapped_column(String(64))
    """Empty: the whole result."""
    release_digest: Mapped[str] = mapped_column(String(64))
    probability: Mapped[float | None] = mapped_column(Float)
    """What we said, 0..1; None for the whole result."""
    verdict: Mapped[str] = mapped_column(String(24))
    """What we said; empty for the whole result."""
    reader_verdict: Mapped[str] = mapped_column(String(16))
    """A `config.ReaderVerdict`."""
    source: Mapped[str] = mapped_column(String(16))
    """sr, key_object or console."""
    said_by: Mapped[str] = mapped_column(String(64))
    """SOP Instance UID of the object that says it; `console:` and the reader for the console."""
    reader: Mapped[str] = mapped_column(String(32))
    """Keyed hash of who said it (`node.pseudonyms`); empty if nobody is named."""
    said_at: Mapped[datetime | None] = mapped_column(default=None)
    """As the object says, where it gives its time zone."""
    taken_at: Mapped[datetime] = mapped_column(default=now)


class Delivery(Outgoing, Base):
    """The outbox: one object that one destination (of `settings.destinations`) has to receive."""

    __tablename__ = "delivery"
    __table_args__ = (
        UniqueConstraint("result_id", "destination"),
        Index("ix_delivery_due", "sent_at", "due_at"),
        Index("ix_delivery_ask", "ask_at"),
    )

    result_id: Mapped[int] = mapped_column(ForeignKey("result.id"))
    asked: Mapped[bool] = mapped_column(default=False)
    """The destination is asked to commit to keep it (its setting when the object was stored)."""
    ask_at: Mapped[datetime | None] = mapped_column(default=None)
    """When it is asked, or asked again; None: nothing is to be asked (any more)."""
    asks: Mapped[int] = mapped_column(default=0)
    """Requests for commitment without an answer."""
    lost: Mapped[int] = mapped_column(default=0)
    """How often the destination said that it did not keep the object."""
    committed_at: Mapped[datetime | None] = mapped_column(default=None)
    committed_by: Mapped[str] = mapped_column(String(16), default="")
    """How that is known: N-EVENT-REPORT (storage commitment) or QIDO-RS (the service lists the object)."""
    commitment_reason: Mapped[Reason | None] = mapped_column(String(40), default=None)
    """Why there is no commitment (yet)."""
    commitment_detail: Mapped[str] = mapped_column(String(1000), default="")
    result: Mapped[Result] = relationship(back_populates="deliveries")


class Message(Outgoing, Base):
    """The outbox of messages: what one destination (of `settings.messages.destinations`) has to be told."""

    __tablename__ = "message"
    __table_args__ = (UniqueConstraint("job_id", "destination", "kind"), Index("ix_message_due", "sent_at", "due_at"))

    kind: Mapped[str] = mapped_column(String(8))
    """A `node.messages.rows.Kind`."""
    job_id: Mapped[int | None] = mapped_column(ForeignKey("job.id"), default=None)
    """What it is about; None: the node itself."""
    message_id: Mapped[str] = mapped_column(String(32))
    """The same however often it is sent: the receiver knows a repetition by it."""
    content: Mapped[dict[str, Any]] = mapped_column(JSON, default=dict)
    """What it says, no more than the destination's level allows; empty once it has arrived."""
    as_of: Mapped[datetime] = mapped_column(default=now)
    """What it says is as it was then."""


class CommitmentTransaction(Base):
    """One storage commitment request that was sent, or was about to be (PS3.4 annex J)."""

    __tablename__ = "commitment_transaction"

    transaction_uid: Mapped[str] = mapped_column(String(64), primary_key=True)
    job_id: Mapped[int] = mapped_column(ForeignKey("job.id"), index=True)
    destination: Mapped[str] = mapped_column(String(64))
    asked_at: Mapped[datetime] = mapped_column(default=now)
    answered_at: Mapped[datetime | None] = mapped_column(default=None)


class Breaker(Base):
    """A destination that does not take anything now: its circuit breaker is open. No row: closed (`node.breaker`)."""

    __tablename__ = "breaker"

    destination: Mapped[str] = mapped_column(String(64), primary_key=True)
    failures: Mapped[int] = mapped_column(default=0)
    """Attempts in a row that failed."""
    since: Mapped[datetime] = mapped_column(default=now)
    next_attempt_at: Mapped[datetime] = mapped_column(default=now)
    """Nothing is sent before; then one attempt decides."""
    probing: Mapped[bool] = mapped_column(default=False)
    """That attempt is under way; `next_attempt_at` is when it counts as lost."""
    reason: Mapped[Reason | None] = mapped_column(String(40), default=None)
    detail: Mapped[str] = mapped_column(String(1000), default="")
