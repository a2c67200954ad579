"""A whole node for chaos tests, seen from outside: its processes, its log, its `status`, what lies on its disk."""

import hashlib
import json
import os
import signal
import sys
import time
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

from peers import Node
from sqlalchemy import select
from typer.testing import CliRunner

from config import Settings
from node.children import listens
from node.cli import app
from node.database import Records, open_database
from node.errors import CommandError
from node.records import Instance, Job, Series, SpoolSegment
from node.spool import scan, segments

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
PATIENCE_S = 120.0
_COMMAND = [sys.executable, str(HERE / "fast_node.py")]
_ENVIRONMENT = {"PYTHONPATH": f"{ROOT}{os.pathsep}{HERE}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"}


class ChaosNode(Node):
    """`fvlm-node serve` with a fast model, short waits, and small series allowed."""

    def __init__(
        self, folder: Path, destinations: dict[str, Any], environment: dict[str, str] | None = None, **settings: Any
    ) -> None:
        quick: dict[str, Any] = {
            "routing": {"destinations": list(destinations), "min_slices": 3},
            "completion": {"quiet_s": 1.0},
            "work": {"reconcile_s": 0.5, "lease_s": 20.0},
            "delivery": {"retry_first_s": 0.3, "retry_max_s": 2.0, "timeout_s": 5.0},
            "restart_max_s": 0.5,
        }
        super().__init__(folder, destinations, **quick | settings)
        self.command = [*_COMMAND, "serve", "--config", str(self.config)]
        usual = {"OMP_NUM_THREADS": "1", "COLUMNS": "160"}
        self.environment = _ENVIRONMENT | usual | (environment or {})
        self.control = self.data / "control"

    # --- processes

    def processes(self) -> dict[str, list[int]]:
        """Role -> process ids; `receiving` are the receiver's processes, `broker` the embedded broker."""
        found: dict[str, list[int]] = {}
        for pid in children(self.process.pid if self.process is not None else 0):
            role = _role(pid)
            found.setdefault(role, []).append(pid)
            if role == "receiver":
                found["receiving"] = children(pid)
        return found

    def one(self, role: str) -> int:
        """The process of a role; waits until there is one."""
        wait_for(lambda: self.processes().get(role), f"a process: {role}", self)
        return self.processes()[role][0]

    def kill(self, role: str) -> int:
        """`kill -9` of a process of a role; its id."""
        pid = self.one(role)
        os.kill(pid, signal.SIGKILL)
        return pid

    def wait_until_ready(self) -> None:
        """It listens, and every role has come to its work."""
        roles = {"receiver", "reconciler", "deliver", "analyze"}
        wait_for(lambda: listens(self.port) and self.processes().keys() >= roles, "every process", self)
        wait_for(lambda: self.events("model_loaded"), "the model", self)

    # --- what an operator sees

    def command_output(self, *arguments: str) -> str:
        """What a command of ours prints about this node, run in this process: a new one costs seconds of imports."""
        environment = self.environment | {"COLUMNS": "300"}
        done = CliRunner().invoke(app, [*arguments, "--config", str(self.config)], env=environment)
        if isinstance(done.exception, CommandError):
            return f"{done.output}{done.exception}"
        if done.exception is not None and not isinstance(done.exception, SystemExit):
            raise done.exception
        return done.output

    def status(self) -> str:
        """`fvlm-node status`."""
        return self.command_output("status", "--limit", "1000")

    def events(self, name: str, **values: object) -> list[dict[str, Any]]:
        """Log lines of an event with these values, of all processes."""
        found = []
        for file in (*(self.data / "logs").glob("*.log"), self.log):
            for line in file.read_text(errors="replace").splitlines() if file.is_file() else ():
                if f'"{name}"' in line and line.startswith("{"):
                    entry = json.loads(line)
                    if entry.get("event") == name and values.items() <= entry.items():
                        found.append(entry)
        return found

    # --- what is on the disk and in the database

    @cached_property
    def settings(self) -> Settings:
        return Settings.load(self.config)

    def stored(self, spool: Path | None = None) -> dict[str, set[str]]:
        """SOP Instance UID -> SHA-256 of the data sets that good records of the spool (default: its own) hold."""
        found: dict[str, set[str]] = {}
        for path in segments(spool or self.data / "spool"):
            with path.open("rb") as file:
                for record in scan(path):
                    data = os.pread(file.fileno(), record.end - record.data_set_offset, record.data_set_offset)
                    found.setdefault(record.origin.sop_instance_uid, set()).add(hashlib.sha256(data).hexdigest())
        return found

    def records(self) -> Records:
        return Records(open_database(self.settings.database))

    def indexed(self) -> dict[str, set[str]]:
        """SOP Instance UID -> SHA-256 of the data sets that the index knows."""
        records = self.records()
        found: dict[str, set[str]] = {}
        with records.reading() as session:
            for uid, digest in session.execute(select(Instance.sop_instance_uid, Instance.sha256)):
                found.setdefault(uid, set()).add(digest)
        records.engine.dispose()
        return found

    def states(self, series_uid: str) -> list[tuple[str, str | None]]:
        """State and reason of each generation of a series, the job's if there is one."""
        records = self.records()
        with records.reading() as session:
            rows = session.execute(
                select(Series, Job).outerjoin(Job).where(Series.series_instance_uid == series_uid)
                .order_by(Series.generation, Job.id)
            )  # fmt: skip
            found = [(str((job or series).state), (job or series).reason) for series, job in rows]
        records.engine.dispose()
        return found

    def all_states(self) -> dict[str, str]:
        """Series Instance UID -> state of its newest generation, the newest job's if there is one."""
        records = self.records()
        with records.reading() as session:
            query = select(Series.series_instance_uid, Series.state, Job.state).outerjoin(Job)
            rows = session.execute(query.order_by(Series.generation, Job.id)).all()
        records.engine.dispose()
        return {uid: str(job or series) for uid, series, job in rows}

    def lost_segments(self) -> list[str]:
        """Segments in the spool that the index does not know."""
        records = self.records()
        with records.reading() as session:
            known = set(session.scalars(select(SpoolSegment.name)))
        records.engine.dispose()
        return [path.name for path in segments(self.data / "spool") if path.name not in known]


