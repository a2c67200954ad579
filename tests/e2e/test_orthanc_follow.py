"""The changes of a real Orthanc are followed: whatever was down, what became stable is found, fetched once, kept."""

import json
import shutil
import signal
import sys
import threading
import urllib.request
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from forwarder import Forwarder
from peers import Orthanc, Process, until
from pydicom import Dataset, dcmread
from pydicom.uid import MRImageStorage, UltrasoundImageStorage
from spool_data import Bench, ct_slice, write_file
from sqlalchemy import select

from config import Reason, Settings
from config.inlet_settings import OrthancSource
from node.completion import Completer
from node.orthanc_source import rows
from node.orthanc_source.answers import ask_for, how_it_stands
from node.orthanc_source.follower import Follower
from node.records import OrthancCursor, Series, Signal
from node.spool import scan, segments
from node.states import State
from node.worker import write_settings

pytestmark = [pytest.mark.peers, pytest.mark.timeout(300)]


class QuickOrthanc(Orthanc):
    """Series are stable after a second."""

    def __init__(self, folder: Path, stable_age: int = 1, knows: dict[str, tuple[str, int]] | None = None) -> None:
        super().__init__(folder, knows)
        self.folder = folder
        file = folder / "orthanc.json"
        file.write_text(
            json.dumps(json.loads(file.read_text()) | {"StableAge": stable_age, "MaximumStorageCacheSize": 0})
        )

    def rest(self, path: str, content: bytes | None = None, method: str | None = None) -> Any:
        request = urllib.request.Request(f"{self.url}{path}", content, method=method)
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.loads(answer.read() or b"null")

    def take(self, *datasets: Dataset) -> None:
        for dataset in datasets:
            file = BytesIO()
            write_file(dataset, file)  # type: ignore[arg-type]
            self.rest("/instances", file.getvalue())

    def name_of(self, dataset: Dataset) -> str:
        query = {"Level": "Series", "Query": {"SeriesInstanceUID": str(dataset.SeriesInstanceUID)}}
        return str(self.rest("/tools/find", json.dumps(query).encode())[0])

    def wait_until_stable(self, dataset: Dataset) -> None:
        name = self.name_of(dataset)

        def told() -> bool:
            found = self.rest("/changes?since=0&limit=100000")["Changes"]
            newest = [one["ChangeType"] for one in found if one["ID"] == name]
            return bool(newest) and newest[-1] == "StableSeries"

        until(told, 30, "the series is stable", self.log)


@pytest.fixture(scope="module")
def orthanc(tmp_path_factory: pytest.TempPathFactory) -> Iterator[QuickOrthanc]:
    with QuickOrthanc(tmp_path_factory.mktemp("orthanc") / "orthanc") as server:
        yield server


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path / "node")


def source(port: int, **more: object) -> OrthancSource:
    return OrthancSource(url=f"http://127.0.0.1:{port}", poll_s=0.1, settle_s=0.2, **more)


def follower(bench: Bench, one: OrthancSource) -> Follower:
    return Follower("main", one, bench.records, bench.settings)


def spooled(settings: Settings) -> list[str]:
    """SOP Instance UIDs in the spool, each as often as it was stored."""
    return sorted(r.origin.sop_instance_uid for path in segments(settings.spool_dir) for r in scan(path))


def uids(*datasets: Dataset) -> list[str]:
    return sorted(str(dataset.SOPInstanceUID) for dataset in datasets)


def cursor(bench: Bench) -> int:
    with bench.records.reading() as session:
        return session.get_one(OrthancCursor, "main").cursor


NEVER = threading.Event()
_numbers = iter(range(100, 10_000))


def a_series(count: int = 5) -> list[Dataset]:
    """Slices of a series that no other test has."""
    series = next(_numbers)
    return [ct_slice(series=series, number=number, study=series) for number in range(1, count + 1)]


