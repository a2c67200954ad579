"""What tests of the way in need: small CT data sets, a spool with a database, a receiver in a process of its own."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from pydicom import Dataset, dcmwrite
from pydicom.dataset import FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pynetdicom.dsutils import encode as encode_data_set

from config import Settings
from config.settings import CompletionSettings, DicomSettings
from node.database import Records, open_database
from node.indexer import Indexer
from node.intake import Intake, IntakeSession, Stored
from node.migrations import upgrade
from node.spool import Ending

REPOSITORY = Path(__file__).parents[2]
ROOT = "1.2.826.0.1.3680043.8.498"
SECRET = ("PLANTED^NAME", "PLANTED-ID-4711", "19470811")
"""Name, id and date of birth of the patient of every test data set."""


def ct_slice(series: int = 1, number: int = 1, side: int = 32, study: int = 1, fill: int = 0) -> Dataset:
    """One axial CT slice of a regular stack, 2 mm apart."""
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.SOPClassUID = CTImageStorage
    dataset.SOPInstanceUID = f"{ROOT}.{series}.{number}"
    dataset.StudyInstanceUID = f"{ROOT}.9{study}"
    dataset.SeriesInstanceUID = f"{ROOT}.{series}"
    dataset.FrameOfReferenceUID = f"{ROOT}.{series}.0"
    dataset.Modality = "CT"
    dataset.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    dataset.PatientName, dataset.PatientID, dataset.PatientBirthDate = SECRET
    dataset.InstanceNumber = number
    dataset.ImagePositionPatient = [-100.0, -100.0, 2.0 * number]
    dataset.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    dataset.PixelSpacing = [1.0, 1.0]
    dataset.Rows = dataset.Columns = side
    dataset.SamplesPerPixel = 1
    dataset.PhotometricInterpretation = "MONOCHROME2"
    dataset.BitsAllocated = dataset.BitsStored = 16
    dataset.HighBit = 15
    dataset.PixelRepresentation = 1
    dataset.RescaleSlope, dataset.RescaleIntercept = 1, 0
    rng = np.random.default_rng([series, number, fill])
    dataset.PixelData = rng.integers(-1000, 1000, (side, side), dtype=np.int16).tobytes()
    return dataset


def encode(dataset: Dataset, syntax: str = ExplicitVRLittleEndian) -> bytes:
    """The data set alone, as a sender puts it on the wire."""
    encoded = encode_data_set(dataset, syntax == ImplicitVRLittleEndian, True)
    assert encoded is not None
    return encoded


def write_file(dataset: Dataset, path: Path) -> Path:
    """A Part 10 file, Explicit VR Little Endian."""
    dcmwrite(path, dataset, enforce_file_format=True)
    return path


def store(session: IntakeSession, dataset: Dataset) -> Stored:
    """Put a data set through the intake; it must be taken."""
    answer = session.store(dataset.SOPClassUID, dataset.SOPInstanceUID, ExplicitVRLittleEndian, encode(dataset))
    assert isinstance(answer, Stored), answer
    return answer


def settings_for(data_dir: Path, **dicom: object) -> Settings:
    """Settings on loopback with a free port, a short quiet time and small limits."""
    return Settings(
        data_dir=data_dir,
        dicom=DicomSettings(**{"port": 0, "min_free_mb": 0, **dicom}),
        completion=CompletionSettings(quiet_s=0.5),
    )


class Bench:
    """A spool, its database and its indexer, in this process."""

    def __init__(self, data_dir: Path) -> None:
        data_dir.mkdir(exist_ok=True)
        self.settings = settings_for(data_dir)
        self.intake = Intake(self.settings.spool_dir, 0)
        self.open_database()

    def open_database(self) -> None:
        self.records = Records(open_database(self.settings.database))
        upgrade(self.records.engine)
        self.indexer = Indexer(self.records, self.settings.spool_dir, poll_s=0.0)

    def lose_database(self) -> None:
        """Delete it and start with an empty one."""
        self.records.engine.dispose()
        for path in self.settings.data_dir.glob("node.sqlite*"):
            path.unlink()
        self.open_database()

    def receive(self, *datasets: Dataset, ending: Ending | None = None) -> None:
        """One association with these data sets, which ended so (None: nobody can tell), and index them."""
        with self.intake.open("STORESCU", "FVLM") as session:
            for dataset in datasets:
                store(session, dataset)
            session.close(ending)
        self.indexer.catch_up()


_MAIN = """
import sys
from pathlib import Path
from config import Settings
from node.logs import configure_logs
from node.receiver import run_receiver
configure_logs("json")
settings = Settings.model_validate_json(Path(sys.argv[1]).read_text())
status = run_receiver(settings, lambda port: print(port, flush=True))
print("torch" in sys.modules, flush=True)
sys.exit(status)
"""


@dataclass
class Receiver:
    """A running receiver process."""

    process: subprocess.Popen[str]
    port: int
    settings: Settings
    log: list[str] = field(default_factory=list)

    def events(self, name: str) -> list[dict[str, object]]:
        """Log lines of one event."""
        return [line for line in map(json.loads, list(self.log)) if line["event"] == name]

    def wait_for(self, name: str, **values: object) -> dict[str, object]:
        """The first log line of an event with these values; AssertionError if it does not come."""
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            for line in self.events(name):
                if values.items() <= line.items():
                    return line
            time.sleep(0.02)
        raise AssertionError(f"no {name} with {values} in the log:\n{''.join(self.log)}")

    def end(self, number: int = signal.SIGTERM) -> tuple[int, str]:
        """Send a signal; the exit status and what was printed after the port."""
        self.process.send_signal(number)
        assert self.process.stdout is not None
        rest = self.process.stdout.read()
        return self.process.wait(30), rest


@contextmanager
def receiver(settings: Settings) -> Iterator[Receiver]:
    """Start a receiver process and wait until it listens; it is killed at the end if it still runs."""
    settings.data_dir.mkdir(parents=True, exist_ok=True)
    file = settings.data_dir / "settings.json"
    file.write_text(settings.model_dump_json())
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        [sys.executable, "-c", _MAIN, str(file)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment, cwd=settings.data_dir,
    )  # fmt: skip
    log: list[str] = []
    reader = threading.Thread(target=lambda: log.extend(process.stderr or ()), daemon=True)
    reader.start()
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line, "the receiver did not start:\n" + "".join(log)
        yield Receiver(process, int(line), settings, log)
    finally:
        process.kill()
        process.wait()
        reader.join()
        for pipe in (process.stdout, process.stderr):
            if pipe is not None:
                pipe.close()


def dcmtk(*command: str | Path) -> subprocess.CompletedProcess[str]:
    """Run a DCMTK tool to its end (with TCP_NODELAY, as DCMTK leaves Nagle's algorithm on)."""
    return subprocess.run(
        [str(part) for part in command], env={**os.environ, "TCP_NODELAY": "1"},
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip


def read_until_closed(connection: socket.socket) -> bytes:
    """Everything the peer sends until it closes."""
    parts: list[bytes] = []
    try:
        while data := connection.recv(65536):
            parts.append(data)
    except ConnectionResetError:
        pass
    return b"".join(parts)
