"""`fvlm-node train collect` from a real archive: Orthanc by C-GET, C-MOVE and DICOMweb; away, and back again."""

import json
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import yaml
from archive_patients import PATIENTS, leaks, part10, sr, write_series
from collected import KEPT, SR, command, environment, here, make_archive, make_drop, pairs
from peers import Orthanc
from tls_files import Authority

from node.children import free_port

pytestmark = [pytest.mark.peers]

TITLE = "FVLM_COLLECT"


@pytest.fixture(scope="module")
def drop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("reports") / "drop"
    make_drop(folder)
    return folder


@pytest.fixture(scope="module")
def orthanc(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Orthanc]:
    folder = tmp_path_factory.mktemp("pacs")
    make_archive(folder / "dicom")
    knows = {TITLE: ("127.0.0.1", free_port()), "NOWHERE": ("127.0.0.1", free_port())}
    with Orthanc(folder / "orthanc", knows) as server:
        upload(folder / "dicom", server)
        yield server


def upload(folder: Path, server: Orthanc) -> None:
    with httpx.Client(base_url=server.url) as client:
        for file in folder.rglob("*.dcm"):
            client.post("/instances", content=file.read_bytes()).raise_for_status()


def way(name: str, orthanc: Orthanc) -> tuple[str, ...]:
    pacs = ("--pacs", f"{orthanc.ae_title}@127.0.0.1:{orthanc.port}", "--calling", TITLE)
    return {
        "get": (*pacs, "--retrieve", "get"),
        "move": (*pacs, "--retrieve", "move", "--listen", f"127.0.0.1:{orthanc.knows[TITLE][1]}"),
        "dicomweb": ("--dicomweb", orthanc.dicomweb),
    }[name]


def test_each_way_out_of_the_archive_gives_the_same_collection(tmp_path: Path, orthanc: Orthanc, drop: Path) -> None:
    """With the same salt, byte by byte; and nobody is named."""
    secrets = set[str]().union(*(patient.secrets() for patient in PATIENTS))
    contents = {}
    for name in ("get", "move", "dicomweb"):
        out, private = tmp_path / name, tmp_path / f"{name}.private"
        private.mkdir()
        (private / "salt").write_bytes(b"s" * 32)
        done = here("--out", out, "--reports", drop, *way(name, orthanc))
        assert done.exit_code == 0, done.output
        assert len(pairs(out)) == KEPT
        assert leaks(out, secrets) == []
        assert not any(secret.lower() in done.output.lower() for secret in secrets)
        contents[name] = {
            str(file.relative_to(out)): file.read_bytes() for file in sorted(out.rglob("*")) if file.is_file()
        }
    assert contents["get"] == contents["move"] == contents["dicomweb"]


def test_days_limit_what_is_asked_for(tmp_path: Path, orthanc: Orthanc, drop: Path) -> None:
    first, last = PATIENTS[3].day, PATIENTS[4].day
    for name in ("get", "dicomweb"):
        told = ("--reports", drop, "--from", f"{first}", "--to", f"{last}", *way(name, orthanc))
        assert here("--out", tmp_path / name, *told).exit_code == 0
        assert [one["report_source"] for one in pairs(tmp_path / name)] == ["hl7", "fhir"]


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        (("--calling", "STRANGER"), "if it is up, let it know STRANGER"),
        (("--calling", "NOWHERE", "--retrieve", "move"), "it has to reach NOWHERE at 127.0.0.1:"),
        (("--pacs", "WRONG@127.0.0.1:{port}"), "rejects the association"),
        (("--pacs", "ORTHANC@127.0.0.1:{free}"), "PEER_UNREACHABLE"),
    ],
)
def test_an_archive_that_refuses_is_told_with_the_cause(
    tmp_path: Path, orthanc: Orthanc, changes: tuple[str, ...], told: str
) -> None:
    port = free_port()
    given = [one.format(port=orthanc.port, free=free_port()) for one in changes]
    done = here("--out", tmp_path / "c", *way("get", orthanc), "--listen", f"127.0.0.1:{port}", *given)
    assert told in done.output, done.output
    assert done.exit_code == 2
    assert "Traceback" not in done.output
    assert pairs(tmp_path / "c") == []


def test_an_archive_is_asked_over_tls_with_certificates_on_both_sides(tmp_path: Path) -> None:
    hospital, strange = Authority(tmp_path, "hospital"), Authority(tmp_path, "strange")
    ours, theirs = hospital.issue("collect"), hospital.issue("pacs")
    server = Orthanc(tmp_path / "orthanc", {TITLE: ("127.0.0.1", free_port())})
    config = tmp_path / "orthanc" / "orthanc.json"
    tls = {
        "DicomTlsEnabled": True,
        "DicomTlsCertificate": str(theirs.certificate),
        "DicomTlsPrivateKey": str(theirs.key),
        "DicomTlsTrustedCertificates": str(hospital.ca),
    }
    config.write_text(json.dumps(json.loads(config.read_text()) | tls))
    write_series(SR, tmp_path / "dicom")
    part10(sr(SR, SR.prose()), tmp_path / "dicom" / "report.dcm")
    with server:
        upload(tmp_path / "dicom", server)
        for name, ca, kept in (("good", hospital.ca, 1), ("bad", strange.ca, 0)):
            pacs = {
                "ae_title": server.ae_title, "host": "127.0.0.1", "port": server.port,
                "tls": {"ca": str(ca), "certificate": str(ours.certificate), "key": str(ours.key)},
            }  # fmt: skip
            (tmp_path / "collect.yaml").write_text(yaml.safe_dump({"out": str(tmp_path / name), "pacs": pacs}))
            done = here("--config", tmp_path / "collect.yaml")
            assert len(pairs(tmp_path / name)) == kept, done.output
            assert ("one side may not trust" in done.output) is not bool(kept)


@pytest.mark.parametrize("name", ["get", "dicomweb"])
def test_an_archive_that_goes_away_is_gone_on_with(tmp_path: Path, orthanc: Orthanc, drop: Path, name: str) -> None:
    out = tmp_path / "c"
    told = ("--out", out, "--reports", drop, *way(name, orthanc))
    with (tmp_path / "log").open("wb") as log:
        running = subprocess.Popen(command(*told, "--rate", "80"), stdout=log, stderr=log, env=environment())
    deadline = time.monotonic() + 60
    while not ((out / "pairs.jsonl").exists() and pairs(out)):
        assert running.poll() is None, (tmp_path / "log").read_text()
        assert time.monotonic() < deadline
        time.sleep(0.05)
    orthanc.stop(signal.SIGKILL)
    try:
        assert running.wait(60) == 2, (tmp_path / "log").read_text()
    finally:
        orthanc.start()
    first = pairs(out)
    assert 1 <= len(first) < KEPT
    log_text = (tmp_path / "log").read_text()
    assert "PEER_UNREACHABLE" in log_text
    assert "goes on from here" in log_text
    done = here(*told)
    assert done.exit_code == 0, done.output
    assert pairs(out)[: len(first)] == first
    assert len({str(one["pair_id"]) for one in pairs(out)}) == len(pairs(out)) == KEPT