def test_what_becomes_stable_is_fetched_once_and_closed_by_what_orthanc_says(
    bench: Bench, orthanc: QuickOrthanc
) -> None:
    before, slices = a_series(), a_series()
    orthanc.take(*before)
    orthanc.wait_until_stable(before[0])
    follow = follower(bench, source(orthanc.http_port))
    assert follow.round(NEVER)
    assert spooled(bench.settings) == []  # it was stable before the first contact
    orthanc.take(*slices[:3])
    assert follow.round(NEVER)
    held = cursor(bench)
    orthanc.take(*slices[3:])
    orthanc.wait_until_stable(slices[0])
    assert follow.round(NEVER)
    assert spooled(bench.settings) == uids(*slices)
    assert cursor(bench) > held
    bench.indexer.catch_up()
    Completer(bench.records, bench.settings.model_copy(update={"routing": _few(bench)})).once()
    with bench.records.reading() as session:
        (series,) = session.scalars(select(Series)).all()
        assert (series.state, series.signal, series.received) == (State.VETTED, Signal.IAN, 5)
        assert series.source_ae == "ORTHANC"
    assert follower(bench, source(orthanc.http_port)).round(NEVER)
    assert len(spooled(bench.settings)) == 5


def _few(bench: Bench) -> Any:
    return bench.settings.routing.model_copy(update={"min_slices": 3})


def test_a_series_that_became_stable_while_the_node_was_down_is_found(bench: Bench, orthanc: QuickOrthanc) -> None:
    assert follower(bench, source(orthanc.http_port)).round(NEVER)
    slices = a_series()
    orthanc.take(*slices)
    orthanc.wait_until_stable(slices[0])
    assert follower(bench, source(orthanc.http_port)).round(NEVER)
    assert spooled(bench.settings) == uids(*slices)


def test_an_orthanc_that_was_killed_before_a_series_was_stable_loses_nothing(bench: Bench, tmp_path: Path) -> None:
    slices, late = a_series(6), 4
    with QuickOrthanc(tmp_path / "orthanc", stable_age=3600) as server:
        follow = follower(bench, source(server.http_port))
        assert follow.round(NEVER)
        server.take(*slices[:late])
        assert follow.round(NEVER)
        server.stop(signal.SIGKILL)
        assert not follow.round(NEVER)
        with bench.records.reading() as session:
            assert session.get_one(OrthancCursor, "main").reason == Reason.PEER_UNREACHABLE
        server.start()

        def fetched() -> bool:
            assert follow.round(NEVER)
            return bool(spooled(bench.settings))

        until(fetched, 30, "the series is fetched")
        assert spooled(bench.settings) == uids(*slices[:late])
        server.take(*slices[late:])  # not stable for an hour
        assert follow.round(NEVER)
        assert len(spooled(bench.settings)) == late
        server.stop(signal.SIGKILL)
        server.start()
        until(lambda: follow.round(NEVER) and len(spooled(bench.settings)) > late, 30, "the late images are fetched")
        assert spooled(bench.settings) == uids(*slices)


class Inlets(Process):
    """The real process."""

    def __init__(self, settings: Settings) -> None:
        file = settings.data_dir / "inlets.json"
        write_settings(settings, file)
        super().__init__([sys.executable, "-m", "node.worker", "inlets", str(file)], settings.data_dir / "inlets.log")

    def ready(self) -> bool:
        return "inlets_ready" in self.log.read_text()


def test_a_node_killed_in_the_middle_of_a_series_goes_on_where_it_was(bench: Bench, orthanc: QuickOrthanc) -> None:
    slices = a_series(12)
    with Forwarder(orthanc.http_port) as network:
        one = source(network.port, at_once=1)
        assert follower(bench, one).round(NEVER)
        settings = bench.settings.model_copy(update={"orthancs": {"main": one}})
        orthanc.take(*slices)
        orthanc.wait_until_stable(slices[0])
        network.let(30_000)  # what it says of the series, and some of its images
        process = Inlets(settings).start()
        network.wait_until_held()
        process.stop(signal.SIGKILL)
        stored = spooled(settings)
        assert 0 < len(stored) < 12
        network.cut(down=False)
        network.let()
        with Inlets(settings) as process:
            until(lambda: len(spooled(settings)) >= 12, 30, "the rest is fetched", process.log)
            assert process.stop() == 0
    assert spooled(settings) == uids(*slices)  # none twice


