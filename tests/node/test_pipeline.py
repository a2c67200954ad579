"""The pipeline with a release of random weights: what it makes of a series, and of everything that goes wrong."""

import shutil
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
import torch
from pydicom import Dataset, dcmread
from pynetdicom import AE
from pynetdicom.sop_class import CTImageStorage
from rows import archive, job, open_records, settings_for
from running import Processes, running_broker, wait_for
from spool_data import Bench
from sqlalchemy import select
from structlog.testing import capture_logs
from tiny_release import ThresholdSegmenter, load_pipeline, make_release, text_cache

from config import Plan, Preset, Prompt, Reason, Settings
from config.settings import CompletionSettings, DicomSettings, ModelSettings, RoutingSettings, WorkSettings
from ct.phantom import PhantomPatient, write_series
from ct.volume import SourceSlice
from dicom_sr import output_of, writer
from dicom_sr.validate import validate_set
from node import pipeline as module
from node.analysis import STAGES, PipelineError, Wanted
from node.children import free_port, listens
from node.completion import complete_due
from node.jobs import Analyst
from node.pipeline import Pipeline
from node.records import Job, Series, now
from node.release import release_digest
from node.releases.shadow_worker import told
from node.routing import route
from node.states import State
from node.worker import frugal_settings

CAME = datetime(2026, 3, 1, 9, 30, 15, 250000, UTC)


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model") / "release"
    make_release(folder)
    return folder


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("series")
    write_series(PhantomPatient.draw(3, ()), folder, spacing=(10.0, 6.0, 6.0), shape=(60, 64, 64))
    return sorted(folder.rglob("*.dcm"))


@pytest.fixture
def pipeline(release: Path, tmp_path: Path) -> Pipeline:
    return load_pipeline(Settings(data_dir=tmp_path, model=ModelSettings(release=str(release)), institution="Site 7"))


def _slices(files: list[Path]) -> list[SourceSlice]:
    return [SourceSlice("", path) for path in files]


def test_a_series_becomes_a_seg_and_an_sr(pipeline: Pipeline, files: list[Path], release: Path) -> None:
    stages: list[str] = []
    analysis = pipeline.run(pipeline.vet(_slices(files)), CAME, stages.append)
    assert tuple(stages) == STAGES == tuple(analysis.seconds)
    assert [output_of(d) for d in analysis.objects] == ["SEG", "SC", "TEXT", "SR"]
    source = dcmread(files[0])
    for made in analysis.objects:
        assert made.PatientID == source.PatientID
        assert made.StudyInstanceUID == source.StudyInstanceUID
        assert made.InstitutionName == "Site 7"
    assert [each.anatomy for each in analysis.reading.anatomies] == ["lung"]
    assert {each.anatomy: each.reason for each in analysis.reading.not_assessed} == {
        "heart": Reason.ANATOMY_ABSENT,
        "aorta": Reason.ANATOMY_ABSENT,
    }
    assert pipeline.release_digest == release_digest(str(release)) == analysis.reading.model.digest


def test_what_is_wanted_is_asked_once_the_series_is_segmented(pipeline: Pipeline, files: list[Path]) -> None:
    vetted, asked = pipeline.vet(_slices(files)), list[Sequence[str]]()

    def ask(anatomies: Sequence[str]) -> Wanted:
        asked.append(anatomies)
        return Wanted(Plan(), "phantom")

    everything, cut = pipeline.run(vetted, CAME), pipeline.run(vetted, CAME, ask=ask)
    assert asked == [("lung",)]
    assert [output_of(d) for d in cut.objects] == ["SEG", "SR"]
    assert {each.anatomy: each.reason for each in cut.reading.not_assessed} == {
        "heart": Reason.ANATOMY_ABSENT,
        "aorta": Reason.NOT_ASKED,
    }
    assert "NOT_ASKED" in str(cut.objects[-1])
    assert not {d.SOPInstanceUID for d in everything.objects} & {d.SOPInstanceUID for d in cut.objects}
    nothing = Preset(
        name="none", anatomies=("liver",), prompts=(Prompt(finding="liver.cyst", negative="n", positive="p"),)
    )
    with pytest.raises(ValueError, match="no finding of the preset none"):
        everything.reading.only(nothing)
    with pytest.raises(PipelineError) as raised:
        pipeline.run(vetted, CAME, ask=lambda _: Wanted(Plan(), "no such"))
    assert raised.value.reason is Reason.PRESET_UNFIT


def test_read_alone_says_the_same_and_makes_no_object(pipeline: Pipeline, files: list[Path]) -> None:
    vetted = pipeline.vet(_slices(files))
    reading, seconds = pipeline.read(vetted)
    assert told(reading, seconds) | {"seconds": {}} == told(pipeline.run(vetted, CAME).reading, {})
    assert tuple(seconds) == STAGES[:3]


