"""Who this node is, whatever machine or container it runs in."""

import os
import tempfile
from contextlib import suppress
from pathlib import Path

from pydicom.uid import UID, generate_uid

from config import Reason
from dicom_sr.errors import WriteError
from dicom_sr.identity import installation_uid
from node.spool import sync_folder

_NAME = "installation-uid"


def device_uid(spool_dir: Path) -> str:
    """Device UID of the node that owns a spool: drawn once and kept in it, so that it outlives machines, containers and
    databases, and is the same for all workers. Where there is no spool, that of the machine.

    Raises OSError, and WriteError (SPOOL_FAILED) if what is kept is no UID.
    """
    if not spool_dir.is_dir():
        return installation_uid()
    file = spool_dir / _NAME
    try:
        kept = file.read_text(encoding="ascii").strip()
    except FileNotFoundError:
        kept = _draw(file)
    if not UID(kept).is_valid:
        raise WriteError(Reason.SPOOL_FAILED, f"{file} holds no UID: restore it, or remove it for a new one")
    return kept


def _draw(file: Path) -> str:
    """A new UID, or the one of a process that was quicker."""
    with tempfile.NamedTemporaryFile("w", dir=file.parent, prefix=f".{_NAME}-", encoding="ascii") as new:
        new.write(generate_uid(prefix=None))
        new.flush()
        os.fsync(new.fileno())
        with suppress(FileExistsError):
            os.link(new.name, file)
    sync_folder(file.parent)
    return file.read_text(encoding="ascii")
