"""DICOMweb and DIMSE with a real Orthanc: it sends by STOW-RS, the node fetches by WADO-RS, C-GET and C-MOVE."""

import json
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from peers import until
from pydicom import Dataset, dcmread
from pydicom.uid import JPEG2000Lossless, MRImageStorage
from spool_data import Bench, ct_slice, encode, receiver, store
from sqlalchemy import select
from test_orthanc_follow import QuickOrthanc, a_series, spooled, uids
from typer.testing import CliRunner

from config import Settings
from config.inlet_settings import WebSettings
from config.settings import Source
from node.children import free_port
from node.cli import app
from node.completion import Completer
from node.errors import CommandError
from node.node_lock import locked
from node.records import Series, Signal
from node.retrieve.run import pull_study
from node.spool import scan, segments
from node.web.server import WebServer

pytestmark = [pytest.mark.peers, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def orthanc(tmp_path_factory: pytest.TempPathFactory) -> Iterator[QuickOrthanc]:
    """One that knows the node as a destination of C-MOVE."""
    folder = tmp_path_factory.mktemp("orthanc") / "orthanc"
    with QuickOrthanc(folder, knows={"FVLM": ("127.0.0.1", free_port())}) as server:
        yield server


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path / "node")


def with_source(bench: Bench, orthanc: QuickOrthanc, how: str) -> Settings:
    """Settings with the source `pacs`, which is asked this way."""
    asked: dict[str, Any] = {"retrieve": how, "host": "127.0.0.1", "port": orthanc.port}
    if how == "wado-rs":
        asked = {"dicomweb_url": orthanc.dicomweb}
    source = Source(ae_title=orthanc.ae_title, **asked)
    return bench.settings.model_copy(update={"sources": {"pacs": source}})


def a_study() -> tuple[str, list[Dataset], list[Dataset]]:
    """Its UID, a CT series with a compressed image in it, and a series of another modality."""
    slices, others = a_series(), a_series(2)
    slices[1].compress(JPEG2000Lossless, encoding_plugin="pylibjpeg")
    for dataset in others:
        dataset.Modality, dataset.SOPClassUID = "MR", MRImageStorage
        dataset.StudyInstanceUID = slices[0].StudyInstanceUID
    return str(slices[0].StudyInstanceUID), slices, others


@pytest.mark.parametrize("how", ["wado-rs", "c-get"])
def test_a_study_that_a_person_names_is_fetched_and_closed(bench: Bench, orthanc: QuickOrthanc, how: str) -> None:
    study, slices, others = a_study()
    orthanc.take(*slices, *others)
    settings = with_source(bench, orthanc, how)
    with bench.intake.open("STORESCU", "FVLM") as session:  # two are there already, one of them not yet indexed
        store(session, slices[0])
        bench.indexer.catch_up()
        store(session, slices[2])
    done = pull_study(settings, study, "pacs")
    assert (done.series, done.images, done.known, done.fetched, done.problems) == (1, 5, 2, 3, [])
    assert spooled(settings) == uids(*slices)
    again = pull_study(settings, study, "pacs")
    assert (again.known, again.fetched) == (5, 0)
    found = {}
    for path in segments(settings.spool_dir):
        content = path.read_bytes()
        found |= {r.origin.sop_instance_uid: dcmread(BytesIO(content[r.offset : r.end])) for r in scan(path)}
    kept = found[str(slices[1].SOPInstanceUID)]
    assert kept.pixel_array.tobytes() == slices[1].pixel_array.tobytes()
    if how == "wado-rs":
        assert kept.file_meta.TransferSyntaxUID == JPEG2000Lossless
    bench.indexer.catch_up()
    Completer(bench.records, settings).once()
    with bench.records.reading() as session:
        assert session.scalars(select(Series.signal)).all() == [Signal.IAN]


def test_c_move_lets_the_archive_send_to_the_node(tmp_path: Path, orthanc: QuickOrthanc) -> None:
    study, slices, others = a_study()
    orthanc.take(*slices, *others)
    bench = Bench(tmp_path / "node")
    dicom = bench.settings.dicom.model_copy(
        update={"port": orthanc.knows["FVLM"][1], "accept_from": (orthanc.ae_title,), "receivers": 1}
    )
    bench.settings = bench.settings.model_copy(update={"dicom": dicom})
    settings = with_source(bench, orthanc, "c-move")
    with pytest.raises(CommandError, match="does not run"):
        pull_study(settings, study, "pacs")
    with receiver(settings), _running(settings):
        done = pull_study(settings, study, "pacs")
        assert (done.images, done.fetched, done.problems) == (5, 5, [])
        assert spooled(settings) == uids(*slices)
    with _running(settings):  # nobody listens any more
        study, slices, _ = a_study()
        orthanc.take(*slices)
        with pytest.raises(CommandError, match="refuses C-MOVE"):
            pull_study(settings, study, "pacs")


