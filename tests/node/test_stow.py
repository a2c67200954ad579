"""STOW-RS in: what is answered as stored is in the spool as it was sent; everything else has its status and reason."""

import json
import random
import socket
import ssl
import tracemalloc
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import httpx
import pytest
from dicomweb_client.api import DICOMwebClient
from peers import until
from pydicom import Dataset, dcmread
from pydicom.uid import JPEG2000Lossless, UltrasoundImageStorage
from spool_data import ROOT, Bench, ct_slice, write_file
from tls_files import Authority

from config import Settings
from config.inlet_settings import OrthancSource, WatchedFolder, WebSettings
from node.doctor_inlets import examine_inlets
from node.errors import CommandError
from node.intake import Intake
from node.part10_stream import accepted_classes
from node.serve import _usable_web
from node.spool import scan, segments
from node.web.multipart import MultipartError
from node.web.server import WebServer
from node.web.stow import StowRequest
from node.web.stow_answer import chosen_type, status_of

JSON, XML = "application/dicom+json", "application/dicom+xml"
TYPE = 'multipart/related; type="application/dicom"; boundary=xyz'


def file_of(dataset: Dataset) -> bytes:
    out = BytesIO()
    write_file(dataset, out)  # type: ignore[arg-type]
    return out.getvalue()


def body(*parts: bytes, kind: str = "application/dicom") -> bytes:
    head = f"--xyz\r\nContent-Type: {kind}\r\n\r\n".encode()
    return b"".join(head + part + b"\r\n" for part in parts) + b"--xyz--\r\n"


class Door:
    """A node's way in over HTTP, in this process."""

    def __init__(self, bench: Bench, **web: Any) -> None:
        settings = bench.settings.model_copy(update={"web": WebSettings(enabled=True, port=0, **web)})
        self.settings = settings
        self.server = WebServer(settings, bench.records, {})
        self.url = f"http://127.0.0.1:{self.server.port}/dicom-web"

    def __enter__(self) -> "Door":
        return self

    def __exit__(self, *_: object) -> None:
        self.server.stop()

    def post(self, content: bytes, path: str = "studies", kind: str = TYPE, **headers: str) -> httpx.Response:
        return httpx.post(f"{self.url}/{path}", content=content, headers={"Content-Type": kind, **headers})


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path / "node")


@pytest.fixture
def door(bench: Bench) -> Iterator[Door]:
    with Door(bench) as made:
        yield made


def stored(settings: Settings) -> dict[str, bytes]:
    """SOP Instance UID -> the Part 10 stream in the spool."""
    found = {}
    for path in segments(settings.spool_dir):
        content = path.read_bytes()
        found |= {r.origin.sop_instance_uid: content[r.offset : r.end] for r in scan(path)}
    return found


def reasons(answer: httpx.Response, sequence: str = "00081198") -> dict[str, int]:
    items = answer.json().get(sequence, {}).get("Value", [])
    return {item.get("00081155", {"Value": [""]})["Value"][0]: item["00081197"]["Value"][0] for item in items}


def test_dicomweb_client_stores_and_the_spool_has_what_it_sent(door: Door, bench: Bench) -> None:
    slices = [dcmread(BytesIO(file_of(ct_slice(number=number)))) for number in range(1, 4)]
    told = DICOMwebClient(door.url).store_instances(slices)
    assert [item.ReferencedSOPInstanceUID for item in told.ReferencedSOPSequence] == [
        dataset.SOPInstanceUID for dataset in slices
    ]
    assert "FailedSOPSequence" not in told
    found = stored(door.settings)
    for dataset in slices:
        kept = dcmread(BytesIO(found[str(dataset.SOPInstanceUID)]))
        assert kept == dataset
        assert kept.file_meta.SourceApplicationEntityTitle == "STOWRS"
    assert bench.indexer.catch_up().instances == 3


def test_a_compressed_object_is_kept_as_it_is(door: Door) -> None:
    dataset = ct_slice()
    dataset.compress(JPEG2000Lossless, encoding_plugin="pylibjpeg")
    assert door.post(body(file_of(dataset))).status_code == 200
    kept = dcmread(BytesIO(stored(door.settings)[str(dataset.SOPInstanceUID)]))
    assert (kept.file_meta.TransferSyntaxUID, kept.PixelData) == (JPEG2000Lossless, dataset.PixelData)