def test_two_releases_in_a_worker_share_the_segmenter(release: Path, tmp_path: Path) -> None:
    model = ModelSettings(release=str(release), cache_dir=text_cache(release))
    one, other = (Pipeline.from_settings(Settings(data_dir=tmp_path, model=model)) for _ in range(2))
    frugal = Settings(data_dir=tmp_path, model=model.model_copy(update={"frugal": True}))
    assert one.segmenter is other.segmenter
    assert Pipeline.from_settings(frugal).segmenter is not one.segmenter


def _bytes(dataset: Dataset) -> bytes:
    stream = BytesIO()
    dataset.save_as(stream)
    return stream.getvalue()


def test_the_same_series_gives_the_same_bytes_and_images_that_came_later_give_other_objects(
    pipeline: Pipeline, files: list[Path]
) -> None:
    vetted = pipeline.vet(_slices(files))
    first, again, later = (pipeline.run(vetted, at).objects for at in (CAME, CAME, CAME + timedelta(seconds=1)))
    assert [_bytes(d) for d in first] == [_bytes(d) for d in again]
    assert not {d.SOPInstanceUID for d in first} & {d.SOPInstanceUID for d in later}
    assert {(d.ContentDate, d.ContentTime, d.TimezoneOffsetFromUTC) for d in first} == {
        ("20260301", "093015.250000", "+0000")
    }


def test_after_the_loss_of_the_database_a_late_generation_is_written_byte_for_byte_again(
    pipeline: Pipeline, files: list[Path], tmp_path: Path
) -> None:
    bench = Bench(tmp_path / "node")
    images = sorted(map(dcmread, files), key=lambda image: image.ImagePositionPatient[2])

    def read_again() -> list[bytes]:
        bench.indexer.catch_up()
        complete_due(bench.records, bench.settings, now() + timedelta(seconds=60))
        (job_id,) = route(bench.records, pipeline.release_digest)
        Analyst(bench.records, bench.settings, pipeline, "w").analyze(job_id)
        assert job(bench.records, job_id).state == State.SENT
        return [path.read_bytes() for path in sorted(bench.settings.results_dir.glob(f"*{job_id}/*.dcm"))]

    bench.receive(*images[:50])
    first = read_again()
    bench.receive(*images[50:], images[0])
    second = read_again()
    assert len(first) == len(second) == 4
    assert not set(first) & set(second)
    shutil.rmtree(bench.settings.results_dir)
    bench.lose_database()
    assert read_again() == second
    with bench.records.reading() as session:
        assert [series.generation for series in session.scalars(select(Series))] == [1]


def test_instances_are_read_out_of_a_journal(pipeline: Pipeline, files: list[Path], tmp_path: Path) -> None:
    journal, slices = tmp_path / "segment", []
    with journal.open("wb") as out:
        for path in files:
            out.write(b"record header")
            slices.append(SourceSlice("", journal, out.tell(), path.stat().st_size))
            out.write(path.read_bytes())
    made = pipeline.run(pipeline.vet(slices), CAME)
    assert (made.volume.hu == pipeline.run(pipeline.vet(_slices(files)), CAME).volume.hu).all()
    assert made.objects[0].PatientID == dcmread(files[0]).PatientID


def test_limits_of_the_settings_and_mixed_series_are_refused(
    pipeline: Pipeline, files: list[Path], tmp_path: Path, release: Path
) -> None:
    model, routing = ModelSettings(release=str(release)), RoutingSettings(min_slices=99)
    settings = Settings(data_dir=tmp_path, model=model, routing=routing)
    with pytest.raises(PipelineError) as few:
        Pipeline(pipeline.reader, lambda: pipeline.segmenter, settings).vet(_slices(files))
    assert few.value.reason is Reason.TOO_FEW_SLICES
    other = dcmread(files[0])
    other.SeriesInstanceUID = "2.25.1"
    other.save_as(tmp_path / "other.dcm")
    with pytest.raises(PipelineError) as mixed:
        pipeline.vet(_slices([*files, tmp_path / "other.dcm"]))
    assert mixed.value.reason is Reason.BAD_UID


def test_a_cut_file_is_told_by_its_reason(pipeline: Pipeline, files: list[Path], tmp_path: Path) -> None:
    cut = tmp_path / "cut.dcm"
    cut.write_bytes(files[5].read_bytes()[:-100])
    with pytest.raises(PipelineError) as error:
        pipeline.vet(_slices([*files[:5], cut, *files[6:]]))
    assert error.value.reason is Reason.TRUNCATED


