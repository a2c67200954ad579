"""Whether a convolution kernel is one for soft tissue, by the vendors' habits of naming them.

A name is no measurement: it tells which of two reconstructions of a scan is the smoother one, nothing more.
"""

import re
from collections.abc import Sequence

_SIEMENS = re.compile(r"[BHIJQSTUD][a-z]{0,2}([0-9]{2})[a-z]?(_[0-9])?", re.ASCII)
"""B30f, Br40d, Hr38, I30f, Qr44, Bl57: the number grows with sharpness."""
_SIEMENS_SHARP = 50
_CANON = re.compile(r"FC ?([0-9]{2})", re.ASCII | re.IGNORECASE)
"""FC08: 00 to 29 are for body and head, 30 to 39 for bone, 50 to 59 and from 80 on for lung."""
_SOFT = frozenset({"STANDARD", "SOFT", "DETAIL", "STND", "A", "B", "C", "UA", "UB", "UC"})
_SHARP = frozenset(
    {"LUNG", "BONE", "BONEPLUS", "EDGE", "ULTRA", "CHEST", "D", "E", "L", "EC", "YA", "YB", "YC", "YD"}
)  # fmt: skip
"""GE's names, and the letters of Philips."""


def is_soft(kernel: Sequence[str]) -> bool | None:
    """Whether the values of Convolution Kernel (0018,1210) name one for soft tissue; None: nothing that is known."""
    name = kernel[0].strip() if kernel else ""
    if siemens := _SIEMENS.fullmatch(name):
        return int(siemens[1]) < _SIEMENS_SHARP
    if canon := _CANON.fullmatch(name):
        number = int(canon[1])
        return number < 30 if not 40 <= number < 50 and not 60 <= number < 80 else None
    if name.upper() in _SOFT:
        return True
    return False if name.upper() in _SHARP else None
