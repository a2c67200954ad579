"""Small files that are on the disk when a peer is told so."""

import os
from pathlib import Path

from node.spool import sync_folder


def write_durably(file: Path, content: str) -> None:
    """Write a file, or take the place of the one that is there, and wait for the disk; half a file is never seen.

    Its folder is made if need be; in it, the name with a dot before and `.new` behind belongs to this writer. Raises
    OSError.
    """
    if not file.parent.exists():
        file.parent.mkdir(exist_ok=True)
        sync_folder(file.parent.parent)
    unready = file.with_name(f".{file.name}.new")
    with unready.open("w", encoding="ascii") as out:
        out.write(content)
        out.flush()
        os.fsync(out.fileno())
    unready.rename(file)
    sync_folder(file.parent)
