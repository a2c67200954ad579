"""The model: a Volume and an AnatomyMap in, a Reading out. Knows no DICOM and no service.

The names below are loaded on first use, so that `fvlm.reading` and `fvlm.config` stay free of torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fvlm.checkpoint import load_release, save_release
    from fvlm.model import FVLM
    from fvlm.official import import_official
    from fvlm.reader import Reader
    from fvlm.release import Release, ReleaseError

__all__ = ["FVLM", "Reader", "Release", "ReleaseError", "import_official", "load_release", "save_release"]

_HOMES = {
    "FVLM": "fvlm.model",
    "Reader": "fvlm.reader",
    "Release": "fvlm.release",
    "ReleaseError": "fvlm.release",
    "import_official": "fvlm.official",
    "load_release": "fvlm.checkpoint",
    "save_release": "fvlm.checkpoint",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'fvlm' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
