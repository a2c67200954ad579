"""Receiving, side by side: this node, Orthanc and dcmtk's storescp, on the same machine in the same run.

N dcmtk `storescu` send a CT of 300 slices each, at once, to a receiver that was started with an empty folder, all with
TCP_NODELAY=1. Ours answers after fdatasync and indexes into SQLite meanwhile; Orthanc has its fsync on; storescp has
none. Beside that, a sender of our own measures how long each C-STORE takes.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from bench_result import Result
from bench_sender import write_study
from sqlalchemy import func, select

from config import Settings
from config.settings import DicomSettings
from node.children import Child, free_port, listens
from node.database import Records, open_database
from node.records import Instance
from node.spool import scan, segments
from node.worker import write_settings

_NO_NAGLE = {"TCP_NODELAY": "1"}
_PDU = "131072"
_FOLDER = Path(__file__).parents[1] / ".test-data" / "bench-ingest"
"""On the repository's disk: /tmp may be memory."""


class Server:
    """A receiver on an empty folder."""

    name: str
    called: str

    def __init__(self, folder: Path) -> None:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        self.folder, self.port = folder, free_port()
        self.child = Child(self.name, self.command(), folder / "log", _NO_NAGLE)
        self.cpu_at_start = 0.0
        _until(lambda: self.child.status is not None or self.ready(), f"{self.name} is ready")
        if self.child.status is not None:
            raise SystemExit(f"{self.name} does not start: {self.child.last_line()}")
        time.sleep(0.5)
        self.cpu_at_start = self.cpu()

    def command(self) -> list[str]:
        raise NotImplementedError

    def ready(self) -> bool:
        return listens(self.port)

    def kept(self) -> int:
        """How many instances it has."""
        raise NotImplementedError

    def finished(self) -> bool:
        """Whether all of its work on `kept` instances is done."""
        return True

    def processes(self) -> list[int]:
        pid = self.child.process.pid
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        return [pid, *map(int, children)]

    def cpu(self) -> float:
        """Seconds of processor time used so far, by processes that have ended too."""
        ticks = 0
        for number, pid in enumerate(self.processes()):
            with suppress(FileNotFoundError):  # it has ended: its parent counts it
                values = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
                ticks += sum(map(int, values[11 : 15 if number == 0 else 13]))
        return ticks / os.sysconf("SC_CLK_TCK") - self.cpu_at_start

    def peak_mb(self) -> float:
        """Most memory held so far (VmHWM of its processes), MB."""
        total = 0
        for pid in self.processes():
            with suppress(FileNotFoundError):
                lines = Path(f"/proc/{pid}/status").read_text().splitlines()
                # None for a child that has ended and was not waited for.
                total += sum(int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))
        return total * 1024 / 1e6

    def stop(self) -> None:
        self.child.stop(30)
        shutil.rmtree(self.folder, ignore_errors=True)


class Ours(Server):
    name, called = "ours", "FVLM"

    def command(self) -> list[str]:
        self.settings = Settings(
            data_dir=self.folder / "data",
            dicom=DicomSettings(port=self.port, accept_from=("STORESCU",), min_free_mb=64),
        )
        self.settings.spool_dir.mkdir(parents=True)
        write_settings(self.settings, self.folder / "settings.json")
        return [sys.executable, "-m", "node.worker", "receiver", str(self.folder / "settings.json")]

    def ready(self) -> bool:
        # A whole association, so that the receiving processes are up; twice, for each of the two.
        return listens(self.port) and all(_echo(self.port, self.called) for _ in range(2))

    def kept(self) -> int:
        return sum(1 for path in segments(self.settings.spool_dir) for _ in scan(path))

    def finished(self) -> bool:
        records = Records(open_database(self.settings.database))
        try:
            with records.reading() as session:
                self.indexed = session.scalar(select(func.count()).select_from(Instance)) or 0
        finally:
            records.engine.dispose()
        return self.indexed == self.expected

    expected = 0
    indexed = 0


