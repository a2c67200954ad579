"""Each destination gets the objects of its profile, and what it has to take decides whether it has the result."""

from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from fake_pipeline import FakePipeline
from pydicom import Dataset, dcmread
from pydicom.uid import SegmentationStorage
from pynetdicom import AE, evt
from rows import COMPREHENSIVE_3D_SR, add_job, archive, deliveries, job, open_records, settings_for, small_object
from sqlalchemy import select

from config import Output, Plan, Reason, Settings, outputs_of
from config.settings import SettingsError
from dicom_sr import output_of
from dicom_sr.outputs import OUTPUT_OF_CLASS
from node import result_retention
from node.database import Records
from node.delivery import Courier
from node.jobs import Analyst
from node.records import Job, now
from node.results import remove_results, write_results
from node.retry import retry
from node.states import State

_CLASSES = {kind: sop_class for sop_class, kind in reversed(OUTPUT_OF_CLASS.items())}


def _objects(kinds: frozenset[Output]) -> list[Dataset]:
    made = []
    for number, kind in enumerate(each for each in Output if each in kinds):
        dataset = small_object("SR", f"2.25.4{number}")
        dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = _CLASSES[kind]
        made.append(dataset)
    return made


class _Planned(FakePipeline):
    """Makes what the settings plan."""

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        self._plan = settings.plan

    def run(self, series: Any, images_at: datetime, *more: Any) -> Any:
        analysis = super().run(series, images_at, *more)
        object.__setattr__(analysis, "objects", tuple(_objects(self._plan.outputs)))
        return analysis


def _with_profiles(settings: Settings, **changes: dict[str, object]) -> Settings:
    peers = {name: peer.model_copy(update=changes.get(name, {})) for name, peer in settings.destinations.items()}
    return settings.model_copy(update={"destinations": peers})


def _run(settings: Settings) -> tuple[Records, int]:
    """An encoded job and its rows."""
    records = open_records(settings)
    job_id = add_job(records)
    Analyst(records, settings, _Planned(settings), "w").analyze(job_id)  # type: ignore[arg-type]
    return records, job_id


def test_each_destination_gets_the_objects_of_its_profile(tmp_path: Path) -> None:
    with (
        archive(tmp_path / "air", "AIR") as air,
        archive(tmp_path / "old", "OLD") as old,
        archive(tmp_path / "usual", "USUAL") as usual,
    ):
        settings = _with_profiles(
            settings_for(tmp_path / "node", ("air", air.port), ("old", old.port), ("usual", usual.port)),
            air={"profile": "air", "key_objects": True},
            old={"profile": "legacy", "parametric_maps": True},
        )
        assert settings.plan == Plan(frozenset(Output) - {Output.LABEL_MAP}, frozenset({Output.SEG, Output.SR}))
        records, job_id = _run(settings)
        courier = Courier(records, settings)
        for name in settings.destinations:
            courier.deliver(deliveries(records, name)[0].id)
        for peer, wanted in (
            (air, {"SEG", "KO", "SR"}),
            (old, {"PM", "SC", "PDF"}),
            (usual, {"SEG", "SC", "TEXT", "SR"}),
        ):
            assert {output_of(dcmread(path)) for path in peer.files()} == wanted
    assert job(records, job_id).state == State.SENT


def _peer(stored: list[str], *classes: str) -> tuple[Any, int]:
    ae = AE(ae_title="PACS")
    for sop_class in classes:
        ae.add_supported_context(sop_class)

    def store(event: evt.Event) -> int:
        stored.append(OUTPUT_OF_CLASS[event.request.AffectedSOPClassUID])
        return 0x0000

    server = ae.start_server(("127.0.0.1", 0), block=False, evt_handlers=[(evt.EVT_C_STORE, store)])
    return server, server.socket.getsockname()[1]


