"""`fvlm-node health`: whether the processes of the node on this machine live and can work. No database, no torch.

What is away for all of them alike (database, broker, a destination) makes none of them ill: they wait for it, and to
start them again would mend nothing. `fvlm-node status` and `/readyz` tell of that.
"""

import json
import urllib.error
import urllib.request
from pathlib import Path

from config import Settings
from config.settings import DicomSettings
from node.children import listens
from node.console.notice import Notice
from node.errors import CommandError
from node.node_lock import receiving_settings
from node.presence import Presence
from node.roles import ROLES, wanted, worker_name

_SILENT_S = 120.0
"""A reconciler that has made no pass for this long, beyond its pause, hangs."""
_PATIENCE_S = 5.0


def ailing(settings: Settings, role: str = "", name: str = "") -> list[str]:
    """What ails the process of a role, or (none) any process of a whole node; a line each. Raises CommandError."""
    if role and role not in ROLES:
        raise CommandError(f"{role}: there is no such role.", f"One of {', '.join(ROLES)}.")
    roles = [role] if role else wanted(settings)
    found = []
    for one in roles:
        ill = _ails(settings, one, Presence.of(settings.data_dir, worker_name(one, settings.data_dir, name)))
        if ill:
            found.append(f"{one}: {ill}")
    return found


def _ails(settings: Settings, role: str, presence: Presence) -> str:
    if not presence.lives:
        return "does not run on this machine"
    if role == "receiver":
        return _receiver(settings.data_dir)
    if role == "console":
        return _console(settings.data_dir)
    if role in ("inlets", "shadow"):
        return ""  # it lives: what it looks after may all be away, or nothing be there to read
    silent_s = presence.ready_for_s()
    if silent_s is None:
        return "has started and is not ready for work yet"
    if role == "reconciler" and silent_s > _SILENT_S + settings.work.reconcile_s:
        return f"has done nothing for {silent_s:.0f} s"
    return ""


def _receiver(data_dir: Path) -> str:
    try:
        content = json.loads(receiving_settings(data_dir).read_text(encoding="utf-8"))
        dicom = DicomSettings(**content["dicom"])
    except (OSError, ValueError, LookupError, TypeError):
        return "its port is not known"
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(dicom.host, dicom.host)
    return "" if listens(dicom.open_port, host) else f"does not listen on {host}:{dicom.open_port}"


def _console(data_dir: Path) -> str:
    told = Notice.of(data_dir).read()
    if not told.startswith("http"):
        return told or "not running"
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(f"{told}healthz", timeout=_PATIENCE_S):
            return ""
    except (OSError, ValueError) as error:
        return f"{told}healthz: {getattr(error, 'reason', error)}"
