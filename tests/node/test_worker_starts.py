"""A release that is not what it says is refused at the worker's start, and `status` says so until it is mended."""

from pathlib import Path

import pytest
from rows import open_records, settings_for
from structlog.testing import capture_logs
from tiny_release import make_release

from config import Reason, Settings
from config.settings import ModelSettings
from node.database import Records
from node.status import problems
from node.worker import run_analyze
from node.worker_starts import failed_starts, note_start


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    release = tmp_path / "model" / "release"
    make_release(release)
    return settings_for(tmp_path / "data", model=ModelSettings(release=str(release), device="cpu"))


@pytest.fixture(autouse=True)
def records(settings: Settings) -> Records:
    return open_records(settings)


def _shown(settings: Settings) -> list[str]:
    return [line for line in problems(settings) if line.startswith("Worker ")]


def _flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


@pytest.mark.parametrize("name", ["model.safetensors", "findings.json", "config.json", "SHA256SUMS"])
def test_a_release_that_was_changed_is_refused_and_seen(settings: Settings, name: str) -> None:
    _flip(Path(settings.model.release) / name)
    with capture_logs() as logs:
        assert run_analyze(settings, "host:data:analyze") == 3
    (told,) = [line for line in logs if line["event"] == "model_unavailable"]
    assert told["reason"] == Reason.MODEL_UNAVAILABLE
    assert not any(line["event"] == "model_loaded" for line in logs)
    (line,) = _shown(settings)
    assert "MODEL_UNAVAILABLE" in line
    assert settings.model.release in line
    assert "host:data:analyze" in line


def test_a_release_that_is_not_there_is_seen(tmp_path: Path) -> None:
    settings = settings_for(tmp_path / "data", model=ModelSettings(release=str(tmp_path / "none")))
    open_records(settings)
    assert run_analyze(settings, "w") == 3
    assert "No such file" in _shown(settings)[0]


def test_a_start_that_goes_well_ends_the_complaint(settings: Settings, records: Records) -> None:
    note_start(records, "one", Reason.MODEL_UNAVAILABLE, "changed")
    note_start(records, "two", Reason.MODEL_UNAVAILABLE, "changed")
    note_start(records, "one")
    with records.reading() as session:
        assert [row.worker for row in failed_starts(session)] == ["two"]
    assert len(_shown(settings)) == 1
