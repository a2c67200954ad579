"""`fvlm-node serve` as the real command: it starts, says where it listens, survives its children, ends clean."""

import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx2
import pytest
import yaml
from pynetdicom import AE
from pynetdicom.sop_class import Verification
from rows import add_job, job
from running import wait_for
from sqlalchemy import update
from test_cli import fvlm_node

from config import Settings
from node.children import free_port
from node.database import Records, open_database
from node.leases import take
from node.node_lock import node_runs, running_ports
from node.records import Job
from node.roles import worker_name
from node.states import State

ROOT = Path(__file__).parents[2]
ROLES = {"receiver", "reconciler", "deliver", "analyze", "console"}
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")


class Node:
    """One running `serve` and what the kernel knows about it."""

    def __init__(self, folder: Path, **settings: object) -> None:
        self.port = free_port()
        self.data = folder / "data"
        self.config = folder / "node.yaml"
        content = {
            "data_dir": str(self.data),
            "dicom": {"port": self.port, "accept_from": ["TESTER"]},
            "model": {"release": str(folder / "none")},  # the node runs without; its series wait
            "console": {"port": 0},
            **settings,
        }
        self.config.write_text(yaml.safe_dump(content))
        self.printed = folder / "printed.txt"
        with self.printed.open("wb") as out:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "node", "serve", "--config", str(self.config)],
                stdout=out,
                stderr=subprocess.STDOUT,
                cwd=ROOT,
                env={**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "160"},
                start_new_session=True,
            )

    def output(self) -> str:
        return self.printed.read_text()

    def children(self) -> dict[str, int]:
        """Process title (or program) -> process id of every living child."""
        found = {}
        for stat in Path("/proc").glob("[0-9]*/stat"):
            try:
                fields = stat.read_text().rpartition(")")[2].split()
                if int(fields[1]) == self.process.pid and fields[0] != "Z":
                    title = stat.with_name("cmdline").read_bytes().replace(b"\0", b" ").decode().strip()
                    found[title.removeprefix("fvlm-node: ").split(" ")[0].rpartition("/")[2]] = int(stat.parent.name)
            except (FileNotFoundError, ProcessLookupError):
                continue
        return found

    def echo(self) -> bool:
        ae = AE(ae_title="TESTER")
        ae.add_requested_context(Verification)
        association = ae.associate("127.0.0.1", self.port, ae_title="FVLM")
        if not association.is_established:
            return False
        status = association.send_c_echo().Status
        association.release()
        return bool(status == 0)


@contextmanager
def running(folder: Path, **settings: object) -> Iterator[Node]:
    node = Node(folder, **settings)
    try:
        yield node
    finally:
        if node.process.poll() is None:
            node.process.terminate()
            try:
                node.process.wait(40)
            except subprocess.TimeoutExpired:
                node.process.kill()
                node.process.wait()


def _gone(pids: list[int]) -> bool:
    for pid in pids:
        try:
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z":
                return False
        except (FileNotFoundError, ProcessLookupError):
            continue
    return True


def test_starts_tells_restarts_and_ends(tmp_path: Path) -> None:
    peer = {"pacs": {"ae_title": "MYPACS", "host": "127.0.0.1", "port": 104}}
    with running(tmp_path, destinations=peer, routing={"destinations": ["pacs"]}) as node:
        wait_for(lambda: "fVLM Node runs" in node.output(), "the summary")
        told = node.output()
        for expected in (f"FVLM on 127.0.0.1:{node.port}", "TESTER", "MYPACS at 127.0.0.1:104", str(node.config)):
            assert expected in told
        assert node.echo()
        children = node.children()
        assert set(children) >= {"receiver", "reconciler", "valkey-server"}
        os.kill(children["receiver"], signal.SIGKILL)
        os.kill(children["valkey-server"], signal.SIGKILL)
        wait_for(lambda: node.children().get("receiver") not in (None, children["receiver"]), "a new receiver")
        wait_for(node.echo, "the new receiver to answer")
        wait_for(lambda: "valkey-server" in node.children(), "a new broker")
        assert "process_died" in node.output()
        assert "MODEL_UNAVAILABLE" in node.output()
        assert "broker_died" in node.output()
        pids = list(node.children().values())
        node.process.send_signal(signal.SIGINT)
        assert node.process.wait(40) == 0
        assert _gone(pids)
    assert "fVLM Node ended" in node.output()
    assert "Traceback" not in node.output()
    assert {path.stem for path in (node.data / "logs").glob("*.log")} == ROLES
    assert not any("Traceback" in path.read_text() for path in (node.data / "logs").glob("*.log"))
    assert not (node.data / "run" / "settings.json").exists()
    assert node.data.stat().st_mode & 0o077 == 0


def _page(port: int, password: str) -> int:
    """Status of the console's first page; 0 while nobody listens."""
    try:
        return httpx2.get(f"http://127.0.0.1:{port}/", auth=("console", password), timeout=60).status_code
    except httpx2.TransportError:
        return 0


def _processes(port: int, password: str) -> set[str]:
    """Roles of the processes that the console sees."""
    answer = httpx2.get(f"http://127.0.0.1:{port}/api/overview", auth=("console", password), timeout=60)
    return {row["role"] for row in answer.json()["processes"]}


