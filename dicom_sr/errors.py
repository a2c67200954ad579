"""What goes wrong when objects are written or read."""

from collections.abc import Iterator
from contextlib import contextmanager

from config import Reason


class WriteError(ValueError):
    """The objects cannot be written. Carries the stable reason code; the text holds no patient data."""

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail


class ReadError(ValueError):
    """What was to be read is not DICOM, not such a report, or damaged. The text holds no value of it."""


@contextmanager
def reading_foreign(what: str) -> Iterator[None]:
    """Whatever goes wrong within is raised as ReadError. Its text holds no value: that might be the patient's."""
    try:
        yield
    except ReadError:
        raise
    except Exception as error:  # pydicom decodes elements as they are asked for, and raises nearly any type then
        raise ReadError(f"{what} ({type(error).__name__})") from error
