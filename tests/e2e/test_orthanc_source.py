"""Orthanc as sender: it asks for storage commitment, and says by C-FIND and QIDO-RS how many images a series has."""

import json
import sys
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from peers import NO_NAGLE, Orthanc, Process, until
from sqlalchemy import select

from config import Settings
from config.settings import CompletionSettings, DicomSettings, Source
from node.children import free_port, listens
from node.database import Records, open_database
from node.migrations import upgrade
from node.records import CommitmentRequest, Series, Signal
from node.states import State
from node.worker import write_settings

pytestmark = [pytest.mark.peers, pytest.mark.timeout(900)]


class _Role(Process):
    """One process of a node."""

    def __init__(self, role: str, settings: Settings) -> None:
        file = settings.data_dir / f"{role}.json"
        write_settings(settings, file)
        command = [sys.executable, "-m", "node.worker", role, str(file)]
        super().__init__(command, settings.data_dir / f"{role}.log", NO_NAGLE)
        self._port = settings.dicom.port if role == "receiver" else 0

    def ready(self) -> bool:
        return not self._port or listens(self._port)


@contextmanager
def _node(settings: Settings) -> Iterator[Records]:
    """Receiver and reconciler; nothing is read, as there is no broker."""
    settings.data_dir.mkdir()
    records = Records(open_database(settings.database))
    upgrade(records.engine)
    with _Role("receiver", settings), _Role("reconciler", settings):
        yield records


def _settings(folder: Path, orthanc: Orthanc, **source: object) -> Settings:
    known = Source(ae_title="ORTHANC", host="127.0.0.1", port=orthanc.port, **source)
    return Settings(
        data_dir=folder / "node",
        dicom=DicomSettings(port=free_port(), accept_from=("ORTHANC",), min_free_mb=0, receivers=1),
        completion=CompletionSettings(quiet_s=3600.0, missing_s=7200.0),
        sources={"orthanc": known},
        broker_url="redis://127.0.0.1:1/0",
    )


def _rest(orthanc: Orthanc, path: str, content: bytes | None = None, method: str | None = None) -> Any:
    request = urllib.request.Request(f"http://127.0.0.1:{orthanc.http_port}{path}", content, method=method)
    with urllib.request.urlopen(request, timeout=120) as answer:
        return json.loads(answer.read() or b"null")


def _send(orthanc: Orthanc, settings: Settings, folder: Path, commitment: bool) -> tuple[int, dict[str, Any]]:
    """Put a series into Orthanc and let it send it to the node; the number of images, and what became of the job."""
    files = sorted(folder.glob("*.dcm"))
    for file in files:
        _rest(orthanc, "/instances", file.read_bytes())
    port = settings.dicom.port
    modality = {"AET": "FVLM", "Host": "127.0.0.1", "Port": port, "AllowStorageCommitment": True}
    _rest(orthanc, "/modalities/node", json.dumps(modality).encode(), "PUT")
    (series,) = _rest(orthanc, "/series")
    wanted = {"Resources": [series], "StorageCommitment": commitment, "Asynchronous": True}
    job = _rest(orthanc, "/modalities/node/store", json.dumps(wanted).encode())["ID"]

    def done() -> Any:
        state = _rest(orthanc, f"/jobs/{job}")
        return state if state["State"] in ("Success", "Failure") else None

    state = until(done, 120, "Orthanc has sent", orthanc.log)
    assert state["State"] == "Success", state
    return len(files), state["Content"]


def _closed(records: Records) -> list[tuple[str, str | None, int | None, int | None]]:
    with records.reading() as session:
        return [(s.state, s.signal, s.received, s.expected) for s in session.scalars(select(Series))]


def test_orthanc_is_told_that_the_node_keeps_what_it_sent(
    orthanc: Orthanc, make_series: Callable[..., Path], tmp_path: Path
) -> None:
    settings = _settings(tmp_path, orthanc)
    with _node(settings) as records:
        count, job = _send(orthanc, settings, make_series(), commitment=True)
        transaction = job["StorageCommitmentTransactionUID"]

        def status() -> Any:
            answer = _rest(orthanc, f"/storage-commitment/{transaction}")
            return answer if answer["Status"] != "Pending" else None

        answer = until(status, 120, "the report", settings.data_dir / "receiver.log")
        assert answer["Status"] == "Success"
        assert len(answer["Success"]) == count
        until(lambda: [row[0] for row in _closed(records)] == [State.VETTED], 120, "the series is closed")
        ((_, signal, received, _),) = _closed(records)
        assert received == count
        assert signal in (Signal.COMMITMENT, Signal.RELEASE)  # whichever the reconciler saw first

        def confirmed() -> bool:
            with records.reading() as session:
                return session.scalars(select(CommitmentRequest.ended_at)).one() is not None

        until(confirmed, 120, "the request is done")


@pytest.mark.parametrize("how", ["C-FIND", "QIDO-RS"])
def test_orthanc_counts_the_images_of_a_series(
    orthanc: Orthanc, make_series: Callable[..., Path], tmp_path: Path, how: str
) -> None:
    asked = {"find": True} if how == "C-FIND" else {"dicomweb_url": orthanc.dicomweb}
    settings = _settings(tmp_path, orthanc, **asked)
    with _node(settings) as records:
        count, _ = _send(orthanc, settings, make_series(), commitment=False)
        until(
            lambda: [row[1:] for row in _closed(records)] == [(Signal.FIND_COUNT, count, count)],
            120,
            "closed by the count",
            settings.data_dir / "reconciler.log",
        )