def test_each_object_has_its_own_fate(door: Door) -> None:
    good, other_class, no_uid = ct_slice(number=1), ct_slice(number=2), ct_slice(number=3)
    other_class.SOPClassUID = UltrasoundImageStorage
    del no_uid.SeriesInstanceUID
    answer = door.post(body(file_of(good), file_of(other_class), b"hello", file_of(no_uid), b""))
    assert answer.status_code == 202
    assert [i["00081155"]["Value"][0] for i in answer.json()["00081199"]["Value"]] == [good.SOPInstanceUID]
    assert reasons(answer) == {other_class.SOPInstanceUID: 0x0122, no_uid.SOPInstanceUID: 0xC000}
    assert [i["00081197"]["Value"] for i in answer.json()["0008119A"]["Value"]] == [[0xC000], [0xC000]]
    assert set(stored(door.settings)) == {str(good.SOPInstanceUID)}


def test_the_study_of_the_address_is_the_study_of_the_objects(door: Door) -> None:
    mine, other = ct_slice(number=1, study=1), ct_slice(number=2, study=2)
    answer = door.post(body(file_of(mine), file_of(other)), f"studies/{mine.StudyInstanceUID}")
    assert answer.status_code == 202
    assert reasons(answer) == {other.SOPInstanceUID: 0xC000}
    assert door.post(body(file_of(other)), f"studies/{ROOT}.77").status_code == 409
    assert door.post(body(file_of(other)), "studies/../../etc").status_code in (404, 405)
    assert door.post(body(file_of(other)), "studies/a.b").status_code == 400


def test_json_or_xml_as_it_is_asked_for(door: Door) -> None:
    content = body(file_of(ct_slice()), b"no")
    assert door.post(content, Accept=JSON).headers["content-type"] == JSON
    answer = door.post(content, Accept=f"{JSON};q=0.5, {XML}")
    assert answer.headers["content-type"] == XML
    root = ElementTree.fromstring(answer.content)
    space = {"n": "http://dicom.nema.org/PS3.19/models/NativeDICOM"}
    uid = root.find("n:DicomAttribute[@keyword='ReferencedSOPSequence']/n:Item[@number='1']/"
                    "n:DicomAttribute[@tag='00081155']/n:Value", space)  # fmt: skip
    assert uid is not None
    assert uid.text == ct_slice().SOPInstanceUID
    failure = root.find("n:DicomAttribute[@tag='0008119A']/n:Item/n:DicomAttribute[@vr='US']/n:Value", space)
    assert failure is not None
    assert failure.text == str(0xC000)
    assert door.post(content, Accept="text/html").status_code == 406
    assert chosen_type("") == JSON
    assert chosen_type("application/*;q=x, text/xml") == XML


@pytest.mark.parametrize(
    ("kind", "status"),
    [
        ("application/json", 415),
        ("multipart/related", 415),
        ('multipart/related; type="application/dicom+json"; boundary=xyz', 415),
        ('multipart/related; type="application/dicom"; boundary="' + "x" * 5000 + '"', 415),
        ('multipart/related; type="application/dicom"; boundary=abc', 400),
    ],
)
def test_what_is_no_such_message_is_told_so(door: Door, kind: str, status: int) -> None:
    assert door.post(body(file_of(ct_slice())), kind=kind).status_code == status
    assert stored(door.settings) == {}


def test_other_requests(door: Door) -> None:
    assert door.post(b"").status_code == 400
    assert door.post(body()).status_code == 400
    assert door.post(body(b"x", kind="text/plain")).status_code == 409
    assert door.post(body(file_of(ct_slice())), **{"Content-Encoding": "gzip"}).status_code == 415
    assert httpx.get(f"{door.url}/studies").status_code == 405
    assert httpx.get(f"{door.url}/").status_code == 404
    host = httpx.post(f"{door.url}/studies", headers={"Host": "evil.example.org"})
    assert host.status_code == 421


