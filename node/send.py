"""Send a folder of DICOM files by C-STORE, as a scanner or an archive would: `fvlm-node send`."""

import socket
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from pydicom import dcmread
from pydicom.errors import InvalidDicomError
from pynetdicom import AE, evt
from pynetdicom.presentation import PresentationContext, build_context

from node.errors import CommandError

_PER_ASSOCIATION = 128
"""Presentation contexts that one association can propose (odd ids 1 to 255; DICOM PS3.8 section 9.3.2.2)."""
_SUCCESS, _WARNINGS = 0x0000, {0xB000, 0xB006, 0xB007}
"""C-STORE statuses with which the receiver has kept the instance (DICOM PS3.4 table B.2-1)."""


@dataclass(frozen=True)
class Peer:
    """The storage SCP to send to, and the name to call oneself."""

    host: str
    port: int
    called: str
    calling: str


@dataclass
class Sent:
    """What became of the files."""

    accepted: int = 0
    not_dicom: list[Path] = field(default_factory=list)
    refused: dict[str, int] = field(default_factory=dict)
    """Why the receiver did not take instances -> how many."""

    def refuse(self, why: str) -> None:
        self.refused[why] = self.refused.get(why, 0) + 1


def send_folder(folder: Path, peer: Peer, on_file: Callable[[int, int], None]) -> Sent:
    """Send every DICOM file under `folder` over one association; `on_file(done, total)` after each.

    Raises CommandError if the folder holds no DICOM file, or if the receiver cannot be reached, rejects the association
    or drops it.
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
    where = f"{peer.called} at {peer.host}:{peer.port}"
    ae = AE(ae_title=peer.calling)
    association = ae.associate(
        peer.host,
        peer.port,
        contexts=list(contexts.values()),
        ae_title=peer.called,
        evt_handlers=[(evt.EVT_CONN_OPEN, _no_delay)],
    )
    if association.is_rejected:
        raise CommandError(
            f"{where} rejects the association of {peer.calling}.",
            "Check both AE titles; the node's dicom.accept_from must name the caller.",
        )
    if not association.is_established:
        raise CommandError(f"{where} does not answer.", "Check that it runs, its host, port and the firewall.")
    try:
        for done, path in enumerate(files, 1):
            try:
                status = association.send_c_store(path).get("Status")
            except ValueError:
                sent.refuse("the receiver does not accept this kind of object or its transfer syntax")
            except RuntimeError:
                sent.refuse("the association has ended")
            else:
                if status == _SUCCESS or status in _WARNINGS:
                    sent.accepted += 1
                else:
                    sent.refuse("no answer" if status is None else f"status 0x{status:04X}")
            if not association.is_established:
                raise CommandError(
                    f"{where} ended the association after {sent.accepted} of {len(files)} files.",
                    "Look into the receiver's log; sending again does no harm.",
                )
            on_file(done, len(files))
    finally:
        if association.is_established:
            association.release()
    return sent


def _kind(path: Path) -> tuple[str, str] | None:
    """SOP class and transfer syntax of a Part 10 file; None for anything else."""
    try:
        meta = dcmread(path, stop_before_pixels=True, specific_tags=["SOPClassUID"]).file_meta
        return str(meta.MediaStorageSOPClassUID), str(meta.TransferSyntaxUID)
    except (InvalidDicomError, AttributeError, OSError, ValueError, EOFError):
        return None


def _no_delay(event: evt.Event) -> None:
    # Nagle's algorithm costs up to 50 ms an image against DCMTK peers.
    event.assoc.dul.socket.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
