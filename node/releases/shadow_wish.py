"""Whether a process that reads in shadow is wanted: the reconciler tells `node.serve` by a file in the data folder.

So the supervisor needs no database: one that hangs must not keep it from starting what died.
"""

from contextlib import suppress
from pathlib import Path


def tell(data_dir: Path, wanted: bool) -> None:
    """Say so. Where nobody supervises (`data_dir/run` is not there) nobody has to be told."""
    with suppress(OSError):
        if wanted:
            _file(data_dir).touch()
        else:
            _file(data_dir).unlink(missing_ok=True)


def is_wanted(data_dir: Path) -> bool:
    """What was told last."""
    return _file(data_dir).exists()


def _file(data_dir: Path) -> Path:
    return data_dir / "run" / "shadow-wanted"
