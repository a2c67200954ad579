"""What a reader answers to a result: in SR and Key Object Selections, in the console, in the training data."""

from enum import StrEnum


class ReaderVerdict(StrEnum):
    """What a reader says of a finding, or of a result as a whole (the last two)."""

    PRESENT = "present"
    ABSENT = "absent"
    UNDETERMINED = "undetermined"
    REMOVED = "removed"
    """The finding was taken out of the report."""
    REJECTED = "rejected"
    OF_INTEREST = "of_interest"
