"""A reading is compared with the patient's last one: the same patient, an earlier study, the same release."""

from collections.abc import Callable
from dataclasses import replace
from datetime import date, datetime
from pathlib import Path
from typing import Any

import pytest
from fake_pipeline import FakePipeline
from pydicom import Dataset
from rows import DIGEST, add_job, add_results, open_records, settings_for

from config import Settings
from dicom_sr.prior import Prior, Said
from fvlm.reading import Verdict
from node.archived_prior import ArchivedPrior
from node.database import Records
from node.jobs import Analyst
from node.priors import prior_of
from node.records import Job, ReportedFinding, Series
from node.states import State
from node.whose import Whose, whose

ANNA = "a" * 32


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return settings_for(tmp_path / "data", ("pacs", 104))


@pytest.fixture
def records(settings: Settings) -> Records:
    return open_records(settings)


def _read(
    records: Records,
    settings: Settings,
    study: str,
    at: str,
    patient: str = ANNA,
    state: State = State.SENT,
    digest: str = DIGEST,
) -> int:
    """A job that read one finding of a patient's study."""
    job_id = add_job(records, f"{study}.1", state, digest)
    add_results(records, settings, job_id)
    with records.session() as session:
        job = session.get_one(Job, job_id)
        job.patient, job.studied_at = patient, at
        session.get_one(Series, job.series_id).study_instance_uid = study
        told = ReportedFinding(
            job_id=job_id, finding="lung.nodule", tracking_uid="2.25.5", probability=0.25, verdict=Verdict.ABSENT.value
        )
        session.add(told)
    return job_id


def _prior(records: Records, at: str = "20260301080000", patient: str = ANNA) -> Prior | None:
    """With what a new job of the study 2.25.99 is compared."""
    job_id = add_job(records, "2.25.99.2")
    with records.session() as session:
        job = session.get_one(Job, job_id)
        session.get_one(Series, job.series_id).study_instance_uid = "2.25.99"
        session.flush()
        return prior_of(session, job, Whose(patient, at))


def test_the_last_study_before_it_is_chosen_whatever_the_order_of_reading(records: Records, settings: Settings) -> None:
    chosen = _read(records, settings, "2.25.12", "20260115120000")
    _read(records, settings, "2.25.11", "20251103120000")
    _read(records, settings, "2.25.13", "20260302120000")
    assert _prior(records) == Prior(date(2026, 1, 15), f"2.25.{chosen}1", {"lung.nodule": Said(0.25, Verdict.ABSENT)})


@pytest.mark.parametrize(
    "other",
    [
        {"patient": "b" * 32},
        {"state": State.FAILED},
        {"state": State.ENCODED},
        {"digest": "f" * 64},
        {"study": "2.25.99"},
        {"at": "20260301080000"},
    ],
)
def test_another_patient_release_or_study_and_what_was_not_sent_is_no_prior(
    records: Records, settings: Settings, other: dict[str, Any]
) -> None:
    _read(records, settings, **{"study": "2.25.11", "at": "20251103120000", **other})
    assert _prior(records) is None


def test_what_an_archive_gave_counts_for_the_same_patient_and_release_and_if_it_is_newer(
    records: Records, settings: Settings
) -> None:
    own = _read(records, settings, "2.25.12", "20260115120000")
    right = ArchivedPrior(DIGEST, ANNA, "20260201080000", "2.25.400", {"lung.nodule": [0.5, "undetermined"]})
    chosen = {}
    for number, archived in enumerate(
        (
            right,
            replace(right, release="f" * 64),
            replace(right, patient="b" * 32),
            replace(right, studied_at="20260301080000"),
            replace(right, studied_at="20251231080000"),
        )
    ):
        job_id = add_job(records, f"2.25.99.{number}")
        with records.session() as session:
            job = session.get_one(Job, job_id)
            job.archived_prior = archived.kept()
            session.get_one(Series, job.series_id).study_instance_uid = "2.25.99"
            session.flush()
            prior = prior_of(session, job, Whose(ANNA, "20260301080000"))
        assert prior is not None
        chosen[number] = prior.report_uid
    assert chosen == {0: "2.25.400"} | dict.fromkeys(range(1, 5), f"2.25.{own}1")


def test_the_choice_is_kept(records: Records, settings: Settings) -> None:
    first = _read(records, settings, "2.25.11", "20251103120000")
    job_id = add_job(records, "2.25.99.1")
    study = Whose(ANNA, "20260301080000")
    with records.session() as session:
        assert prior_of(session, session.get_one(Job, job_id), study) is not None
    _read(records, settings, "2.25.12", "20260115120000")
    with records.session() as session:
        again = prior_of(session, session.get_one(Job, job_id), study)
    assert again is not None
    assert again.report_uid == f"2.25.{first}1"


class Listening(FakePipeline):
    prior: Prior | None = None

    def run(self, _: Any, images_at: datetime, on_stage: Callable[[str], None] | None = None, *more: Any) -> Any:
        self.prior = more[1]
        return super().run(_, images_at, on_stage)


def test_the_pipeline_is_told(records: Records, settings: Settings) -> None:
    _read(records, settings, "2.25.11", "20251103120000")
    pipeline = Listening(settings)
    (pipeline.control / "whose").write_text(f"{ANNA} 20260301080000")
    Analyst(records, settings, pipeline, "w").analyze(add_job(records, "2.25.99.1"))  # type: ignore[arg-type]
    assert pipeline.prior is not None
    assert pipeline.prior.studied_on == date(2025, 11, 3)


def _header(**changes: str) -> Dataset:
    header = Dataset()
    values = {
        "PatientID": "P-17", "PatientBirthDate": "19500220", "PatientSex": "F", "IssuerOfPatientID": "HOSPITAL",
        "StudyDate": "20260301", "StudyTime": "081500.25", **changes,
    }  # fmt: skip
    for keyword, value in values.items():
        setattr(header, keyword, value)
    return header


def test_a_patient_is_known_by_more_than_the_number_and_by_no_name(tmp_path: Path) -> None:
    one = whose(_header(), tmp_path)
    assert one is not None
    assert one.studied_at == "20260301081500"
    assert one == whose(_header(PatientName="Another^Name"), tmp_path)
    for changed in ("PatientID", "IssuerOfPatientID", "PatientBirthDate", "PatientSex"):
        other = whose(_header(**{changed: "19510101"}), tmp_path)
        assert other is not None
        assert other.patient != one.patient
    (tmp_path / "elsewhere").mkdir()
    elsewhere = whose(_header(), tmp_path / "elsewhere")
    assert elsewhere is not None
    assert elsewhere.patient != one.patient, "the hash has a key of this node"


@pytest.mark.parametrize("changes", [{"PatientID": ""}, {"StudyDate": ""}, {"StudyDate": "20261301"}])
def test_who_is_not_known_is_compared_with_nobody(tmp_path: Path, changes: dict[str, str]) -> None:
    assert whose(_header(**changes), tmp_path) is None
