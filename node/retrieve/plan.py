"""What has to be fetched of a study, whichever way, and what became of it."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from config import Reason
from node.database import Records
from node.kept import kept
from node.manifest import announce

Progress = Callable[[int, int], None]
"""Called with the images that are there, and all there are."""


class RetrieveError(Exception):
    """The archive does not give the study. The text says why and names no patient."""

    def __init__(self, detail: str, reason: Reason = Reason.PEER_UNREACHABLE) -> None:
        super().__init__(detail)
        self.reason = reason


@dataclass(frozen=True)
class WantedSeries:
    """A CT series of the archive, and what of it is not in the spool."""

    uid: str
    images: frozenset[str]
    missing: frozenset[str]
    """SOP Instance UIDs."""


@dataclass
class Retrieved:
    """What became of a study."""

    series: int = 0
    images: int = 0
    """All of them."""
    known: int = 0
    """Images that were in the spool before."""
    fetched: int = 0
    others: set[str] = field(default_factory=set)
    """Series of the study that are no CT."""
    problems: list[str] = field(default_factory=list)
    """A line each."""


def plan(
    records: Records, spool_dir: Path, source: str, ae_title: str, series: Iterable[tuple[str, Iterable[str]]]
) -> list[WantedSeries]:
    """`series`: Series Instance UID and its SOP Instance UIDs. Announces each, so that it is closed when it is there.

    Raises OSError, sqlalchemy.exc.DBAPIError.
    """
    wanted = []
    for uid, images in series:
        all_of_it = frozenset(images)
        if not all_of_it:
            continue
        announce(spool_dir, source, ae_title, uid, all_of_it)
        with records.reading() as session:
            there = kept(session, spool_dir, all_of_it)
        wanted.append(WantedSeries(uid, all_of_it, all_of_it - there))
    return wanted


def counted(wanted: Iterable[WantedSeries]) -> Retrieved:
    """To begin with: nothing is fetched yet."""
    found = Retrieved()
    for series in wanted:
        found.series += 1
        found.images += len(series.images)
        found.known += len(series.images) - len(series.missing)
    return found
