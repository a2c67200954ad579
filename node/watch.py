"""What the demo sees while it waits: states from the node's database, objects from the archive's folder."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from pydicom import Dataset, dcmread
from sqlalchemy import func, select
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import selectinload

from config import Output, Reason, Settings
from dicom_sr.outputs import OUTPUT_OF_CLASS, output_of
from node.database import Records, open_database
from node.records import Instance, Job, Result, Series, now
from node.series_status import notes
from node.states import State

QUEUED = "complete, vet, route"
"""The stage that ends with a job in the queue."""
ENDED = frozenset({State.SENT, State.COMMITTED, State.REJECTED, State.FAILED, State.QUARANTINED})
"""States after which the demo waits no longer."""

_COUNTED = select(Instance.series_id, func.count())


@dataclass(frozen=True)
class SeriesState:
    """One series as the node knows it."""

    images: int
    state: State
    reason: Reason | None
    detail: str
    seconds: Mapping[str, float] = field(default_factory=dict)
    """Wall seconds per stage, receiving to delivery."""
    notes: Sequence[str] = ()
    """What vetting left out, and images in conflict."""

    @property
    def sent(self) -> bool:
        return self.state in (State.SENT, State.COMMITTED)


class NodeView:
    """Reads the node's database, which the node alone writes."""

    def __init__(self, settings: Settings) -> None:
        self._file = Path(settings.database.removeprefix("sqlite:///"))
        self._records = Records(open_database(settings.database))
        self._running_since: dict[str, datetime] = {}
        """When a series was first seen with a worker."""

    def series(self) -> dict[str, SeriesState]:
        """State of every series by its UID; empty while the node has not made its database yet."""
        if not self._file.is_file():
            return {}
        try:
            with self._records.session() as session:
                images, conflicts = (
                    dict(session.execute(counted.group_by(Instance.series_id)).tuples().all())
                    for counted in (_COUNTED, _COUNTED.where(Instance.conflict))
                )
                loaded = select(Series).options(
                    selectinload(Series.jobs).selectinload(Job.results).selectinload(Result.deliveries)
                )
                return {
                    s.series_instance_uid: self._state(s, images.get(s.id, 0), conflicts.get(s.id, 0))
                    for s in session.scalars(loaded)
                }
        except OperationalError:  # the tables are being made
            return {}

    def _state(self, series: Series, images: int, conflicts: int) -> SeriesState:
        job = max(series.jobs, key=lambda job: job.id, default=None)
        row = series if job is None else job
        seconds = {"receive": (series.last_at - series.first_at).total_seconds()}
        if job is not None:
            seconds[QUEUED] = (job.created_at - series.last_at).total_seconds()
            if job.state != State.QUEUED:
                started = self._running_since.setdefault(series.series_instance_uid, now())
                seconds["wait for the worker"] = (started - job.created_at).total_seconds()
                seconds |= job.seconds
                sent = [d.sent_at for result in job.results for d in result.deliveries if d.sent_at is not None]
                if sent and job.seconds:
                    # The worker was first seen up to one look late.
                    delivery = (max(sent) - started).total_seconds() - sum(job.seconds.values())
                    seconds["deliver"] = max(0.0, delivery)
        reason = None if row.reason is None else Reason(row.reason)
        return SeriesState(images, State(row.state), reason, row.detail, seconds, notes(series, conflicts))


@dataclass
class ArchiveView:
    """Reads the archive's folder: each file once."""

    folder: Path
    _known: dict[Path, Dataset] = field(default_factory=dict)

    def results_of(self, series_uid: str) -> list[Dataset]:
        """The SR that refers to a CT series and what it names of ours, in the order of sending: the SR last."""
        if self.folder.is_dir():
            for path in sorted(set(self.folder.glob("*.dcm")) - self._known.keys()):
                self._known[path] = dcmread(path)
        ours = {str(each.SOPInstanceUID): each for each in self._known.values() if each.SOPClassUID in OUTPUT_OF_CLASS}
        found: dict[str, Dataset] = {}
        for uid, root in ours.items():
            evidence = _evidence(root)
            if output_of(root) is Output.SR and series_uid in evidence:
                found |= {uid: root} | {
                    named: ours[named] for named in set().union(*evidence.values()) if named in ours
                }
        order = list(Output)
        return sorted(found.values(), key=lambda each: order.index(output_of(each)))


def _evidence(dataset: Dataset) -> dict[str, set[str]]:
    """Of each series that an SR names as evidence (PS3.3 C.17.2) the instances."""
    return {
        str(series.SeriesInstanceUID): {str(each.ReferencedSOPInstanceUID) for each in series.ReferencedSOPSequence}
        for study in dataset.get("CurrentRequestedProcedureEvidenceSequence") or []
        for series in study.ReferencedSeriesSequence
    }