def test_limits_of_size_and_place(bench: Bench) -> None:
    big, small = ct_slice(number=1, side=800), ct_slice(number=2)
    with Door(bench, max_object_mb=1) as door:
        assert door.post(body(file_of(big))).status_code == 413
        answer = door.post(body(file_of(big), file_of(small)))
    assert answer.status_code == 202
    assert reasons(answer) == {big.SOPInstanceUID: 0xA700}
    full = bench.settings.dicom.model_copy(update={"min_free_mb": 2**30})
    bench.settings = bench.settings.model_copy(update={"dicom": full})
    with Door(bench) as door:
        answer = door.post(body(file_of(small)))
    assert (answer.status_code, reasons(answer)) == (503, {small.SOPInstanceUID: 0xA700})
    assert int(answer.headers["retry-after"]) > 0


def test_tokens_say_who_sends(bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOKEN_ONE", "first")
    (tmp_path / "two").write_text("second\n")
    tokens = {"ONE": "env:TOKEN_ONE", "TWO": f"file:{tmp_path / 'two'}", "GONE": "env:NOWHERE"}
    content = body(file_of(ct_slice()))
    with Door(bench, senders=tokens) as door:
        for shown in ("", "Bearer third", "Basic first", "Bearer"):
            answer = door.post(content, Authorization=shown)
            assert answer.status_code == 401
            assert answer.headers["www-authenticate"].startswith("Bearer")
        assert stored(door.settings) == {}
        assert door.post(content, Authorization="Bearer second").status_code == 200
    (path,) = segments(door.settings.spool_dir)
    assert [record.origin.calling_ae for record in scan(path)] == ["TWO"]


def test_it_listens_beyond_this_machine_only_with_tokens() -> None:
    with pytest.raises(ValueError, match="senders"):
        WebSettings(enabled=True, host="0.0.0.0")
    with pytest.raises(ValueError, match="token"):
        WebSettings(enabled=True, host="0.0.0.0", senders={"ONE": ""})
    WebSettings(enabled=True, host="0.0.0.0", senders={"ONE": "env:TOKEN_ONE"})


def test_https(bench: Bench, tmp_path: Path) -> None:
    authority = Authority(tmp_path, "hospital")
    pair = authority.issue("node")
    with Door(bench, certificate=pair.certificate, key=pair.key) as door:
        url = door.url.replace("http:", "https:").replace("127.0.0.1", "localhost")
        trusting = ssl.create_default_context(cafile=authority.ca)
        headers = {"Content-Type": TYPE}
        answer = httpx.post(f"{url}/studies", content=body(file_of(ct_slice())), headers=headers, verify=trusting)
        assert answer.status_code == 200
        with pytest.raises(httpx.ConnectError):
            httpx.post(f"{url}/studies", content=b"")


def test_serve_says_what_is_wrong_with_the_door(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        for web, cause in (
            ({"port": taken.getsockname()[1]}, "cannot listen"),
            ({"senders": {"ONE": "env:NOWHERE_TO_BE_FOUND"}}, "web.senders"),
            ({"certificate": tmp_path / "empty", "key": tmp_path / "empty"}, "web.certificate"),
        ):
            with pytest.raises(CommandError, match=cause):
                _usable_web(WebSettings(enabled=True, **web))
    assert _usable_web(WebSettings(enabled=True, port=0)).port > 0


def test_doctor_looks_at_the_ways_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("A_TOKEN", "x")
    settings = Settings(
        data_dir=tmp_path,
        web=WebSettings(senders={"ONE": "env:A_TOKEN", "TWO": "env:NOWHERE_TO_BE_FOUND"}),
        orthancs={"main": OrthancSource(url="http://127.0.0.1:1")},
        folders={"in": WatchedFolder(path=tmp_path), "gone": WatchedFolder(path=tmp_path / "gone")},
    )
    found = {name: (well, bool(cure)) for name, well, _, cure in examine_inlets(settings)}
    assert found == {
        "Token web.senders.ONE": (True, False),
        "Token web.senders.TWO": (False, True),
        "Orthanc main": (False, True),
        "Folder in": (True, True),
        "Folder gone": (False, True),
    }


def test_a_sender_that_hangs_or_goes_away_loses_only_what_was_not_whole(bench: Bench) -> None:
    content = body(file_of(ct_slice(number=1)), file_of(ct_slice(number=2)))
    head = (f"POST /dicom-web/studies HTTP/1.1\r\nHost: localhost\r\nContent-Type: {TYPE}\r\n"
            f"Content-Length: {len(content)}\r\n\r\n").encode()  # fmt: skip
    with Door(bench, max_requests=1, timeout_s=2.0) as door:
        with socket.create_connection(("127.0.0.1", door.server.port)) as hanging:
            hanging.sendall(head + content[:-300])
            until(lambda: door.post(content[:9]).status_code == 503, 30, "the door is busy")
            hanging.settimeout(30)
            answer = hanging.recv(65536)
            assert answer.startswith(b"HTTP/1.1 202")
            told = json.loads(answer.partition(b"\r\n\r\n")[2] or hanging.recv(65536))
            assert told["0008119A"]["Value"][0]["00081197"]["Value"] == [0x0110]
        assert set(stored(door.settings)) == {f"{ROOT}.1.1"}
        with socket.create_connection(("127.0.0.1", door.server.port)) as leaving:
            leaving.sendall(head + content[:-300])
        until(lambda: door.post(content).status_code == 200, 30, "it has noticed")


def _outcomes(intake: Intake, classes: frozenset[str], content: bytes, cuts: list[int]) -> StowRequest:
    with intake.open("FUZZ", "FVLM") as session:
        request = StowRequest(session, classes, 2**20, TYPE)
        for start, end in zip([0, *cuts], [*cuts, len(content)], strict=True):
            request.write(content[start:end])
        request.end()
    return request


def test_however_the_bytes_are_cut_and_wherever_they_end_the_whole_objects_are_stored(bench: Bench) -> None:
    rng = random.Random(4711)
    files = [file_of(ct_slice(number=number, side=16)) for number in range(1, 4)]
    content = body(*files)
    ends = [content.index(file) + len(file) + len("\r\n--xyz\r\n") for file in files]
    classes = accepted_classes(bench.settings)
    for _ in range(40):
        end = rng.choice([len(content), *rng.sample(range(len(content)), 3)])
        part = content[:end]
        cuts = sorted(rng.sample(range(end), min(end, rng.choice([0, 1, 5, 50]))))
        request = _outcomes(bench.intake, classes, part, cuts)
        whole = sum(limit <= end for limit in ends)
        assert request.stored == whole
        assert bool(request.broken) == (end < len(content) - 4)
        expected = 200 if whole == 3 and not request.broken else 202 if whole else 400
        assert status_of(request.outcomes, bool(request.broken)) == expected


def test_damaged_messages_end_with_an_answer(bench: Bench) -> None:
    rng = random.Random(815)
    content = body(*[file_of(ct_slice(number=number, side=16)) for number in range(1, 4)])
    classes = accepted_classes(bench.settings)
    for _ in range(60):
        damaged = bytearray(content)
        for _ in range(rng.choice([1, 3, 30])):
            at = rng.randrange(min(len(damaged), rng.choice([300, 2000, 10**6])))
            damaged[at : at + rng.choice([0, 1, 4])] = rng.randbytes(rng.choice([0, 1, 4]))
        request = _outcomes(bench.intake, classes, bytes(damaged), [])
        assert status_of(request.outcomes, bool(request.broken)) in (200, 202, 400, 409, 413)
        assert request.stored <= 3
    bench.indexer.catch_up()  # whatever came through is indexed, or told as unreadable


def test_a_message_without_end_takes_no_memory(bench: Bench) -> None:
    classes = accepted_classes(bench.settings)
    begin = body(file_of(ct_slice())).removesuffix(b"\r\n--xyz--\r\n")
    with bench.intake.open("HUGE", "FVLM") as session:
        request = StowRequest(session, classes, 2**25, TYPE)
        piece = bytes(2**16)
        request.write(begin)
        tracemalloc.start()
        for _ in range(2**10):  # 64 MB, of which half is taken
            request.write(piece)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        request.write(b"\r\n--xyz--\r\n")
        request.end()
    assert peak < 2**21
    assert status_of(request.outcomes, False) == 413
    headers = StowRequest(session, classes, 2**20, TYPE)
    headers.write(b"--xyz\r\n")
    for _ in range(100):
        headers.write(b"X-Name: " + b"x" * 3000 + b"\r\n")
    assert headers.broken


def test_what_is_no_multipart_is_refused(bench: Bench) -> None:
    with bench.intake.open("ANY", "FVLM") as session:
        for kind in ("", "multipart/related", "text/plain; boundary=x", 'multipart/related; boundary=""'):
            with pytest.raises(MultipartError):
                StowRequest(session, frozenset(), 1, kind)
