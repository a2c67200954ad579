"""What goes wrong when objects are written or read."""

from config import Reason


class WriteError(ValueError):
    """The objects cannot be written. Carries the stable reason code; the text holds no patient data."""

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail


class ReadError(ValueError):
    """The data set is not a report that this package wrote."""
