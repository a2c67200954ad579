"""What a worklist tells its subscribers, whichever the protocol (PS3.4 CC.2.3 and CC.2.4)."""

from dataclasses import dataclass

GLOBAL_SUBSCRIPTION = "1.2.840.10008.5.1.4.34.5"
"""UPS Global Subscription SOP Instance: all workitems, those of later too."""
CANCEL_REQUESTED, PROGRESS_REPORT = 2, 3
"""Event Type IDs (PS3.4 table CC.2.4-1)."""


@dataclass(frozen=True)
class Notice:
    """One event: something changed; a cancel request names its workitem."""

    cancel: str = ""
    """SOP Instance UID of the workitem that is asked to be cancelled."""
