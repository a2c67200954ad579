"""A report names the delivered one that it takes the place of: of an older generation, or of another release."""

from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from fake_pipeline import FakePipeline
from rows import DIGEST, add_job, add_results, open_records, settings_for

from config import Settings
from dicom_sr.identity import Predecessor
from node.database import Records
from node.jobs import Analyst
from node.predecessors import delivered_before
from node.records import Delivery, Job, Result, now
from node.states import State

COMPREHENSIVE_3D_SR = "1.2.840.10008.5.1.4.1.1.88.34"


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return settings_for(tmp_path / "data", ("pacs", 104))


@pytest.fixture
def records(settings: Settings) -> Records:
    return open_records(settings)


def _read(
    records: Records,
    settings: Settings,
    *stored: str,
    uid: str = "2.25.1",
    digest: str = DIGEST,
    generation: int = 1,
) -> int:
    """A job that was read; of its kinds of results, `stored` were stored at the destination."""
    job_id = add_job(records, uid, State.ENCODED, digest, generation)
    with records.session() as session:
        for delivery in [session.get_one(Delivery, one) for one in add_results(records, settings, job_id)]:
            delivery.sent_at = now() if session.get_one(Result, delivery.result_id).kind in stored else None
    return job_id


def _named(records: Records, job_id: int) -> Predecessor | None:
    with records.reading() as session:
        return delivered_before(session, session.get_one(Job, job_id))


def _report_of(job_id: int) -> Predecessor:
    return Predecessor(f"2.25.{job_id}10", f"2.25.{job_id}1", COMPREHENSIVE_3D_SR)


def test_the_last_delivered_report_is_named(records: Records, settings: Settings) -> None:
    _read(records, settings, "SR", "SEG")
    second = _read(records, settings, "SR", "SEG", generation=2)
    third = add_job(records, generation=3)
    assert _named(records, third) == _report_of(second)


def test_the_report_of_another_release_on_the_same_series_is_named(records: Records, settings: Settings) -> None:
    first = _read(records, settings, "SR")
    again = add_job(records, digest="f" * 64, generation=2)
    assert _named(records, again) == _report_of(first)


def test_what_was_not_delivered_is_of_another_series_or_came_later_is_not_named(
    records: Records, settings: Settings
) -> None:
    first = _read(records, settings)
    _read(records, settings, "SEG", generation=2)
    _read(records, settings, "SR", uid="2.25.2")
    third = add_job(records, generation=3)
    _read(records, settings, "SR", generation=4)
    assert _named(records, first) is None
    assert _named(records, third) is None


class _Listening(FakePipeline):
    former: Predecessor | None = None

    def run(
        self, _: Any, images_at: datetime, on_stage: Callable[[str], None] | None = None, former: Any = None, *__: Any
    ) -> Any:
        self.former = former
        return super().run(_, images_at, on_stage)


def test_the_pipeline_is_told(records: Records, settings: Settings) -> None:
    first = _read(records, settings, "SR")
    pipeline = _Listening(settings)
    second = add_job(records, generation=2)
    Analyst(records, settings, pipeline, "w").analyze(second)  # type: ignore[arg-type]
    assert pipeline.former == _report_of(first)
    with records.reading() as session:
        kept = {result.kind: result.series_instance_uid for result in session.get_one(Job, second).results}
    assert kept == {"SEG": "2.25.710", "SR": "2.25.810"}
