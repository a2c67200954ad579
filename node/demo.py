"""`fvlm-node demo`: the real node on this machine, from C-STORE to the objects in an archive, with nothing but pip.

Real processes on free loopback ports in a temporary folder: `fvlm-node serve`, the built-in archive, one process that
makes each phantom patient and one that sends it. What is shown comes from the archive.
"""

import json
import os
import re
import shutil
import signal
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn

import yaml
from rich.console import Console

from config import Reason, Settings
from ct.series import Series, scan_folder
from node.board import Board
from node.children import Child, Children, free_port, wait_for_port
from node.demo_report import Outcome, show_outcomes
from node.errors import CommandError
from node.folder_scan import Problems, find_series, place_of
from node.logs import configure_logs
from node.results import remove_results
from node.states import State
from node.watch import ENDED, QUEUED, ArchiveView, NodeView, SeriesState

DISEASES = ("lung.nodule", "lung.pleural_effusion", "heart.cardiomegaly", "kidney.cyst")
"""What the first phantom patient has; the second is healthy."""
_SLICES = 124
_QUIET_S = 1.5
_PATIENCE_S = 600.0
"""Longest wait for one step without any change."""
_DOCTOR = "Run: fvlm-node doctor"


@dataclass
class _Sender:
    """One folder of CT on its way into the node."""

    name: str
    folder: Path
    expected: int
    """Files to be made or found."""
    healthy: bool = False
    maker: Child | None = None
    sender: Child | None = None
    series: Mapping[str, str] = field(default_factory=dict)
    """Series Instance UIDs in the folder, and where each lies."""
    seconds: dict[str, float] = field(default_factory=dict)

    def expect(self, found: Sequence[Series], below: Path) -> None:
        """These series are to be sent; they were found below a folder."""
        self.series = {series.series_instance_uid: place_of(series, below) for series in found}
        self.expected = sum(len(series.headers) for series in found)

    @property
    def made(self) -> int:
        return sum(1 for _ in self.folder.rglob("*.dcm")) if self.sender is None else self.expected

    @property
    def sent(self) -> bool:
        return self.sender is not None and not self.sender.running


def run_demo(own: Path | None, out: Path, seed: int, console: Console) -> int:
    """Run it with phantoms drawn from `seed`, or with the CT in the folder `own`.

    Of `own`, each file and series that cannot be read is one line with its reason. 0 if everything came back and is
    valid, else 2; of `own`, 0 if at least one series was read. Raises CommandError naming the step, the cause and where
    the logs are. No process is left running.
    """
    if own is not None and not own.is_dir():
        raise CommandError(f"{own} is no folder.", "Name a folder with DICOM files with --input.")
    _forget_environment()
    for number in (signal.SIGTERM, signal.SIGINT):  # also where a shell started this in the background, deaf to Ctrl-C
        signal.signal(number, signal.default_int_handler)  # everything is ended and removed
    work = Path(tempfile.mkdtemp(prefix="fvlm-demo-"))
    logs = out / "logs"
    try:
        out.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(logs, ignore_errors=True)
        remove_results(out, "patient", "series")
        problems = Problems(console)
        senders = _phantoms(work)
        if own is not None:
            found = find_series(own, console, problems)
            if not found:
                console.print(f"Series read: 0 of 0. Problems: {problems.count}.", highlight=False)
                return 2
            senders = [_Sender("Own CT", _usable(found, work / "own"), 0)]
            senders[0].expect(found, own)
        try:
            with Children(logs) as children, (logs / "demo.log").open("w", encoding="utf-8") as log:
                configure_logs("json", log)
                with Board(console) as board:
                    outcomes = _Demo(work, senders, own is None, seed, children, board).run()
        finally:
            if (work / "node" / "logs").is_dir():
                shutil.copytree(work / "node" / "logs", logs, dirs_exist_ok=True)
        return show_outcomes(outcomes, ArchiveView(work / "archive"), out, console, problems)
    except OSError as error:
        raise CommandError(f"{out} or {work}: {error.strerror}.", "Name another folder with --out.") from error
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _usable(found: Sequence[Series], folder: Path) -> Path:
    """A folder of links to the files of these series: what else lies beside them is told, not sent."""
    folder.mkdir()
    for number, header in enumerate(header for series in found for header in series.headers):
        (folder / f"{number:06d}.dcm").symlink_to(header.source.path.absolute())
    return folder


