"""The roles of the node's processes, and what a process that holds one is called."""

import platform
from pathlib import Path

ROLES = ("receiver", "reconciler", "deliver", "analyze", "console")
"""In the order in which they are started and told to end; the console only if it is enabled."""
MANY = ("analyze", "deliver")
"""Roles that a node may have more than once."""
MOST_OF_NAME = 8
"""Characters of what tells workers of one role on one machine apart."""


def worker_name(role: str, data_dir: Path, name: str = "") -> str:
    """What the process of a role on this machine and a data folder is called, the same after a restart; `name` (at most
    MOST_OF_NAME characters) tells several on one machine apart.
    """
    return f"{platform.node()[:30]}:{data_dir.resolve().name[:20]}:{role}" + (f":{name}" if name else "")