def test_a_network_that_fails_in_the_middle_is_waited_for(bench: Bench, orthanc: QuickOrthanc) -> None:
    slices = a_series(12)
    with Forwarder(orthanc.http_port) as network:
        follow = follower(bench, source(network.port, at_once=3))
        assert follow.round(NEVER)
        before = cursor(bench)
        orthanc.take(*slices)
        orthanc.wait_until_stable(slices[0])
        network.let(40_000)
        rounds: list[bool] = []
        thread = threading.Thread(target=lambda: rounds.append(follow.round(NEVER)))
        thread.start()
        network.wait_until_held()
        network.cut(down=True)
        thread.join()
        assert rounds == [False]
        assert not follow.round(NEVER)
        assert cursor(bench) == before
        network.let()
        network.down = False
        assert follow.round(NEVER)
    assert spooled(bench.settings) == uids(*slices)
    assert cursor(bench) > before


def test_images_are_copied_from_the_storage_and_only_what_orthanc_vouches_for(
    bench: Bench, orthanc: QuickOrthanc, tmp_path: Path
) -> None:
    series = next(_numbers)
    slices = [ct_slice(series=series, number=number, study=series, side=128) for number in range(1, 13)]
    shared = tmp_path / "shared"
    with Forwarder(orthanc.http_port) as network:
        one = source(network.port, storage_dir=shared)
        assert follower(bench, one).round(NEVER)
        orthanc.take(*slices)
        orthanc.wait_until_stable(slices[0])
        shutil.copytree(orthanc.folder / "storage", shared)
        listed = orthanc.rest(f"/series/{orthanc.name_of(slices[0])}/instances")
        paths = [shared / uuid[:2] / uuid[2:4] / uuid for uuid in (each["FileUuid"] for each in listed)]
        changed, cut, lost = paths[:3]
        changed.write_bytes(changed.read_bytes()[:-1] + b"?")
        cut.write_bytes(b"short")
        lost.unlink()
        before = network.answered
        assert follower(bench, one).round(NEVER)
        size = paths[3].stat().st_size
        assert 3 * size < network.answered - before < 5 * size
    assert spooled(bench.settings) == uids(*slices)
    stored = {r.origin.sop_instance_uid: r for path in segments(bench.settings.spool_dir) for r in scan(path)}
    for dataset in slices:
        record = stored[str(dataset.SOPInstanceUID)]
        content = (bench.settings.spool_dir / record.segment).read_bytes()
        assert dcmread(BytesIO(content[record.offset : record.end])).PixelData == dataset.PixelData


def test_a_list_of_changes_that_began_anew_is_read_from_its_start(bench: Bench, tmp_path: Path) -> None:
    first, second = a_series(), a_series()
    with QuickOrthanc(tmp_path / "orthanc") as server:
        one = source(server.http_port)
        follow = follower(bench, one)
        server.take(*first)
        server.wait_until_stable(first[0])
        assert follow.round(NEVER)
        server.stop()
        for part in ("index", "storage"):
            shutil.rmtree(tmp_path / "orthanc" / part)
        server.start()
        server.take(*second[:2])
        server.wait_until_stable(second[0])
        assert follow.round(NEVER)
    assert spooled(bench.settings) == uids(*second[:2])


def test_what_is_no_ct_is_left_and_what_the_door_refuses_is_told(bench: Bench, orthanc: QuickOrthanc) -> None:
    magnetic, odd = a_series(3), a_series(4)
    for dataset in magnetic:
        dataset.Modality, dataset.SOPClassUID = "MR", MRImageStorage
    odd[3].SOPClassUID = UltrasoundImageStorage
    follow = follower(bench, source(orthanc.http_port))
    assert follow.round(NEVER)
    orthanc.take(*magnetic, *odd)
    for dataset in (magnetic[0], odd[0]):
        orthanc.wait_until_stable(dataset)
    assert follow.round(NEVER)
    assert spooled(bench.settings) == uids(*odd[:3])
    with bench.records.reading() as session:
        assert rows.wish(session, "main", orthanc.name_of(magnetic[0])) is None
        waits, reason, detail = rows.wish(session, "main", orthanc.name_of(odd[0])) or (None, None, "")
    assert (waits, reason) == (False, Reason.CLASS_NOT_TAKEN)
    assert "1 images" in detail


