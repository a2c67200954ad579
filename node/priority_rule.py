"""How urgent a series is: what its images ask for, if the settings let its sender say so, else what they say of it."""

from pathlib import Path

import structlog
from sqlalchemy.orm import Session

from config import Priority, Settings
from config.priority import REQUESTED
from ct.part10 import Unfit, Window, data_set_start, parsing, read_until_pixels
from ct.volume import SourceSlice
from node.completion import series_slices
from node.records import Series

_log = structlog.get_logger(__name__)

_REQUESTED_PROCEDURE_PRIORITY = 0x00401003


class PriorityRule:
    """The rule of `settings.routing`: `priorities` and `priority_from_images`."""

    def __init__(self, settings: Settings) -> None:
        self._rule, self._spool_dir = settings.routing, settings.spool_dir

    def of(self, session: Session, series: Series) -> Priority:
        """The priority of a series; its last image decides if the images of its sender are asked."""
        sender = series.source_ae
        if sender in self._rule.priority_from_images:
            slices = series_slices(session, series, self._spool_dir)
            asked = requested(slices[-1]) if slices else None
            if asked is not None:
                return asked
        return Priority.named(self._rule.priorities.get(sender, "routine"))


def requested(source: SourceSlice) -> Priority | None:
    """Requested Procedure Priority (0040,1003) of a stored image; None if it says nothing that is known."""
    try:
        return REQUESTED.get(_text(source.path, source.offset, source.length).upper())
    except (OSError, Unfit) as error:
        _log.warning("priority_not_read", segment=source.path.name, offset=source.offset, error=type(error).__name__)
        return None


def _text(path: Path, offset: int, length: int | None) -> str:
    with path.open("rb") as file, parsing():
        window = Window(file, offset, path.stat().st_size - offset if length is None else length)
        stream, syntax = data_set_start(window)
        return read_until_pixels(stream, syntax, [_REQUESTED_PROCEDURE_PRIORITY]).text(_REQUESTED_PROCEDURE_PRIORITY)
