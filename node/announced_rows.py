"""Announcements (MPPS, IAN) in SQL: what is kept of them, and what they say about the series that are coming in."""

from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass, field
from datetime import timedelta

from sqlalchemy import delete, select
from sqlalchemy.orm import Session, undefer

from node.announced import Kind
from node.announced_files import KEPT_S, Announcement
from node.commitment_rows import chunks
from node.records import AnnouncedSeries, Signal, now

_SIGNALS = {Kind.MPPS: Signal.MPPS, Kind.IAN: Signal.IAN}
"""Best first."""


@dataclass
class Announced:
    """What was announced of the series that are coming in, by Series Instance UID."""

    complete: dict[str, Signal] = field(default_factory=dict)
    """Every image that came was named, and every image that was named came."""
    expected: dict[str, int] = field(default_factory=dict)
    """Images that the series has, where some were named that did not come."""


def take(session: Session, announcement: Announcement) -> None:
    """Write an announcement down. One that was taken before stays as it is."""
    rows = session.scalars(select(AnnouncedSeries.series_instance_uid).filter_by(token=announcement.token)).all()
    if not rows:
        session.add_all(
            AnnouncedSeries(
                token=announcement.token,
                kind=announcement.kind,
                calling_ae=announcement.calling_ae,
                series_instance_uid=uid,
                discontinued=announcement.discontinued,
                received_at=announcement.received_at,
                images=list(named.images),
                away=list(named.away),
            )
            for uid, named in announcement.series.items()
        )
    session.execute(delete(AnnouncedSeries).where(AnnouncedSeries.received_at < now() - timedelta(seconds=KEPT_S)))


def named(session: Session, series_uids: Iterable[str]) -> dict[tuple[Signal, str], set[str]]:
    """The images that are said to exist, by signal and Series Instance UID. Of an image the newest word counts."""
    found: dict[tuple[Signal, str], set[str]] = {}
    for some in chunks(series_uids):
        query = select(AnnouncedSeries).where(
            AnnouncedSeries.series_instance_uid.in_(some), ~AnnouncedSeries.discontinued
        )
        loaded = query.options(undefer(AnnouncedSeries.images), undefer(AnnouncedSeries.away))
        for row in session.scalars(loaded.order_by(AnnouncedSeries.received_at, AnnouncedSeries.id)):
            images = found.setdefault((_SIGNALS[Kind(row.kind)], row.series_instance_uid), set())
            images.difference_update(row.away)
            images.update(row.images)
    return found


def weigh(named: Mapping[tuple[Signal, str], Set[str]], came: Mapping[str, Set[str]]) -> Announced:
    """What `named` images say of series. `came`: Series Instance UID -> SOP Instance UIDs that are there."""
    told = Announced()
    for signal in _SIGNALS.values():
        for (_, uid), images in ((key, value) for key, value in named.items() if key[0] == signal):
            there = came.get(uid, frozenset())
            if images and images == there:
                told.complete.setdefault(uid, signal)
            elif images - there:
                told.expected[uid] = max(len(images | there), told.expected.get(uid, 0))
    return told


def discontinued(session: Session, series_uids: Iterable[str]) -> set[str]:
    """Of these series, those whose performed procedure step was discontinued."""
    found: set[str] = set()
    for some in chunks(series_uids):
        query = select(AnnouncedSeries.series_instance_uid).where(
            AnnouncedSeries.series_instance_uid.in_(some), AnnouncedSeries.discontinued
        )
        found |= set(session.scalars(query))
    return found