class Orthanc(Server):
    name, called = "orthanc", "ORTHANC"

    def command(self) -> list[str]:
        self.http_port = free_port()
        config = self.folder / "orthanc.json"
        storage = {"StorageDirectory": str(self.folder / "storage"), "IndexDirectory": str(self.folder / "index")}
        ports = {"HttpPort": self.http_port, "DicomPort": self.port, "DicomAet": self.called}
        access = {"RemoteAccessAllowed": False, "AuthenticationEnabled": False, "DicomCheckCalledAet": False}
        config.write_text(json.dumps({**storage, **ports, **access, "SyncStorageArea": True}))
        return ["Orthanc", str(config)]

    def ready(self) -> bool:
        return listens(self.port) and listens(self.http_port)

    def kept(self) -> int:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.http_port}/statistics", timeout=60) as answer:
            return int(json.load(answer)["CountInstances"])


class Storescp(Server):
    name, called = "storescp", "STORESCP"

    def command(self) -> list[str]:
        (self.folder / "kept").mkdir()
        options = ["--fork", "--max-pdu", _PDU, "-od", str(self.folder / "kept"), "-aet", self.called]
        return ["storescp", *options, str(self.port)]

    def kept(self) -> int:
        return sum(1 for _ in (self.folder / "kept").iterdir())


SERVERS = (Ours, Orthanc, Storescp)


@dataclass
class Run:
    """One receiver, one number of senders, once."""

    images_per_s: float
    cpu_ms: float
    """Server's processor time an image, indexing and all."""
    peak_mb: float
    index_lag_s: float
    """From the last answer until all was indexed."""


@dataclass
class Times:
    """Measurements of one receiver and number of senders."""

    runs: list[Run] = field(default_factory=list)
    p95_ms: list[float] = field(default_factory=list)


def measure(server_class: type[Server], studies: list[Path], slices: int) -> Run:
    """Send the studies at once with storescu."""
    server = server_class(_FOLDER / "server")
    try:
        server.expected = slices * len(studies)  # type: ignore[attr-defined]
        started = time.perf_counter()
        with ThreadPoolExecutor(len(studies)) as pool:
            list(pool.map(lambda study: _storescu(server, study), studies))
        seconds = time.perf_counter() - started
        _until(server.finished, f"{server.name} indexes all")
        lag = time.perf_counter() - started - seconds
        total, cpu, peak = slices * len(studies), server.cpu(), server.peak_mb()
        kept = server.kept()
        if kept != total:
            raise SystemExit(f"{server.name} has {kept} of {total} instances: {server.child.last_line()}")
        return Run(total / seconds, 1000 * cpu / total, peak, lag)
    finally:
        server.stop()


