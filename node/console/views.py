"""What the console shows, typed: the same objects go into the pages and into the answers of `/api`. No patient data."""

from datetime import datetime
from enum import StrEnum
from typing import Annotated, Generic, TypeVar

from pydantic import BaseModel, ConfigDict, Field

from config import ReaderVerdict, Reason
from node.states import State

T = TypeVar("T")
MOST = 200
"""Rows of one page at most."""


class View(BaseModel):
    """Base of all views."""

    model_config = ConfigDict(frozen=True, use_attribute_docstrings=True)


class Mood(StrEnum):
    """What a state means for the person who looks."""

    WORKING = "working"
    """Goes on by itself."""
    WAITING = "waiting"
    """Goes on when something else comes or comes back."""
    PROBLEM = "problem"
    """A person has to do something."""
    DONE = "done"
    """Nothing more happens."""


class Why(View):
    """A reason code in words."""

    code: Reason
    meaning: str
    cure: str

    @classmethod
    def of_code(cls, reason: str) -> "Why":
        known = Reason(reason)
        return cls(code=known, meaning=known.meaning, cure=known.cure)

    @classmethod
    def of(cls, reason: str | None) -> "Why | None":
        return cls.of_code(reason) if reason else None


class Standing(View):
    """Where a series is, and what it waits for."""

    mood: Mood
    sentence: str
    """One sentence: what happens now, or why nothing does."""
    cure: str = ""
    """What to do; empty if there is nothing to do."""


class SeriesRow(View):
    """One generation of a series in a list."""

    id: int
    series_instance_uid: str
    generation: int
    modality: str
    source_ae: str
    state: State
    """The job's, if there is one, else the series'."""
    reason: Reason | None
    first_at: datetime
    last_at: datetime
    images: int
    conflicts: int
    job_id: int | None
    deliveries: int
    sent: int
    standing: Standing
    why: list[str]
    """What the node noted beside state and reason."""


class DeliveryRow(View):
    """One object for one destination."""

    id: int
    destination: str
    kind: str
    """SR or SEG."""
    sop_instance_uid: str
    series_id: int
    job_id: int
    attempts: int
    sent_at: datetime | None
    refused: bool
    due_at: datetime | None
    """Next attempt; None if there is none."""
    reason: Why | None
    detail: str


class ResultRow(View):
    """One DICOM object that was written."""

    kind: str
    sop_instance_uid: str
    sop_class_uid: str
    deliveries: list[DeliveryRow]


class JobRow(View):
    """One reading of a series by one release."""

    id: int
    state: State
    reason: Why | None
    detail: str
    created_at: datetime
    changed_at: datetime
    attempts: int
    lease_owner: str
    lease_expires: datetime | None
    release_digest: str
    seconds: dict[str, float]
    """Wall seconds of each stage of the last attempt."""
    orders: str
    """What a rule ordered for it, in words; empty: nothing beside what the settings say."""
    results: list[ResultRow]


class Event(View):
    """One point of a timeline."""

    at: datetime | None
    """None: it has no time of its own."""
    what: str
    detail: str
    mood: Mood


class Said(View):
    """What somebody said of a finding."""

    verdict: ReaderVerdict
    agrees: bool | None
    """None: it cannot be compared with what we said."""
    source: str
    """sr, key_object or console."""


class FindingRow(View):
    """A finding of the newest reading of a series."""

    tracking_uid: str
    finding: str
    title: str
    probability: float
    verdict: str
    said: list[Said]
    mine: str
    """What the user who looks has said here; empty if nothing."""

    @property
    def choices(self) -> list[tuple[str, str]]:
        """What can be said, and what that is called."""
        if self.verdict == ReaderVerdict.PRESENT:
            return [("present", "agree"), ("absent", "disagree")]
        if self.verdict == ReaderVerdict.ABSENT:
            return [("absent", "agree"), ("present", "disagree")]
        return [("present", "it is present"), ("absent", "it is absent")]


class SeriesPage(View):
    """Everything about one generation of a series."""

    row: SeriesRow
    study_instance_uid: str
    rule: str
    """The routing rule that decided about it, with the version of the rules; empty: none did."""
    reason: Why | None
    timeline: list[Event]
    jobs: list[JobRow]
    """Newest first."""
    generations: dict[int, int]
    """Generation -> id, of all generations of the series."""


class DestinationRow(View):
    """One destination: of the settings, or of deliveries or messages that are still known."""

    name: str
    ae_title: str
    """For messages their kind; empty if it is not in the settings (any more)."""
    address: str
    sent: int
    waiting: int
    refused: int
    next_attempt: datetime | None
    reason: Why | None
    """Of the newest delivery that was tried in vain."""
    detail: str


class UnreadableRow(View):
    """Something in the spool that is no readable DICOM instance."""

    id: int
    received_at: datetime
    source_ae: str
    sop_instance_uid: str
    segment: str
    offset: int
    length: int
    reason: Why
    detail: str


class RefusedRow(View):
    """Somebody who was refused an association, once or many times in the same way."""

    calling_ae: str
    called_ae: str
    host: str
    reason: Why
    count: int
    first_at: datetime
    last_at: datetime


class ReleaseView(View):
    """A release that the node knows."""

    digest: str
    name: str
    test_only: bool
    state: str
    """candidate, shadow, current or retired."""
    since: datetime
    at_work: int
    """Jobs that wait for it or are read with it."""


class ReleaseDeed(View):
    """What was done with a release."""

    at: datetime
    digest: str
    action: str
    done_by: str
    why: str


class Releases(View):
    """The releases of the node."""

    releases: list[ReleaseView]
    """The current one first."""
    shadow: dict[str, int]
    """Readings of the one in shadow by state; empty: none is in shadow."""
    told: list[str]
    """The same in sentences."""
    deeds: list[ReleaseDeed]
    """The last first."""


class Disk(View):
    """The spool's disk."""

    free_bytes: int | None
    """None: it cannot be asked."""
    total_bytes: int | None
    low_water_bytes: int
    """Below it images are refused."""
    writable: bool

    @property
    def ok(self) -> bool:
        return self.writable and self.free_bytes is not None and self.free_bytes >= self.low_water_bytes


class ProcessRow(View):
    """A process of this node on this machine."""

    role: str
    pid: int
    started_at: datetime
    memory_bytes: int
    """Resident set size."""


class Lease(View):
    """A worker seen by the job it holds."""

    worker: str
    job_id: int
    series_id: int
    since: datetime
    expires: datetime
    """Each heartbeat moves it; one in the past is a worker that died."""


class WorklistRow(View):
    """A worklist of the settings, and what the node holds of it."""

    name: str
    where: str
    held: int
    """Workitems under way."""
    seen_at: datetime | None
    """When it answered last."""
    reason: Reason | None
    """None: it answers."""


class Overview(View):
    """The whole node at a glance."""

    ae_title: str
    at: datetime
    states: dict[State, int]
    """Series by state (the newest job's, if there is one)."""
    queued: int
    oldest_queued_at: datetime | None
    deliveries_waiting: int
    unreadable: int
    last_image_at: datetime | None
    disk: Disk
    processes: list[ProcessRow]
    """Empty if the console runs apart from the node's other processes."""
    leases: list[Lease]
    worklists: list[WorklistRow]
    attention: list[SeriesRow]
    """Series that somebody has to look at, newest first."""
    newest: list[SeriesRow]


class Page(View, Generic[T]):
    """One page of a list."""

    rows: list[T]
    page: Annotated[int, Field(ge=1)]
    more: bool
    """True: there is a next page."""