def test_a_series_that_cannot_be_had_holds_no_other_up(bench: Bench, orthanc: QuickOrthanc) -> None:
    broken, misnamed, good = a_series(), a_series(3), a_series()
    misnamed[1].SOPInstanceUID = "1.2.NOT-A-UID"
    follow = follower(bench, source(orthanc.http_port))
    assert follow.round(NEVER)
    before = cursor(bench)
    for slices in (broken, misnamed, good):
        orthanc.take(*slices)
        orthanc.wait_until_stable(slices[0])
    listed = orthanc.rest(f"/series/{orthanc.name_of(broken[0])}/instances")
    uuid = listed[0]["FileUuid"]
    (orthanc.folder / "storage" / uuid[:2] / uuid[2:4] / uuid).unlink()
    assert follow.round(NEVER)
    assert set(uids(*good)) < set(spooled(bench.settings))
    assert len(spooled(bench.settings)) == len(good) + len(broken) - 1
    assert cursor(bench) > before
    with bench.records.reading() as session:
        for slices, reason in ((broken, Reason.GONE_AT_SOURCE), (misnamed, Reason.BAD_UID)):
            wish = rows.wish(session, "main", orthanc.name_of(slices[0]))
            assert wish is not None
            assert wish[:2] == (False, reason)


def test_a_person_asks_for_a_series_of_before(bench: Bench, orthanc: QuickOrthanc) -> None:
    slices, magnetic = a_series(), a_series(3)
    for dataset in magnetic:
        dataset.Modality = "MR"
    orthanc.take(*slices, *magnetic)
    orthanc.wait_until_stable(slices[0])
    orthanc.wait_until_stable(magnetic[0])
    follow = follower(bench, source(orthanc.http_port))
    assert follow.round(NEVER)
    settings = bench.settings.model_copy(update={"orthancs": {"main": source(orthanc.http_port)}})
    name, uid = orthanc.name_of(slices[0]), str(slices[0].SeriesInstanceUID)

    def stands(name: str, uid: str) -> tuple[str, str]:
        with bench.records.reading() as session:
            answer = how_it_stands(session, settings, "main", name, uid)
        return answer.state, answer.reason

    assert stands(name, uid) == ("UNKNOWN", "")
    answer = ask_for(bench.records, settings, "main", name, uid)
    assert answer is not None
    assert answer.state == "WANTED"
    other = orthanc.name_of(magnetic[0])
    assert ask_for(bench.records, settings, "main", other, str(magnetic[0].SeriesInstanceUID)) is not None
    gone = "00000000-00000000-00000000-00000000-00000000"
    assert ask_for(bench.records, settings, "main", gone, "1.2.3") is not None
    assert follow.round(NEVER)
    bench.indexer.catch_up()
    assert spooled(bench.settings) == uids(*slices)
    assert stands(name, uid) == ("RECEIVING", "")
    assert stands(other, str(magnetic[0].SeriesInstanceUID)) == ("NOT_FETCHED", "NOT_CT")
    assert stands(gone, "1.2.3") == ("NOT_FETCHED", "GONE_AT_SOURCE")


def test_a_full_disk_holds_the_cursor_back(bench: Bench, orthanc: QuickOrthanc) -> None:
    slices = a_series()
    one = source(orthanc.http_port)
    assert follower(bench, one).round(NEVER)
    before = cursor(bench)
    orthanc.take(*slices)
    orthanc.wait_until_stable(slices[0])
    full = bench.settings.model_copy(update={"dicom": bench.settings.dicom.model_copy(update={"min_free_mb": 2**30})})
    assert not Follower("main", one, bench.records, full).round(NEVER)
    assert (spooled(bench.settings), cursor(bench)) == ([], before)
    assert follower(bench, one).round(NEVER)
    assert spooled(bench.settings) == uids(*slices)


@pytest.mark.parametrize("answer", [b"{}", b'{"Last": "x"}', b"[" * 100_000, b"<html>", b'{"Last": 5, "Changes": 7}'])
def test_whoever_is_no_orthanc_is_told_so(bench: Bench, answer: bytes) -> None:
    class Liar(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *_: object) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Liar) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        assert not follower(bench, source(server.server_port, from_start=True)).round(NEVER)
        server.shutdown()


def test_no_redirect_is_followed(bench: Bench, orthanc: QuickOrthanc) -> None:
    class Elsewhere(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(302)
            self.send_header("Location", f"{orthanc.url}{self.path}")
            self.end_headers()

        def log_message(self, *_: object) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Elsewhere) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        assert not follower(bench, source(server.server_port)).round(NEVER)
        server.shutdown()