def _raise(error: Exception) -> Callable[..., Any]:
    def fail(*_: object, **__: object) -> Any:
        raise error

    return fail


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (MemoryError(), Reason.OUT_OF_MEMORY),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"), Reason.OUT_OF_MEMORY),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"), Reason.OUT_OF_MEMORY),
        (torch.AcceleratorError("CUDA error: an illegal memory access was encountered"), Reason.DEVICE_ERROR),
        (RuntimeError("CUDA error: device-side assert triggered"), Reason.DEVICE_ERROR),
        (RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED"), Reason.DEVICE_ERROR),
        (KeyError("Planted^Patient"), Reason.INTERNAL),
    ],
)
def test_what_a_stage_raises_becomes_a_reason_that_quotes_nothing(
    pipeline: Pipeline, files: list[Path], monkeypatch: pytest.MonkeyPatch, error: Exception, reason: Reason
) -> None:
    monkeypatch.setattr(pipeline.segmenter, "segment", _raise(error))
    with capture_logs() as logs, pytest.raises(PipelineError) as raised:
        pipeline.run(pipeline.vet(_slices(files)), CAME)
    assert raised.value.reason is reason
    assert "segment" in raised.value.detail
    assert "Planted" not in str(raised.value) + str(logs)


def test_whoever_watches_the_stages_can_stop_the_run(pipeline: Pipeline, files: list[Path]) -> None:
    class StopError(Exception):
        pass

    with pytest.raises(StopError):
        pipeline.run(pipeline.vet(_slices(files)), CAME, _raise(StopError()))


def test_an_object_that_is_not_valid_is_never_given_out(
    pipeline: Pipeline, files: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    right = writer.write

    def spoiled(*arguments: Any, **options: Any) -> list[Dataset]:
        objects = right(*arguments, **options)
        objects[-1].CompletionFlag = "PLANTED"
        return objects

    monkeypatch.setattr(writer, "write", spoiled)
    with pytest.raises(PipelineError) as error:
        pipeline.run(pipeline.vet(_slices(files)), CAME)
    assert error.value.reason is Reason.INVALID_OBJECT
    assert error.value.detail.startswith("SR: ")
    assert "attribute <Completion Flag>" in error.value.detail
    assert "PLANTED" not in error.value.detail


def test_a_release_that_is_not_there_is_told_with_its_place(tmp_path: Path) -> None:
    with pytest.raises(PipelineError) as error:
        Pipeline.from_settings(Settings(data_dir=tmp_path, model=ModelSettings(release=str(tmp_path / "nowhere"))))
    assert error.value.reason is Reason.MODEL_UNAVAILABLE
    assert "nowhere" in error.value.detail


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_from_c_store_to_the_archive_through_every_process(tmp_path: Path, files: list[Path], release: Path) -> None:
    with archive(tmp_path / "pacs", "PACS") as pacs:
        settings = settings_for(
            tmp_path / "data",
            ("pacs", pacs.port),
            dicom=DicomSettings(port=free_port(), accept_from=("CT1",), min_free_mb=0),
            completion=CompletionSettings(quiet_s=5.0),
            model=ModelSettings(release=str(release)),
            work=WorkSettings(reconcile_s=0.2),
        )
        records = open_records(settings)
        settings.results_dir.mkdir()
        settings.spool_dir.mkdir()
        with running_broker(settings.data_dir), Processes(settings) as processes:
            for role in ("receiver", "reconciler", "deliver"):
                processes.role(role)
            processes.analyze(pipeline="tiny_release.py")
            wait_for(lambda: listens(settings.dicom.port), "the receiver")
            ae = AE(ae_title="CT1")
            ae.add_requested_context(CTImageStorage)
            sender = ae.associate("127.0.0.1", settings.dicom.port, ae_title="FVLM")
            assert {sender.send_c_store(path).Status for path in files} == {0x0000}
            sender.release()

            def sent() -> bool:
                with records.reading() as session:
                    return session.scalar(select(Job.id).where(Job.state == State.SENT)) is not None

            wait_for(sent, "the job to be sent", patience_s=500.0)
            log = processes.log.read_text()
        arrived = [dcmread(path) for path in pacs.files()]
    assert {output_of(made) for made in arrived} == {"SEG", "SC", "TEXT", "SR"}
    assert {made.PatientID for made in arrived} == {dcmread(files[0]).PatientID}
    assert validate_set([*pacs.files(), *files]).ok
    assert set(job(records, 1).seconds) == set(STAGES)
    source = dcmread(files[0])
    for personal in (str(source.PatientName), source.PatientID, source.SOPInstanceUID):
        assert personal not in log


def test_the_smaller_configuration_writes_the_same_results(
    release: Path, files: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The configuration of a second attempt after one that ran out of memory, as the worker makes it."""
    monkeypatch.setattr(module, "load_segmenter", lambda *_: ThresholdSegmenter())
    usual = Settings(data_dir=tmp_path, model=ModelSettings(release=str(release), device="cpu", threads=1))
    found = []
    for settings in (usual, frugal_settings(usual)):
        made = Pipeline.from_settings(settings)
        found.append(made.run(made.vet(_slices(files)), CAME))
    for one, other in zip(found[0].reading.anatomies, found[1].reading.anatomies, strict=True):
        assert [f.probability for f in other.findings] == pytest.approx([f.probability for f in one.findings], abs=1e-5)
    assert [d.SOPInstanceUID for d in found[0].objects] == [d.SOPInstanceUID for d in found[1].objects]
