"""What a source finds: the studies, and those that it had to leave out."""

from collections.abc import Mapping
from dataclasses import dataclass

from training.shards.folder import Skipped
from training.study import Study


@dataclass(frozen=True)
class Listing:
    """Studies in order of their keys."""

    studies: tuple[Study, ...]
    dropped: tuple[Skipped, ...] = ()


def attributes(row: Mapping[str, str], columns: Mapping[str, str]) -> dict[str, str]:
    """What a table says of a scan, by our names; `columns` takes the table's names to ours."""
    return {ours: text for theirs, ours in columns.items() if (text := row.get(theirs, "").strip())}
