"""What radiologists said of the node's findings, laid beside the pairs it is about."""

import json
import os
import re
from pathlib import Path
from typing import Any

from fvlm.reading import Verdict
from training.archive.entries import CollectError
from training.archive.ledger import Ledger
from training.archive.secret import Secret

_KEPT = ("finding", "release_digest", "probability", "verdict", "reader_verdict", "agrees", "source")
"""Of a line of `fvlm-node feedback export`, what goes into the collection as it is."""


def join(file: Path, ledger: Ledger, secret: Secret, out: Path) -> tuple[int, int]:
    """Write `out` anew: a line for each verdict on a study that has a pair. How many, and how many have none.

    `same_series`: whether the verdict is on the very series of the pair, or on another one of its study. UIDs become
    pseudonyms, readers get new ones, times stay behind. Raises CollectError if `file` is not such an export.
    """
    kept, left = list[str](), 0
    try:
        with file.open(encoding="utf-8") as lines:
            for number, line in enumerate(lines, 1):
                if not line.strip():
                    continue
                row = _row(line, f"{file}, line {number}")
                told = {key: row.get(key) for key in _KEPT}
                if not all(_plain(value) for value in told.values()):
                    raise CollectError(f"{file}, line {number}: values that `fvlm-node feedback export` never writes")
                pair = ledger.pair_of(row["study_instance_uid"])
                if pair is None:
                    left += 1
                    continue
                about = {"pair_id": pair[0], "same_series": pair[1] == row["series_instance_uid"]}
                kept.append(json.dumps(about | told | {"reader": secret.reader(_reader(row))}))
    except (OSError, UnicodeDecodeError) as error:
        raise CollectError(f"{file} cannot be read ({type(error).__name__})") from error
    part = out.with_name(f"{out.name}.part")
    with part.open("w", encoding="utf-8") as written:
        written.writelines(f"{line}\n" for line in kept)
        written.flush()
        os.fsync(written.fileno())
    part.replace(out)
    return len(kept), left


def _row(line: str, where: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
        texts = ("study_instance_uid", "series_instance_uid", "finding", "reader_verdict")
        if isinstance(row, dict) and all(isinstance(row[key], str) for key in texts):
            return row
    except (ValueError, KeyError):
        pass
    raise CollectError(f"{where}: no verdict; give a file that `fvlm-node feedback export` wrote")


def _plain(value: Any) -> bool:
    """A number, a truth value, nothing, or a word of the vocabulary: never what might name somebody."""
    if isinstance(value, str):
        return value in tuple(Verdict) or re.fullmatch(r"[a-z0-9_.:-]{0,128}", value) is not None
    return value is None or isinstance(value, int | float)


def _reader(row: dict[str, Any]) -> str:
    """The node's own pseudonym of a reader, or the user of its console."""
    return str(row.get("reader") or (row.get("said_by") if row.get("source") == "console" else "") or "")
