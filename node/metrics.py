"""Prometheus metrics, computed from the database and the disk each time they are asked for. No patient data."""

from collections.abc import Iterable, Iterator
from typing import Any

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector
from sqlalchemy import Select, func, select
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from config import Reason, Settings
from node.database import Records
from node.messages.rows import waiting
from node.records import Delivery, Job, Knock, Message, Result, Series, SpoolSegment, Unreadable, now
from node.releases.standing import standing
from node.spool import free_bytes
from node.states import State

_OF_SERIES = (State.RECEIVING, State.COMPLETE, State.VETTED, State.REJECTED, State.SUPERSEDED)
_OF_JOBS = tuple(State)[tuple(State).index(State.QUEUED) :]
Metric = GaugeMetricFamily | CounterMetricFamily


def exposition(records: Records, settings: Settings) -> bytes:
    """All metrics in Prometheus' text format. While the database is away `fvlm_database_up` is 0 and what comes out of
    the database is missing.
    """
    registry = CollectorRegistry()
    registry.register(_NodeMetrics(records, settings))
    return generate_latest(registry)


class _NodeMetrics(Collector):
    def __init__(self, records: Records, settings: Settings) -> None:
        self._records, self._settings = records, settings

    def describe(self) -> Iterable[Metric]:
        return ()

    def collect(self) -> Iterator[Metric]:
        yield from self._spool()
        try:
            with self._records.reading() as session:
                found = [
                    *_series(session),
                    *_jobs(session),
                    *_deliveries(session, self._settings),
                    *_messages(session, self._settings),
                    *_intake(session),
                    *_releases(session, self._settings),
                ]
        except SQLAlchemyError:
            found = None
        yield _gauge("fvlm_database_up", "1 if the node's database answers.", 0 if found is None else 1)
        yield from found or ()

    def _spool(self) -> Iterator[Metric]:
        try:
            free = free_bytes(self._settings.spool_dir)
        except OSError:
            pass
        else:
            yield _gauge("fvlm_spool_free_bytes", "Bytes that the node may still write on the spool's disk.", free)
        low = self._settings.dicom.min_free_mb * 2**20
        yield _gauge("fvlm_spool_low_water_bytes", "Free bytes below which images are refused.", low)


def _series(session: Session) -> Iterator[Metric]:
    counts = dict(session.execute(select(Series.state, func.count()).group_by(Series.state)).tuples().all())
    text = "Series (generations) by their own state; from VETTED on see the jobs."
    yield _by("fvlm_series", text, "state", [(state, counts.get(state, 0)) for state in _OF_SERIES])


def _jobs(session: Session) -> Iterator[Metric]:
    counts = dict(session.execute(select(Job.state, func.count()).group_by(Job.state)).tuples().all())
    yield _by("fvlm_jobs", "Jobs by state.", "state", [(state, counts.get(state, 0)) for state in _OF_JOBS])
    oldest = session.scalar(select(func.min(Job.created_at)).where(Job.state == State.QUEUED))
    age = 0.0 if oldest is None else max(0.0, (now() - oldest).total_seconds())
    text = "Seconds since the oldest job that waits for a worker was made; 0 if none waits."
    yield _gauge("fvlm_oldest_queued_job_age_seconds", text, age)


def _releases(session: Session, settings: Settings) -> Iterator[Metric]:
    found = standing(session, settings)
    family = GaugeMetricFamily(
        "fvlm_release_info", "1 for each release that the node knows.", labels=["digest", "name", "state"]
    )
    for row in found.releases:
        family.add_metric([row.digest, row.name, row.state], 1)
    yield family
    text = "Readings of the release that is in shadow now."
    yield _by("fvlm_shadow_readings", text, "state", found.shadow.items())


def _deliveries(session: Session, settings: Settings) -> Iterator[Metric]:
    is_open = (Delivery.sent_at.is_(None), Delivery.refused.is_(False), Job.state == State.ENCODED)
    joined = select(Delivery.destination, func.count()).join(Result, Delivery.result_id == Result.id).join(Job)
    counts = dict.fromkeys(settings.destinations, 0)
    counts.update(session.execute(joined.where(*is_open).group_by(Delivery.destination)).tuples().all())
    text = "Objects that have not arrived yet."
    yield _by("fvlm_deliveries_waiting", text, "destination", sorted(counts.items()))


def _messages(session: Session, settings: Settings) -> Iterator[Metric]:
    counts = dict.fromkeys(settings.messages.destinations, 0) | waiting(session)
    yield _by("fvlm_messages_waiting", "Messages that have not arrived yet.", "destination", sorted(counts.items()))


def _intake(session: Session) -> Iterator[Metric]:
    received = CounterMetricFamily(
        "fvlm_instances_received",
        "Instances taken into the spool and indexed, unreadable ones too; deleted ones still count.",
    )
    received.add_metric([], session.scalar(select(func.sum(SpoolSegment.row_count))) or 0)
    yield received
    refused = GaugeMetricFamily(
        "fvlm_refused",
        "What the database holds as not read or not delivered, by reason.",
        labels=["what", "reason"],
    )
    for what, query in _REFUSED.items():
        for reason, count in session.execute(query).tuples():
            refused.add_metric([what, str(reason or Reason.INTERNAL)], count)
    yield refused


_REFUSED: dict[str, Select[Any, int]] = {
    "instance": select(Unreadable.reason, func.count()).group_by(Unreadable.reason),
    "series": select(Series.reason, func.count()).where(Series.state == State.REJECTED).group_by(Series.reason),
    "job": select(Job.reason, func.count())
    .where(Job.state.in_((State.FAILED, State.QUARANTINED)))
    .group_by(Job.reason),
    "association": select(Knock.reason, func.sum(Knock.count)).group_by(Knock.reason),
    "delivery": select(Delivery.reason, func.count())
    .where(Delivery.refused, Delivery.sent_at.is_(None))
    .group_by(Delivery.reason),
    "message": select(Message.reason, func.count()).where(Message.refused).group_by(Message.reason),
}


def _gauge(name: str, text: str, value: float) -> GaugeMetricFamily:
    return GaugeMetricFamily(name, text, value=value)


def _by(name: str, text: str, label: str, values: Iterable[tuple[str, int]]) -> GaugeMetricFamily:
    family = GaugeMetricFamily(name, text, labels=[label])
    for value, count in values:
        family.add_metric([str(value)], count)
    return family