def test_a_refused_companion_is_told_and_stops_nothing(tmp_path: Path) -> None:
    stored: list[str] = []
    server, port = _peer(stored, SegmentationStorage, COMPREHENSIVE_3D_SR, _CLASSES[Output.SC])
    settings = settings_for(tmp_path, ("pacs", port))
    records, job_id = _run(settings)
    courier = Courier(records, settings)
    courier.deliver(deliveries(records, "pacs")[0].id)
    assert stored == ["SEG", "SC", "SR"]
    ended = job(records, job_id)
    assert (ended.state, ended.reason) == (State.SENT, Reason.PEER_REFUSED)
    assert ended.detail.startswith("TEXT at pacs: the peer does not accept Enhanced SR")
    with records.reading() as session:
        assert session.scalar(select(Job.id).where(result_retention.unkept([]))) is None  # it may be cleaned up
    server.shutdown()
    server, _ = _peer(stored, _CLASSES[Output.TEXT])
    settings = settings_for(tmp_path, ("pacs", server.socket.getsockname()[1]))
    assert retry(records, str(job_id)) == job_id  # what was refused, and nothing else
    assert job(records, job_id).state == State.ENCODED
    Courier(records, settings).deliver(deliveries(records, "pacs")[0].id)
    server.shutdown()
    assert stored == ["SEG", "SC", "SR", "TEXT"]
    ended = job(records, job_id)
    assert (ended.state, ended.reason, ended.detail) == (State.SENT, None, "")


@pytest.mark.parametrize(
    ("accepted", "state"), [(Output.SC, State.SENT), (Output.PDF, State.FAILED)], ids=["page", "only the PDF"]
)
def test_an_old_archive_has_to_take_the_page(tmp_path: Path, accepted: Output, state: State) -> None:
    server, port = _peer([], _CLASSES[accepted])
    settings = _with_profiles(settings_for(tmp_path, ("pacs", port)), pacs={"profile": "legacy"})
    records, job_id = _run(settings)
    Courier(records, settings).deliver(deliveries(records, "pacs")[0].id)
    server.shutdown()
    assert job(records, job_id).state == state


def test_a_companion_that_waits_does_not_hold_up_the_sr(tmp_path: Path) -> None:
    stored: list[str] = []
    server, port = _peer(stored, SegmentationStorage, COMPREHENSIVE_3D_SR, _CLASSES[Output.SC], _CLASSES[Output.TEXT])
    settings = settings_for(tmp_path, ("pacs", port))
    records, job_id = _run(settings)
    with records.session() as session:
        for result in session.get_one(Job, job_id).results:
            if result.kind == Output.SC:
                result.deliveries[0].due_at = now().replace(year=now().year + 1)
    Courier(records, settings).deliver(deliveries(records, "pacs")[0].id)
    server.shutdown()
    assert stored == ["SEG", "TEXT", "SR"]
    assert job(records, job_id).state == State.ENCODED


def test_plans() -> None:
    assert Plan.of() == Plan(outputs_of("air+sc"), outputs_of("air+sc"))
    assert Plan.of([outputs_of("legacy")]).outputs == {Output.SEG, Output.SR, Output.SC, Output.PDF}


def test_an_unknown_profile_is_told(tmp_path: Path) -> None:
    file = tmp_path / "node.yaml"
    file.write_text("destinations: {pacs: {ae_title: PACS, host: pacs, port: 104, profile: everything}}\n")
    with pytest.raises(SettingsError, match=r"profile.*'air', 'air\+sc' or 'legacy'"):
        Settings.load(file)


def test_objects_as_files(tmp_path: Path) -> None:
    kinds = frozenset({Output.PM, Output.KO, Output.SEG})
    folder = tmp_path / "series-1"
    files = write_results(folder, [*_objects(kinds), *_objects(frozenset({Output.PM}))])
    assert sorted(path.name for path in files) == ["KO.dcm", "PM-1.dcm", "PM-2.dcm", "SEG.dcm"]
    write_results(folder, _objects(frozenset({Output.SEG})))
    assert [path.name for path in folder.iterdir()] == ["SEG.dcm"]
    remove_results(tmp_path, "series")
    assert not folder.exists()
