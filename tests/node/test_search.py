"""Prompts against stored features: the bundled model on small phantoms, through the commands as a person types them."""

import math
import re
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from rows import DIGEST, add_job, open_records
from sqlalchemy import func, select, update

from config import Settings
from ct.phantom import PhantomPatient, write_series
from ct.volume import SourceSlice
from fvlm.reading import AnatomyReading, NotAssessed, Reading
from node import cli, embeddings
from node.database import Records
from node.pipeline import Pipeline
from node.records import Embedding, Job, Series, now
from node.release import release_digest
from node.states import State

pytestmark = pytest.mark.timeout(600)

STUDIES = {"2.25.31": ("lung.pleural_effusion",), "2.25.32": ()}
Ask = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def readings(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Reading]:
    """What the bundled model says about each study."""
    pipeline = Pipeline.from_settings(Settings())
    found = {}
    for seed, (study, diseases) in enumerate(STUDIES.items(), start=5):
        folder = tmp_path_factory.mktemp("ct")
        write_series(PhantomPatient.draw(seed, diseases), folder, spacing=(10.0, 3.2, 3.2), shape=(62, 128, 128))
        vetted = pipeline.vet([SourceSlice("", path) for path in sorted(folder.rglob("*.dcm"))])
        found[study] = pipeline.run(vetted, now()).reading
    return found


def keep(records: Records, study: str, series: str, reading: Reading, digest: str, generation: int = 1) -> None:
    """The rows that a worker leaves behind of a reading."""
    job_id = add_job(records, series, State.SENT, digest, generation)
    with records.session() as session:
        job = session.get_one(Job, job_id)
        job.series.study_instance_uid = study
        embeddings.store(session, job, reading)


@pytest.fixture
def records(tmp_path: Path, readings: dict[str, Reading]) -> Records:
    """A node that has read both studies, and one more with another release."""
    records = open_records(Settings(data_dir=tmp_path))
    for study, reading in readings.items():
        keep(records, study, f"{study}.1", reading, release_digest("bundled"))
    keep(records, "2.25.40", "2.25.40.1", readings["2.25.31"], DIGEST)
    return records


