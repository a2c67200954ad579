"""The node's processes on this machine, as the kernel knows them (Linux): children of the same `fvlm-node serve`."""

import os
from datetime import UTC, datetime
from pathlib import Path

from node.console.views import ProcessRow

_TITLE = "fvlm-node: "
"""What `node.processes.name_process` puts before the role."""


def siblings(proc: Path = Path("/proc")) -> list[ProcessRow]:
    """This process and the children of its parent that carry the node's title, and theirs; empty where there is no
    /proc, or when the console was not started by `serve`.
    """
    found: dict[int, tuple[int, ProcessRow]] = {}
    for folder in proc.glob("[0-9]*"):
        try:
            title = (folder / "cmdline").read_bytes().split(b"\0")[0].decode("utf-8", "replace").strip()
            if title.startswith(_TITLE):
                found[int(folder.name)] = _process(folder, title.removeprefix(_TITLE))
        except (OSError, ValueError, IndexError):
            continue  # it ended while it was looked at
    serve = os.getppid()
    if serve not in found:
        return []
    family = {serve}
    for _ in range(3):  # serve, its children, and the receiver's
        family |= {pid for pid, (parent, _) in found.items() if parent in family}
    return sorted((found[pid][1] for pid in family), key=lambda row: row.started_at)


def _process(folder: Path, role: str) -> tuple[int, ProcessRow]:
    """Parent and view (proc(5), stat: field 4 is the parent, 22 the start in ticks, 24 the pages in memory)."""
    fields = (folder / "stat").read_text().rpartition(")")[2].split()
    parent, ticks, pages = int(fields[1]), int(fields[19]), int(fields[21])
    booted = next(
        int(line.split()[1]) for line in (folder.parent / "stat").read_text().splitlines() if line.startswith("btime")
    )
    started = datetime.fromtimestamp(booted + ticks / os.sysconf("SC_CLK_TCK"), UTC)
    row = ProcessRow(
        role=role, pid=int(folder.name), started_at=started, memory_bytes=pages * os.sysconf("SC_PAGE_SIZE")
    )
    return parent, row
