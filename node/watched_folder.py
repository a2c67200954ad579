"""A watched folder: DICOM files that are put there go through the door, then to `done` or `rejected` beside them.

A file is moved after it is durable in the spool. A crash in between lets it be taken once more, which the index knows
as the same; so nothing is lost, and nothing has to be remembered.
"""

import fcntl
import os
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Event

import structlog

from config import Reason, Settings
from config.inlet_settings import WatchedFolder
from node.intake import Intake, IntakeSession, Refused
from node.part10_stream import Part10Stream, accepted_classes

_log = structlog.get_logger(__name__)

DONE, REJECTED = "done", "rejected"
_UNFINISHED = (".part", ".tmp", ".filepart", ".crdownload")
_READ = 2**20
_LATER = (Reason.DISK_FULL, Reason.SPOOL_FAILED)
_AT_ONCE = 5000
"""Files of one pass, and so of one segment."""


@dataclass
class _Seen:
    mark: tuple[int, ...]
    """What changes when the file does."""
    since: float
    """Since when it is so (monotonic clock), seconds."""


class FolderWatch:
    """Watches one folder. One thread."""

    def __init__(
        self, name: str, folder: WatchedFolder, settings: Settings, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Raises OSError if there is no spool."""
        self._name, self._folder, self._clock = name, folder, clock
        self._called = settings.dicom.ae_title
        self._intake = Intake(settings.spool_dir, settings.dicom.min_free_mb * 2**20)
        self._classes = accepted_classes(settings)
        self._longest = settings.web.max_object_mb * 2**20
        self._seen: dict[Path, _Seen] = {}
        self._stuck: dict[Path, tuple[int, ...]] = {}
        """Files that cannot be read or moved, as they were then; told once."""
        self._away = ""

    def run(self, ended: Event) -> None:
        """Pass after pass until `ended`."""
        while not ended.is_set():
            try:
                self.once(ended)
                self._tell("")
            except OSError as error:
                self._tell(error.strerror or type(error).__name__)
            except Exception:  # whatever goes wrong with one folder, the other ways in go on
                _log.exception("folder_failed", folder=self._name)
            ended.wait(self._folder.poll_s)

    def once(self, ended: Event) -> int:
        """Take what is whole; how many were stored. Raises OSError if the folder or the spool is away."""
        ready = self._ready()[:_AT_ONCE]
        if not ready:
            return 0
        stored = rejected = 0
        with self._intake.open(self._folder.ae_title, self._called) as session:
            for path in ready:
                if ended.is_set():
                    break
                taken = self._take(session, path)
                stored += taken is True
                rejected += taken is False
        if stored or rejected:
            _log.info("folder_taken", folder=self._name, stored=stored, rejected=rejected)
        return stored

    def _ready(self) -> list[Path]:
        """Files that have been as they are for long enough, and that nobody writes. Raises OSError."""
        at, present = self._clock(), dict(self._files())
        self._seen = {path: seen for path, seen in self._seen.items() if path in present}
        self._stuck = {path: mark for path, mark in self._stuck.items() if present.get(path) == mark}
        found = []
        for path, mark in present.items():
            seen = self._seen.get(path)
            if seen is None or seen.mark != mark:
                self._seen[path] = _Seen(mark, at)
            elif at - seen.since >= self._folder.settle_s and path not in self._stuck and not _is_written(path):
                found.append(path)
        return sorted(found)

    def _files(self) -> Iterator[tuple[Path, tuple[int, ...]]]:
        """Every file that may be an image. Raises OSError if the folder is not there."""
        root = self._folder.path
        root.stat()
        for folder, folders, names in os.walk(root):
            here = Path(folder)
            folders[:] = [n for n in folders if not n.startswith(".") and not (here == root and n in (DONE, REJECTED))]
            for name in names:
                path = here / name
                if name.startswith(".") or path.suffix.lower() in _UNFINISHED:
                    continue
                with suppress(OSError):  # it is gone
                    status = path.lstat()
                    if stat.S_ISREG(status.st_mode):
                        yield path, (status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)

    def _take(self, session: IntakeSession, path: Path) -> bool | None:
        """True: stored; False: rejected; None: it cannot be read or moved. Raises OSError if the spool has no place."""
        stream = Part10Stream(session, self._classes, self._longest)
        try:
            with os.fdopen(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC), "rb") as file:
                while piece := file.read(_READ):
                    stream.write(piece)
        except OSError as error:
            self._leave(path, error)
            return None
        answer = stream.finish()
        if isinstance(answer, Refused) and answer.reason in _LATER:
            raise OSError(0, answer.comment)
        try:
            if isinstance(answer, Refused):
                moved = self._move(path, REJECTED)
                moved.with_name(moved.name + ".reason.txt").write_text(f"{answer.reason}: {answer.comment}\n")
                return False
            self._move(path, DONE)
        except OSError as error:
            self._leave(path, error)
            return None
        return True

    def _move(self, path: Path, where: str) -> Path:
        """Into a folder of the same disk, under the same relative name, or with a number if there is one. OSError."""
        target = self._folder.path / where / path.relative_to(self._folder.path)
        target.parent.mkdir(parents=True, exist_ok=True)
        for number in range(1, 10_000):
            if not target.exists():
                break
            target = target.with_name(f"{path.stem}.{number}{path.suffix}")
        path.rename(target)
        return target

    def _leave(self, path: Path, error: OSError) -> None:
        """Not again before it changes. Its name is not logged: it may be a patient's."""
        seen = self._seen.get(path)
        if seen is not None:
            self._stuck[path] = seen.mark
        cause = error.strerror or type(error).__name__
        _log.error("folder_file_left", folder=self._name, detail=f"a file cannot be read or moved: {cause}")

    def _tell(self, error: str) -> None:
        """Log that the folder or the spool went away or came back, once each."""
        if error and error != self._away:
            _log.error("folder_away", folder=self._name, detail=error)
        elif self._away and not error:
            _log.info("folder_back", folder=self._name)
        self._away = error


def _is_written(path: Path) -> bool:
    """Whether somebody holds the file open for writing; False where the file system cannot say (network disks)."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return False  # reading it will say why
    try:
        fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_RDLCK)
        fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    except BlockingIOError:
        return True
    except OSError:
        return False
    finally:
        os.close(descriptor)
    return False
