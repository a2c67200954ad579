"""The roles of the node's processes, and what a process that holds one is called."""

import platform
from pathlib import Path

from config import Settings

ROLES = ("receiver", "inlets", "reconciler", "deliver", "messenger", "analyze", "shadow", "console")
"""In the order in which they are started and told to end."""
MANY = ("analyze", "deliver")
"""Roles that a node may have more than once."""
MOST_OF_NAME = 8
"""Characters of what tells workers of one role on one machine apart."""


def wanted(settings: Settings) -> list[str]:
    """Roles of a whole node that the settings want. `shadow` is not among them: it comes and goes with a release in
    shadow.
    """
    optional = {
        "inlets": settings.has_inlets,
        "messenger": bool(settings.messages.destinations),
        "shadow": False,
        "console": settings.console.enabled,
    }
    return [role for role in ROLES if optional.get(role, True)]


def worker_name(role: str, data_dir: Path, name: str = "") -> str:
    """What the process of a role on this machine and a data folder is called, the same after a restart; `name` (at most
    MOST_OF_NAME characters) tells several on one machine apart.
    """
    return f"{platform.node()[:30]}:{data_dir.resolve().name[:20]}:{role}" + (f":{name}" if name else "")
