"""What the status of a C-STORE, or the reason that STOW-RS gives for an object, means for the outbox."""

from config import Reason
from node.outbox import Fate, Outcome

_WARNINGS = {
    0x0001: "stored, some optional attributes were ignored",
    0x0107: "stored, some attributes were not known",
    0x0116: "stored, a value was out of range",
    0xB000: "stored, but data elements were coerced (changed)",
    0xB006: "stored, but data elements were discarded",
    0xB007: "stored, although the data set does not match the SOP class",
}
"""PS3.4 table B.2-1, PS3.7 annex C."""
_PERMANENT = {
    0x0117: "invalid SOP instance",
    0x0118: "no such SOP class",
    0x0119: "SOP class and instance do not fit",
    0x0122: "SOP class not supported",
    0x0124: "not authorized",
}
"""PS3.7 annex C: a repeat does not mend it."""
_DUPLICATE_INSTANCE = 0x0111
"""The peer has the instance already (PS3.7 C.5.8): the same UID is the same object here."""


def judge(status: int | None, what: str = "C-STORE status") -> Outcome:
    """What became of an object (DICOM PS3.4 table B.2-1, PS3.7 annex C, PS3.18 10.5); None: no answer came."""
    if status is None:
        return Outcome(Fate.AWAY, Reason.PEER_UNREACHABLE, "the peer did not answer C-STORE")
    text = f"{what} 0x{status:04X}"
    if status == 0x0000:
        return Outcome(Fate.STORED)
    if status == _DUPLICATE_INSTANCE:
        return Outcome(Fate.STORED, detail=f"{text}: the destination had the object already")
    if status in _WARNINGS or status & 0xF000 == 0xB000:
        return Outcome(Fate.STORED, Reason.STORED_WITH_WARNING, f"{text}: {_WARNINGS.get(status, 'stored, warning')}")
    if status & 0xFF00 == 0xA700:
        return Outcome(Fate.RETRY, Reason.PEER_REFUSED, f"{text}: out of resources")
    if status & 0xFF00 == 0xA900:
        return Outcome(Fate.REFUSED, Reason.PEER_REFUSED, f"{text}: the data set does not match the SOP class")
    if status & 0xF000 == 0xC000:
        return Outcome(Fate.REFUSED, Reason.PEER_REFUSED, f"{text}: the destination cannot understand the object")
    if status in _PERMANENT:
        return Outcome(Fate.REFUSED, Reason.PEER_REFUSED, f"{text}: {_PERMANENT[status]}")
    return Outcome(Fate.RETRY, Reason.PEER_REFUSED, text)