def _running(settings: Settings) -> Any:
    """As if `serve` ran on this data folder."""
    (settings.data_dir / "run").mkdir(exist_ok=True)
    (settings.data_dir / "run" / "lock").touch()
    return locked(settings.data_dir)


@pytest.mark.parametrize("how", ["wado-rs", "c-get"])
def test_what_cannot_be_fetched_is_one_line(bench: Bench, orthanc: QuickOrthanc, how: str) -> None:
    settings = with_source(bench, orthanc, how)
    with pytest.raises(CommandError, match="does not have the study"):
        pull_study(settings, "1.2.3.4", "pacs")
    with pytest.raises(CommandError, match="no UID"):
        pull_study(settings, "../../etc", "pacs")
    with pytest.raises(CommandError, match="no source"):
        pull_study(settings, "1.2.3.4", "elsewhere")
    away = settings.sources["pacs"].model_copy(
        update={"port": free_port(), "dicomweb_url": f"http://127.0.0.1:{free_port()}/x" if how == "wado-rs" else ""}
    )
    with pytest.raises(CommandError, match="does not"):
        pull_study(settings.model_copy(update={"sources": {"pacs": away}}), "1.2.3.4", "pacs")
    assert spooled(settings) == []


def test_the_command(bench: Bench, orthanc: QuickOrthanc, tmp_path: Path) -> None:
    study, slices, _ = a_study()
    orthanc.take(*slices)
    config = tmp_path / "node.yaml"
    content = {
        "data_dir": str(bench.settings.data_dir),
        "dicom": {"min_free_mb": 0},
        "sources": {"pacs": {"ae_title": orthanc.ae_title, "dicomweb_url": orthanc.dicomweb}},
    }
    config.write_text(json.dumps(content))
    command = ["pull", "--study", study, "--from", "pacs", "--config", str(config)]
    done = CliRunner().invoke(app, command)
    assert (done.exit_code, done.stdout) == (0, "5 images of 1 CT series fetched; 0 were there\n")
    content["dicom"]["min_free_mb"] = 2**30
    config.write_text(json.dumps(content))
    study, slices, _ = a_study()
    orthanc.take(*slices)
    command[2] = study
    full = CliRunner().invoke(app, command)
    assert isinstance(full.exception, CommandError)
    assert "spool" in str(full.exception)


def test_orthanc_sends_by_stow_rs(bench: Bench, orthanc: QuickOrthanc, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STOW_TOKEN", "a-token")
    web = WebSettings(enabled=True, port=0, senders={"ORTHANC": "env:STOW_TOKEN"})
    slices = a_series(12)  # more than it puts into one request
    orthanc.take(*slices)
    server = WebServer(bench.settings.model_copy(update={"web": web}), bench.records, {})
    try:
        url = f"http://127.0.0.1:{server.port}/dicom-web/"
        asked = {"Resources": [orthanc.name_of(slices[0])], "Synchronous": False}
        for headers, state in (({}, "Failure"), ({"Authorization": "Bearer a-token"}, "Success")):
            orthanc.rest("/dicom-web/servers/node", json.dumps({"Url": url, "HttpHeaders": headers}).encode(), "PUT")
            job = orthanc.rest("/dicom-web/servers/node/stow", json.dumps(asked).encode())["ID"]
            ended = until(
                lambda job=job: (
                    (s := orthanc.rest(f"/jobs/{job}")["State"]) not in ("Pending", "Running", "Retry") and s
                ),
                60,
                "the job has ended",
                orthanc.log,
            )
            assert ended == state
    finally:
        server.stop()
    assert spooled(bench.settings) == uids(*slices)
    bench.indexer.catch_up()
    for path in segments(bench.settings.spool_dir):
        for record in scan(path):
            assert record.origin.calling_ae == "ORTHANC"
    first = next(r for path in segments(bench.settings.spool_dir) for r in scan(path))
    sent = next(d for d in slices if d.SOPInstanceUID == first.origin.sop_instance_uid)
    content = (bench.settings.spool_dir / first.segment).read_bytes()[first.data_set_offset : first.end]
    assert content == encode(sent)


def test_pages_of_an_archive_that_gives_few_at_once(bench: Bench, orthanc: QuickOrthanc) -> None:
    from node.http_peer import HttpPeer
    from node.retrieve import dicomweb

    slices = [ct_slice(series=9000, number=number, study=9000, side=8) for number in range(1, 8)]
    orthanc.take(*slices)
    source = with_source(bench, orthanc, "wado-rs").sources["pacs"]
    with HttpPeer(source.dicomweb_url, source, 30.0) as peer, pytest.MonkeyPatch.context() as patch:
        patch.setattr(dicomweb, "_PAGE", 3)
        ((uid, instances),) = dicomweb._ct_series(peer, str(slices[0].StudyInstanceUID), (), set())
    assert (uid, sorted(instances)) == (slices[0].SeriesInstanceUID, uids(*slices))