def measure_p95(server_class: type[Server], senders: int, slices: int) -> float:
    """95th percentile of the time that a C-STORE takes, over all images of all senders, ms."""
    server = server_class(_FOLDER / "server")
    try:
        script = str(Path(__file__).with_name("bench_sender.py"))
        command = [sys.executable, script, str(server.port), server.called, str(slices)]
        started = [
            subprocess.Popen([*command, str(n)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
            for n in range(senders)
        ]
        for sender in started:
            assert sender.stdout is not None
            sender.stdout.readline()  # it has made its images
        with ThreadPoolExecutor(senders) as pool:
            outputs = list(pool.map(lambda sender: sender.communicate("go\n")[0], started))
        return float(np.percentile([ms for output in outputs for ms in json.loads(output)], 95))
    finally:
        server.stop()


def _storescu(server: Server, study: Path) -> None:
    command = ["storescu", "-aet", "STORESCU", "-aec", server.called, "--max-send-pdu", _PDU, "+sd"]
    subprocess.run([*command, "127.0.0.1", str(server.port), str(study)], env=os.environ | _NO_NAGLE, check=True)


def _echo(port: int, called: str) -> bool:
    command = ["echoscu", "-aet", "STORESCU", "-aec", called, "127.0.0.1", str(port)]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def _until(condition: Callable[[], bool], what: str, seconds: float = 300) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise SystemExit(f"waited {seconds:.0f} s in vain: {what}")
        time.sleep(0.05)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--slices", type=int, default=300)
    parser.add_argument("--senders", type=int, nargs="+", default=[1, 2, 4, 8])
    parser.add_argument("--out", type=Path, help="folder for the result instead of benchmarks/results")
    options = parser.parse_args()
    shutil.rmtree(_FOLDER, ignore_errors=True)
    try:
        studies = [_FOLDER / f"study-{n}" for n in range(max(options.senders))]
        for number, study in enumerate(studies):
            write_study(study, number, options.slices)
        result = Result(
            "ingest",
            ("fvlm-node", "pynetdicom", "pydicom", "sqlalchemy"),
            {
                "images": f"{options.slices} slices of 512x512 int16 a sender, 526 kB each, Explicit VR Little Endian",
                "repeats": f"{options.repeats}, receivers and numbers of senders interleaved",
                "senders": f"dcmtk storescu --max-send-pdu {_PDU}; p95 by benchmarks/bench_sender.py",
                "tcp_nodelay": "1 for every peer",
                "ours": "fdatasync before each answer; indexing (SQLite) meanwhile, its CPU time counted",
                "orthanc": _version(["Orthanc", "--version"]) + ", SyncStorageArea on",
                "storescp": _version(["storescp", "--version"]) + f", --fork --max-pdu {_PDU}, no fsync",
                "filesystem": _filesystem(_FOLDER),
            },
        )
        measured = _measure_all(options.repeats, options.senders, studies, options.slices)
        _fill(result, measured, options.senders)
        result.finish(*([options.out] if options.out else []))
    finally:
        shutil.rmtree(_FOLDER, ignore_errors=True)


def _measure_all(repeats: int, senders: list[int], studies: list[Path], slices: int) -> dict[tuple[str, int], Times]:
    measured: dict[tuple[str, int], Times] = {(s.name, n): Times() for s in SERVERS for n in senders}
    for repeat in range(repeats):
        order = SERVERS[repeat % len(SERVERS) :] + SERVERS[: repeat % len(SERVERS)]  # nobody is always first
        for number in senders:
            for server in order:
                times = measured[server.name, number]
                times.runs.append(measure(server, studies[:number], slices))
                times.p95_ms.append(measure_p95(server, number, slices))
                print(
                    f"{repeat + 1}/{repeats}  {number} senders  {server.name:9}"
                    f" {times.runs[-1].images_per_s:6.0f} images/s  p95 {times.p95_ms[-1]:5.1f} ms"
                    f"  {times.runs[-1].cpu_ms:.2f} ms CPU an image",
                    flush=True,
                )
    return measured


def _fill(result: Result, measured: dict[tuple[str, int], Times], senders: list[int]) -> None:
    for number in senders:
        speeds = {s.name: [run.images_per_s for run in measured[s.name, number].runs] for s in SERVERS}
        for peer in ("orthanc", "storescp"):
            ratios = [ours / theirs for ours, theirs in zip(speeds["ours"], speeds[peer], strict=True)]
            result.add(f"ratio_vs_{peer}_{number}", ratios, 2)
        for name, values in speeds.items():
            times = measured[name, number]
            result.add(f"{name}_images_per_s_{number}", values, 0)
            result.add(f"{name}_p95_ms_{number}", times.p95_ms, 1)
            result.add(f"{name}_cpu_ms_per_image_{number}", [run.cpu_ms for run in times.runs], 2)
            result.add(f"{name}_peak_rss_mb_{number}", [run.peak_mb for run in times.runs], 0)
        result.add(f"ours_index_lag_s_{number}", [run.index_lag_s for run in measured["ours", number].runs], 2)


def _version(command: list[str]) -> str:
    """The line that a program's --version begins with."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return (done.stdout or done.stderr).strip().split("\n")[0]


def _filesystem(folder: Path) -> str:
    done = subprocess.run(["stat", "-f", "-c", "%T", str(folder)], capture_output=True, text=True, check=False)
    return done.stdout.strip()


if __name__ == "__main__":
    main()