def _forget_environment() -> None:
    """Drop this process's settings from the environment, for its children too: the demo has a node of its own.

    A production node's data folder, database or destinations must not get into it. Only the model may be chosen.
    """
    for name in list(os.environ):
        if name.upper().startswith("FVLM_") and not name.upper().startswith("FVLM_MODEL__"):
            del os.environ[name]


class _Demo:
    def __init__(
        self, work: Path, senders: list[_Sender], phantoms: bool, seed: int, children: Children, board: Board
    ) -> None:
        self._work, self._children, self._board = work, children, board
        self._archive_port, node_port = free_port(), free_port()
        self._config = work / "node.yaml"
        self._config.write_text(yaml.safe_dump(_configuration(work, node_port, self._archive_port)))
        self._settings = Settings.load(self._config)
        self._senders, self._phantoms = senders, phantoms
        self._seed = seed
        self._changed_s = 0.0
        self._last_seen: object = None

    def run(self) -> list[Outcome]:
        """The steps, until every series has come to an end in the node. Raises CommandError."""
        archive_folder = self._work / "archive"
        self._board.tell("archive and node start", 0, 2)
        archive = self._children.start(
            "archive", "node.archive_scp", archive_folder, "--ae-title", "ARCHIVE", "--port", self._archive_port
        )
        node = self._children.start("node", "node", "serve", "--config", self._config)
        self._make_phantoms()
        for number, (child, port) in enumerate(((archive, self._archive_port), (node, self._settings.dicom.port)), 1):
            if not wait_for_port(port, child):
                self._stop(child, "does not listen")
            self._board.tell("archive and node start", number, 2)
        view = NodeView(self._settings)
        while True:
            states = view.series()
            self._push()
            self._report(states)
            if all(sender.sent for sender in self._senders) and self._ended(states):
                return self._outcomes(states)
            for child in (archive, node):
                if not child.running:
                    self._stop(child, "ended early")
            self._check_model()
            self._check_patience(states)
            time.sleep(0.2)

    def _make_phantoms(self) -> None:
        if not self._phantoms:
            return
        for number, sender in enumerate(self._senders):
            chosen = ("none",) if sender.healthy else DISEASES
            diseases = [part for key in chosen for part in ("--disease", key)]
            name = f"phantom-{number + 1}"
            sender.maker = self._children.start(
                name, "node", "phantom", "--seed", self._seed + number, *diseases, "--out", sender.folder
            )

    def _push(self) -> None:
        """Send each folder once it is whole. Raises CommandError if making or sending failed."""
        for number, sender in enumerate(self._senders, 1):
            if sender.maker is not None and sender.sender is None and sender.maker.running:
                continue
            if sender.maker is not None and sender.maker.status:
                self._stop(sender.maker, f"ended with status {sender.maker.status}")
            if sender.sender is None:
                self._send(sender, number)
            elif sender.sender.status and self._phantoms:
                self._stop(sender.sender, f"ended with status {sender.sender.status}")

    def _send(self, sender: _Sender, number: int) -> None:
        if sender.maker is not None:
            sender.expect(scan_folder(sender.folder).series, sender.folder)
            sender.seconds["make the phantom"] = self._board.elapsed_s
        sender.sender = self._children.start(
            f"send-{number}", "node", "send", sender.folder, "--to", f"127.0.0.1:{self._settings.dicom.port}",
            "--called", "FVLM", "--calling", "DEMO",
        )  # fmt: skip

    def _report(self, states: Mapping[str, SeriesState]) -> None:
        known = [states[uid] for sender in self._senders for uid in sender.series if uid in states]
        images = sum(sender.expected for sender in self._senders)
        series = sum(len(sender.series) or 1 for sender in self._senders)
        if self._phantoms:
            self._board.tell("phantom patients: slices", sum(sender.made for sender in self._senders), images)
        self._board.tell("C-STORE: images in the node", sum(state.images for state in known), images)
        ended = sum(state.state in ENDED for state in known)
        note = ", ".join(sorted({state.state.lower() for state in known}))
        for title, stage in (("vetted and queued: series", QUEUED), ("analysed, encoded: series", "encode")):
            passed = sum(stage in state.seconds or state.state in ENDED for state in known)
            self._board.tell(title, passed, series, note)
        self._board.tell("results in the archive: series", ended, series)

    def _ended(self, states: Mapping[str, SeriesState]) -> bool:
        expected = [uid for sender in self._senders for uid in sender.series]
        if not self._phantoms:
            known = [uid for uid in expected if uid in states]
            if not known:
                return self._nothing_taken(self._senders[0].sender)
            expected = known  # kinds of object that the node does not take are not its to end
        return all(uid in states and states[uid].state in ENDED for uid in expected)

    def _nothing_taken(self, sender: Child | None) -> bool:
        """The sender has ended, and nothing of it is in the index: whether nothing will be."""
        if sender is None:
            return False
        accepted = re.search(r"^(\d+) instances accepted", sender.log.read_text(errors="replace"), re.MULTILINE)
        if accepted is None:
            self._stop(sender, "brought nothing into the node")
        return accepted[1] == "0"

    def _outcomes(self, states: Mapping[str, SeriesState]) -> list[Outcome]:
        outcomes = []
        for sender in self._senders:
            for number, (uid, place) in enumerate(sender.series.items(), 1):
                name = sender.name if self._phantoms else f"Series {number}"
                state = states.get(uid)
                if state is None:
                    state = SeriesState(0, State.REJECTED, Reason.NOT_CT, "the node took none of its images")
                drawn = None if not self._phantoms else () if sender.healthy else DISEASES
                seconds = {**sender.seconds, **state.seconds}
                outcomes.append(Outcome(name, uid, sender.folder, place, drawn, state, seconds))
        return outcomes

    def _check_model(self) -> None:
        """The worker cannot load the model: the node would try for ever."""
        log = self._settings.data_dir / "logs" / "analyze.log"
        for line in log.read_text(encoding="utf-8").splitlines() if log.is_file() else []:
            if '"event": "model_unavailable"' in line:
                detail = json.loads(line)["detail"]
                raise CommandError(f"Step '{self._board.current}': the model cannot be loaded: {detail}", _DOCTOR)

    def _check_patience(self, states: Mapping[str, SeriesState]) -> None:
        now = [(state.images, state.state) for state in states.values()], [sender.made for sender in self._senders]
        if now != self._last_seen:
            self._changed_s, self._last_seen = self._board.elapsed_s, now
        elif self._board.elapsed_s - self._changed_s > _PATIENCE_S:
            raise CommandError(
                f"Step '{self._board.current}': nothing has happened for {_PATIENCE_S:.0f} s.",
                f"Look into {self._children.logs}",
            )

    def _stop(self, child: Child, what: str) -> NoReturn:
        last = child.last_line()
        raise CommandError(
            f"Step '{self._board.current}': the process '{child.name}' {what}" + (f": {last}" if last else "."),
            f"Whole log: {child.log}",
        )


def _configuration(work: Path, port: int, archive_port: int) -> dict[str, object]:
    """The node's configuration file: a short quiet time, one sender, the archive as destination."""
    return {
        "data_dir": str(work / "node"),
        "dicom": {"ae_title": "FVLM", "port": port, "accept_from": ["DEMO"], "min_free_mb": 256},
        "completion": {"quiet_s": _QUIET_S},
        "routing": {"destinations": ["archive"]},
        "destinations": {
            "archive": {"ae_title": "ARCHIVE", "host": "127.0.0.1", "port": archive_port, "commitment": False}
        },
        "work": {"reconcile_s": 0.5},
    }


def _phantoms(work: Path) -> list[_Sender]:
    return [
        _Sender("Patient 1", work / "patient-1", _SLICES),
        _Sender("Patient 2", work / "patient-2", _SLICES, healthy=True),
    ]
