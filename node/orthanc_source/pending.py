"""Images that Orthanc told of and that belong to no stable series yet. They hold the cursor back.

Orthanc keeps in its memory alone which series are not stable: one that was started again within its StableAge never
tells of them. So an image that waits for too long is asked about.
"""

from dataclasses import dataclass


@dataclass
class _Seen:
    seq: int
    look_at: float
    """When it is asked about (monotonic clock), seconds."""


class Pending:
    """In the order of their change numbers."""

    def __init__(self, settle_s: float) -> None:
        self._settle_s = settle_s
        self._seen: dict[str, _Seen] = {}

    def came(self, instance: str, seq: int, at: float) -> None:
        """A new image, or new content of one. `at`: monotonic clock, seconds."""
        self._seen.pop(instance, None)
        self._seen[instance] = _Seen(seq, at + self._settle_s)

    def settle(self, instances: tuple[str, ...]) -> None:
        """They are done with: in the spool, or not to be fetched."""
        for instance in instances:
            self._seen.pop(instance, None)

    def postpone(self, instances: tuple[str, ...], at: float) -> None:
        """Their series is not stable yet; ask again later."""
        for instance in instances:
            if instance in self._seen:
                self._seen[instance].look_at = at + self._settle_s

    def overdue(self, at: float) -> str | None:
        """An image to ask about."""
        return next((name for name, seen in self._seen.items() if seen.look_at <= at), None)

    def cursor(self, read_to: int) -> int:
        """Up to where everything is done with, if the changes have been read to `read_to`."""
        first = next(iter(self._seen.values()), None)
        return read_to if first is None else min(read_to, first.seq - 1)

    def __len__(self) -> int:
        return len(self._seen)