def children(pid: int) -> list[int]:
    """Ids of the living children of a process."""
    try:
        listed = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        return []
    return [int(child) for child in listed]


def _role(pid: int) -> str:
    """Of a child of `serve`, by its title, or by its command line before it has one."""
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return "gone"
    if "valkey" in words:
        return "broker"
    known = ("receiver", "reconciler", "deliver", "analyze", "shadow", "console")
    return next((role for role in known if f"fvlm-node: {role}" in words or f"fast_worker {role}" in words), "other")


def wait_for(condition: Any, what: str, node: Node | None = None, patience_s: float = PATIENCE_S) -> Any:
    """Wait for a true value and return it; fails with what the node logged last."""
    deadline = time.monotonic() + patience_s
    while not (value := condition()):
        assert time.monotonic() < deadline, f"waited in vain: {what}\n{_last_words(node)}"
        time.sleep(0.1)
    return value


def _last_words(node: Node | None) -> str:
    if node is None:
        return ""
    files = [node.log, *(node.data / "logs").glob("*.log")]
    return "\n".join(f"--- {file.name}\n{file.read_text(errors='replace')[-1500:]}" for file in files)


def pacs(name: str, ae_title: str, port: int) -> dict[str, Any]:
    """A destination of the settings."""
    return {name: {"ae_title": ae_title, "host": "127.0.0.1", "port": port}}


def all_pids(node: ChaosNode) -> Iterator[tuple[str, int]]:
    """Every process of a node with its role, `serve` itself included."""
    if node.process is not None:
        yield "serve", node.process.pid
    for role, pids in node.processes().items():
        for number, pid in enumerate(pids, 1):
            yield (f"{role} {number}" if role == "receiving" else role), pid
