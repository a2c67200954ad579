"""A node's bench whose settings name routing rules, and series to try them on."""

from datetime import timedelta
from pathlib import Path
from typing import Any

from pydicom import Dataset
from rows import DIGEST, settings_for
from spool_data import Bench, ct_slice
from sqlalchemy import select

from node.completion import complete_due
from node.records import Job, Series, now
from node.routing import route
from node.rules.book import open_rulebook
from node.rules.judge import Judge

LATER = timedelta(seconds=60)
SECRET_DESCRIPTION = "Thorax PLANTED^DESCRIPTION"


class Clock:
    """Seconds that only a test lets pass."""

    def __init__(self) -> None:
        self.at = 100.0

    def __call__(self) -> float:
        return self.at


class Ruled(Bench):
    """A bench whose settings name rules."""

    def __init__(self, folder: Path, rules: str, **destinations: int) -> None:
        super().__init__(folder)
        self.file = folder / "routing.yaml"
        self.clock = Clock()
        peers = settings_for(folder, *destinations.items())
        self.settings = self.settings.model_copy(
            update={
                "destinations": peers.destinations,
                "routing": peers.routing.model_copy(update={"rules": self.file}),
            }
        )
        self.rewrite(rules)

    def rewrite(self, rules: str) -> None:
        """Other rules, as after a restart."""
        self.file.write_text(rules)
        book = open_rulebook(self.settings)
        assert book is not None
        self.book, self.judge = book, Judge(book, self.settings, self.clock)

    def close(self) -> None:
        """Close and vet all that came."""
        complete_due(self.records, self.settings, now() + LATER)

    def route(self) -> list[int]:
        return route(self.records, DIGEST, judge=self.judge, destinations=self.settings.routing.destinations)

    def series(self) -> list[tuple[str, str, str | None]]:
        """Number of each series with its generation, state, reason; oldest first."""
        with self.records.reading() as session:
            rows = session.scalars(select(Series).order_by(Series.id))
            return [(f"{s.series_instance_uid.rsplit('.', 1)[1]}/{s.generation}", s.state, s.reason) for s in rows]

    def jobs(self) -> list[Job]:
        with self.records.reading() as session:
            return list(session.scalars(select(Job).order_by(Job.id)))


def stack(series: int = 1, study: int = 1, slices: int = 24, first: int = 1, **values: Any) -> list[Dataset]:
    """A series with these attributes; `step` mm apart and as thick as that."""
    step = values.pop("step", 2.0)
    found = []
    for n in range(first, first + slices):
        dataset = ct_slice(series=series, number=n, study=study)
        dataset.ImagePositionPatient = [-100.0, -100.0, step * n]
        dataset.SliceThickness = step
        dataset.SeriesDescription = SECRET_DESCRIPTION
        for keyword, value in values.items():
            setattr(dataset, keyword, value)
        found.append(dataset)
    return found