def test_the_console_is_told_opens_with_the_password_shown_once_and_survives_kill_9(tmp_path: Path) -> None:
    with running(tmp_path) as node:
        wait_for(lambda: "fVLM Node runs" in node.output(), "the summary")
        found = re.search(r"http://127\.0\.0\.1:(\d+)/[^\n]*\n[^\n]*password (\S+)", node.output())
        assert found, node.output()
        port, password = int(found[1]), found[2]
        wait_for(lambda: _page(port, password) == 200, "the console")
        assert _page(port, "another") == 401
        assert _processes(port, password) >= {"serve", "receiver", "reconciler", "deliver", "console"}
        before = node.children()["console"]
        os.kill(before, signal.SIGKILL)
        wait_for(lambda: node.children().get("console") not in (None, before), "a new console")
        wait_for(lambda: _page(port, password) == 200, "the new console on the same port")
        assert node.echo()
        kept = node.data / "console-password"
        assert kept.stat().st_mode & 0o077 == 0
        texts = [path for path in node.data.rglob("*") if path.is_file() and password.encode() in path.read_bytes()]
        assert texts == [], "the password is kept somewhere"
    with running(tmp_path) as again:
        wait_for(lambda: "fVLM Node runs" in again.output(), "the summary")
        assert "shown this once" not in again.output()


def test_a_taken_console_port_keeps_no_image_out(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with running(tmp_path, console={"port": port}) as node:
            wait_for(lambda: "fVLM Node runs" in node.output(), "the summary")
            assert node.echo()
            log = node.data / "logs" / "console.log"
            wait_for(lambda: log.is_file() and "console_cannot_listen" in log.read_text(), "the cause in the log")
            pid = node.children()["console"]
            taken.close()
            wait_for(lambda: _page(port, "wrong") == 401, "the console, once the port is free")
            assert node.children()["console"] == pid


def _fails(folder: Path, **settings: object) -> str:
    node = Node(folder, **settings)
    assert node.process.wait(60) == 2
    assert "Traceback" not in node.output()
    return node.output()


def test_a_taken_port_is_one_line_with_the_cure_and_status_2(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        told = _fails(tmp_path, dicom={"port": port})
    assert f"cannot listen on 127.0.0.1:{port}" in told
    assert "dicom.port" in told


def test_an_address_of_another_machine(tmp_path: Path) -> None:
    assert "dicom.host" in _fails(tmp_path, dicom={"host": "192.0.2.1"})


def test_a_data_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    told = _fails(tmp_path, data_dir=str(tmp_path / "file" / "data"))
    assert "cannot be written" in told
    assert "Set data_dir" in told


def test_a_database_that_cannot_be_used(tmp_path: Path) -> None:
    told = _fails(tmp_path, database_url=f"sqlite:///{tmp_path}/no/such/folder/node.sqlite")
    assert "The database" in told
    assert "database_url" in told


def test_kill_9_of_the_supervisor_leaves_no_process_and_a_console_not_wanted_is_not_started(tmp_path: Path) -> None:
    with running(tmp_path, console={"enabled": False}) as node:
        wait_for(lambda: "fVLM Node runs" in node.output(), "the summary")
        assert "Console" not in node.output()
        assert "console" not in node.children()
        assert not (node.data / "console-password").exists()
        pids = list(node.children().values())
        assert len(pids) >= 3
        node.process.kill()
        node.process.wait()
        wait_for(lambda: _gone(pids), "the children to die")


def test_the_start_after_kill_9_is_alone_is_seen_and_ends_with_its_jobs_waiting(tmp_path: Path) -> None:
    (tmp_path / "second").mkdir()
    with running(tmp_path) as killed:
        wait_for(lambda: "fVLM Node runs" in killed.output(), "the summary")
        killed.process.kill()
        killed.process.wait()
    with running(tmp_path) as node:
        wait_for(lambda: "fVLM Node runs" in node.output(), "the summary")
        assert node.echo()
        assert "Another node runs" in _fails(tmp_path / "second", data_dir=str(node.data))
        wait_for(lambda: "MODEL_UNAVAILABLE" in node.output(), "the worker to give up")
        _told_while_it_runs(node)
        records = Records(open_database(Settings.load(node.config).database))
        mine, others = add_job(records, "2.25.1"), add_job(records, "2.25.2")
        with records.session() as session:
            assert take(session, mine, f"{worker_name('analyze', node.data)}/1", 3600.0)
            assert take(session, others, "another machine/1", 3600.0)
            session.execute(update(Job).where(Job.id == mine).values(attempts=2))
        node.process.send_signal(signal.SIGTERM)
        assert node.process.wait(40) == 0
    # What was running here waits again, and the attempt that the end cut short is not counted.
    assert [(job(records, each).state, job(records, each).attempts) for each in (mine, others)] == [
        (State.QUEUED, 1),
        (State.RUNNING, 1),
    ]
    assert (node.data / "logs" / "reconciler.log").read_text().count("found_at_start") == 2
    _told_after_its_end(node)


def _told_while_it_runs(node: Node) -> None:
    """By `status` and `doctor`."""
    assert node_runs(node.data)
    assert node.port in running_ports(node.data)
    told = fvlm_node("status", "--config", node.config).stdout
    assert "not running" not in told
    assert "MODEL_UNAVAILABLE" in told
    port = next(line for line in fvlm_node("doctor", "--config", node.config).stdout.splitlines() if "port" in line)
    assert port.startswith("ok")
    assert "this node runs and listens there" in port


def _told_after_its_end(node: Node) -> None:
    """By `status` and `doctor`, while another program has its port."""
    assert not node_runs(node.data)
    told = fvlm_node("status", "--config", node.config).stdout
    assert "The node is not running" in told
    assert "fvlm-node serve" in told
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", node.port))
        taken.listen()
        found = fvlm_node("doctor", "--config", node.config).stdout
    assert next(line for line in found.splitlines() if "DICOM port" in line).startswith("problem")