@pytest.fixture
def ask(tmp_path: Path, records: Records, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Ask:
    """Runs a command on that node: status, output, errors."""
    assert records
    config = tmp_path / "node.yaml"
    config.write_text(f"data_dir: {tmp_path}\n")

    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setenv("COLUMNS", "220")
        monkeypatch.setattr(sys, "argv", ["fvlm-node", *arguments, "--config", str(config)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            cli.main()
        told = capsys.readouterr()
        return int(ended.value.code or 0), told.out, told.err

    return run


def rows(output: str) -> list[tuple[str, str, float]]:
    """Study, series and percent of each row of the table."""
    return [(m[1], m[2], float(m[3])) for m in re.finditer(r"(2\.25[\d.]+) +│ (2\.25[\d.]+) +│ +([\d.]+) %", output)]


def percent(reading: Reading, key: str) -> float:
    """The uncalibrated probability of a finding of the release: its heat adds up to the log-odds."""
    heat = next(f.heat for a in reading.anatomies for f in a.findings if f.key == key)
    assert heat is not None
    return 100 / (1 + math.exp(-float(np.nansum(heat.values.astype(float)))))


def test_search_ranks_every_study_as_the_pixels_would(ask: Ask, readings: dict[str, Reading]) -> None:
    status, output, _ = ask("search", "pleural effusion", "--anatomy", "lung")
    assert status == 0
    assert "'Pleural effusion.' against 'No pleural effusion.'" in output
    assert "TEST MODEL - NOT FOR CLINICAL USE" in output
    expected = {study: percent(reading, "lung.pleural_effusion") for study, reading in readings.items()}
    ranked = sorted(expected, key=lambda study: -expected[study])
    assert [row[:2] for row in rows(output)] == [(study, f"{study}.1") for study in ranked]
    assert [row[2] for row in rows(output)] == pytest.approx([expected[study] for study in ranked], abs=1.0)
    assert len(rows(ask("search", "pleural effusion", "--anatomy", "lung", "--top", "1")[1])) == 1


def test_a_prompt_is_tried_on_one_study_with_either_negative(ask: Ask, readings: dict[str, Reading]) -> None:
    arguments = ("findings", "try", "Cardiomegaly.", "--anatomy", "heart", "--study", "2.25.32")
    status, output, _ = ask(*arguments, "--negative", "The heart is of normal size.")
    assert status == 0
    (row,) = rows(output)
    assert row[:2] == ("2.25.32", "2.25.32.1")
    assert row[2] == pytest.approx(percent(readings["2.25.32"], "heart.cardiomegaly"), abs=1.0)
    status, output, _ = ask(*arguments)
    assert status == 0
    assert "'Cardiomegaly.' against 'No cardiomegaly.'" in output
    assert rows(output)[0][2] != row[2]


def test_words_that_the_release_never_learned_are_told(ask: Ask) -> None:
    status, output, _ = ask("findings", "try", "Honeycombing.", "--anatomy", "lung", "--study", "2.25.31")
    assert status == 0
    assert "never learned: honeycombing." in output
    assert "never learned" not in ask("search", "pleural effusion", "--anatomy", "lung")[1]


@pytest.mark.parametrize(
    ("arguments", "cause", "cure"),
    [
        (("search", "Cyst.", "--anatomy", "brain"), "no 'brain'", "Choose one of: lung, heart"),
        (("search", " . ", "--anatomy", "lung"), "prompt is empty", "For example"),
        (("findings", "try", "Cyst.", "--anatomy", "liver", "--study", "1.2.3"), "knows no study 1.2.3", "search"),
        (
            ("findings", "try", "Cyst.", "--anatomy", "lung", "--study", "2.25.40"),
            "read with another release (dddddddddddd)",
            "send the study again",
        ),
    ],
)
def test_what_cannot_be_asked_is_one_line(ask: Ask, arguments: tuple[str, ...], cause: str, cure: str) -> None:
    status, _, told = ask(*arguments)
    assert status == 2
    assert told.startswith("Problem: ")
    assert told.count("\n") == 1
    assert cause in told
    assert cure in told.split(" → ")[1]


def test_not_assessed_and_not_stored_are_told_apart(ask: Ask, records: Records, readings: dict[str, Reading]) -> None:
    whole = readings["2.25.31"]
    lost = tuple(NotAssessed(a.anatomy, "ANATOMY_ABSENT") for a in whole.anatomies if a.anatomy == "lung")  # type: ignore[arg-type]
    part = replace(whole, anatomies=tuple(a for a in whole.anatomies if a.anatomy != "lung"), not_assessed=lost)
    keep(records, "2.25.50", "2.25.50.1", part, release_digest("bundled"))
    keep(records, "2.25.60", "2.25.60.1", replace(whole, anatomies=()), release_digest("bundled"))
    lung = ("findings", "try", "Nodule.", "--anatomy", "lung", "--study")
    assert "was not assessed" in ask(*lung, "2.25.50")[2]
    assert "before the node kept features" in ask(*lung, "2.25.60")[2]
    assert ask("findings", "try", "Nodule.", "--anatomy", "heart", "--study", "2.25.50")[0] == 0


def reading_of(model: Reading, value: float) -> Reading:
    lung = AnatomyReading("lung", 1.0, -800.0, (), np.array([value, 0.5], np.float16))
    return replace(model, anatomies=(lung,), not_assessed=())


def test_features_come_back_and_only_of_the_newest_generation(tmp_path: Path, readings: dict[str, Reading]) -> None:
    records, model = open_records(Settings(data_dir=tmp_path)), readings["2.25.31"]
    keep(records, "2.25.1", "2.25.1.1", reading_of(model, 0.25), DIGEST)
    keep(records, "2.25.1", "2.25.1.2", reading_of(model, 0.75), DIGEST)
    keep(records, "2.25.2", "2.25.2.1", reading_of(model, 0.125), DIGEST, generation=2)
    keep(records, "2.25.2", "2.25.2.1", reading_of(model, 1.0), DIGEST, generation=1)
    keep(records, "2.25.3", "2.25.3.1", reading_of(model, 1.0), "e" * 64)
    with records.reading() as session:
        stored = embeddings.load(session, DIGEST, "lung")
        assert dict(zip(stored.series, stored.features.tolist(), strict=True)) == {
            ("2.25.1", "2.25.1.1"): [0.25, 0.5],
            ("2.25.1", "2.25.1.2"): [0.75, 0.5],
            ("2.25.2", "2.25.2.1"): [0.125, 0.5],
        }
        assert embeddings.load(session, DIGEST, "lung", "2.25.2").features.tolist() == [[0.125, 0.5]]
        assert embeddings.load(session, DIGEST, "heart").series == ()
        assert embeddings.releases_of(session, "2.25.3") == {"e" * 64}
        assert embeddings.releases_of(session, "2.25.4") is None


def test_another_attempt_replaces_the_features(tmp_path: Path, readings: dict[str, Reading]) -> None:
    records, model = open_records(Settings(data_dir=tmp_path)), readings["2.25.31"]
    keep(records, "2.25.1", "2.25.1.1", model, DIGEST)
    with records.session() as session:
        job = session.scalars(select(Job)).one()
        embeddings.store(session, job, reading_of(model, 0.25))
    with records.session() as session:
        assert session.scalar(select(func.count()).select_from(Embedding)) == 1
        assert embeddings.load(session, DIGEST, "lung").features.tolist() == [[0.25, 0.5]]
        session.execute(update(Series).values(study_instance_uid="2.25.9"))
        assert embeddings.load(session, DIGEST, "lung").series == (("2.25.9", "2.25.1.1"),)
