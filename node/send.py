"""Send a folder of DICOM files by C-STORE, as a scanner or an archive would: `fvlm-node send`."""

import time
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydicom import dcmread
from pydicom.errors import InvalidDicomError
from pynetdicom import AE
from pynetdicom.presentation import PresentationContext, build_context

from node.errors import CommandError
from node.scu import associate

_PER_ASSOCIATION = 128
"""Presentation contexts that one association can propose (odd ids 1 to 255; DICOM PS3.8 section 9.3.2.2)."""
_SUCCESS, _WARNINGS = 0x0000, {0xB000, 0xB006, 0xB007}
"""C-STORE statuses with which the receiver has kept the instance (DICOM PS3.4 table B.2-1)."""
_PAUSES_S = (1.0, 2.0, 4.0)
"""Wait before each new association for what a dropped one left, seconds."""


@dataclass(frozen=True)
class Peer:
    """The storage SCP to send to, and the name to call oneself."""

    host: str
    port: int
    called: str
    calling: str

    def __str__(self) -> str:
        return f"{self.called} at {self.host}:{self.port}"


@dataclass
class Sent:
    """What became of the files."""

    accepted: int = 0
    not_dicom: list[Path] = field(default_factory=list)
    refused: dict[str, int] = field(default_factory=dict)
    """Why the receiver did not take instances -> how many."""

    def refuse(self, why: str) -> None:
        self.refused[why] = self.refused.get(why, 0) + 1


def send_folder(folder: Path, peer: Peer, on_file: Callable[[int, int], None], on_again: Callable[[str], None]) -> Sent:
    """Send every DICOM file under `folder`; `on_file(done, total)` after each that was answered.

    If the receiver drops the association, what it has not answered is sent over a new one, at most three times in all;
    `on_again` is told each time, in a line. Raises CommandError if the folder holds no DICOM file, or if the receiver
    cannot be reached, rejects the association or keeps dropping it.
    """
    sent = Sent()
    files: list[Path] = []
    contexts: dict[tuple[str, str], PresentationContext] = {}
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        kind = _kind(path)
        if kind is None:
            sent.not_dicom.append(path)
            continue
        files.append(path)
        contexts.setdefault(kind, build_context(*kind))
    if not files:
        raise CommandError(f"{folder} holds no DICOM file.", "Name a folder with DICOM Part 10 files.")
    if len(contexts) > _PER_ASSOCIATION:
        raise CommandError(
            f"{folder} holds {len(contexts)} kinds of object; one association carries {_PER_ASSOCIATION}.",
            "Send its subfolders one by one.",
        )
    left = deque(files)
    association = _associate(peer, contexts.values())
    pauses = iter(_PAUSES_S)
    while True:
        _send(association, left, sent, lambda: on_file(len(files) - len(left), len(files)))
        if not left:
            return sent
        dropped = f"{peer} ended the association after {len(files) - len(left)} of {len(files)} files"
        pause = next(pauses, None)
        if pause is None:
            cause = f"{dropped}; sending the rest was tried {len(_PAUSES_S)} times more."
            raise CommandError(cause, "Look into the receiver's log; sending again does no harm.")
        on_again(f"{dropped}; sending the rest again in {pause:.0f} s.")
        time.sleep(pause)
        with suppress(CommandError):  # then the one that has ended counts as tried
            association = _associate(peer, contexts.values())


def _associate(peer: Peer, contexts: Iterable[PresentationContext]) -> Any:
    """An established association. Raises CommandError."""
    association = associate(AE(ae_title=peer.calling), peer.host, peer.port, peer.called, list(contexts))
    if association.is_rejected:
        raise CommandError(
            f"{peer} rejects the association of {peer.calling}.",
            "Check both AE titles; the node's dicom.accept_from must name the caller.",
        )
    if not association.is_established:
        raise CommandError(f"{peer} does not answer.", "Check that it runs, its host, port and the firewall.")
    return association


def _send(association: Any, left: deque[Path], sent: Sent, on_file: Callable[[], None]) -> None:
    """Send the files that are `left` until none is or the association ends; each that was answered is taken out."""
    try:
        while left:
            try:
                status = association.send_c_store(left[0]).get("Status")
            except ValueError:
                sent.refuse("the receiver does not accept this kind of object or its transfer syntax")
            except RuntimeError:  # the association has ended
                return
            else:
                if status is None:
                    association.abort()  # it may not know yet that it has ended; a release would wait
                    return
                if status == _SUCCESS or status in _WARNINGS:
                    sent.accepted += 1
                else:
                    sent.refuse(f"status 0x{status:04X}")
            left.popleft()
            on_file()
    finally:
        if association.is_established:
            association.release()


def _kind(path: Path) -> tuple[str, str] | None:
    """SOP class and transfer syntax of a Part 10 file; None for anything else."""
    try:
        meta = dcmread(path, stop_before_pixels=True, specific_tags=["SOPClassUID"]).file_meta
        return str(meta.MediaStorageSOPClassUID), str(meta.TransferSyntaxUID)
    except (InvalidDicomError, AttributeError, OSError, ValueError, EOFError):
        return None
