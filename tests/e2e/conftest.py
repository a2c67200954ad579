"""Small CT series and real peers."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from peers import MakeSeries, Orthanc, Redis

from ct.phantom import PhantomPatient, write_series

SPACING, SHAPE = (10.0, 3.2, 3.2), (62, 128, 128)
"""Coarse enough to be quick, fine enough for organs to be found."""


@pytest.fixture(scope="session")
def make_series(tmp_path_factory: pytest.TempPathFactory) -> MakeSeries:
    """Writes the series of one phantom patient into a folder of its own (or into `folder`)."""

    def make(seed: int = 5, folder: Path | None = None, diseases: tuple[str, ...] = ("lung.pleural_effusion",)) -> Path:
        target = folder or tmp_path_factory.mktemp("phantom") / "ct"
        write_series(PhantomPatient.draw(seed, diseases), target, spacing=SPACING, shape=SHAPE)
        return target

    return make


@pytest.fixture
def orthanc(tmp_path: Path) -> Iterator[Orthanc]:
    with Orthanc(tmp_path / "orthanc") as server:
        yield server


@pytest.fixture
def redis_server(tmp_path: Path) -> Iterator[Redis]:
    with Redis(tmp_path / "redis") as server:
        yield server
