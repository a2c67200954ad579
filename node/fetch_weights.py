"""`fvlm-node model fetch`: TotalSegmentator's weights by the package's own download, with their checksums."""

import hashlib
import zipfile
from collections.abc import Iterator
from pathlib import Path

import requests

from ct.anatomy import SegmenterWeightsError
from ct.totalsegmentator import TotalSegmentator, default_weights, network_numbers, quiet_package
from node.errors import CommandError


def fetch_totalsegmentator(out: Path | None, *, fast: bool) -> Iterator[str]:
    """Download what is missing of task `total` (1.5 mm, or 3 mm if `fast`), which needs no licence, to `out`.

    Yields lines for the person at the terminal: SHA-256 of each file, digest of them all. Raises CommandError.
    """
    folder = (out or default_weights()).expanduser().resolve()
    try:
        numbers = network_numbers(fast)
        folder.mkdir(parents=True, exist_ok=True)
        with quiet_package(folder):
            from totalsegmentator.libs import download_pretrained_weights

            for number in numbers:
                download_pretrained_weights(number)
        segmenter = TotalSegmentator(folder, fast=fast, device="cpu")
    except SegmenterWeightsError as error:
        raise CommandError(str(error), f"If {folder} holds half a download, delete it and try again.") from error
    except (requests.RequestException, zipfile.BadZipFile) as error:
        raise CommandError(
            f"TotalSegmentator's weights cannot be downloaded: {' '.join(str(error).split())}.",
            "Run the same command on a machine with internet, then copy the folder and name it in "
            "model.totalsegmentator_weights.",
        ) from error
    except OSError as error:
        raise CommandError(
            f"{folder} cannot be written: {error.strerror}.", "Name another folder with --out."
        ) from error
    for file in segmenter.files():
        with file.open("rb") as stream:
            yield f"{hashlib.file_digest(stream, 'sha256').hexdigest()}  {file.relative_to(folder)}"
    yield f"Digest of them all, as every result names it: {segmenter.identity.digest}"
    yield f"Use it: model.segmenter: totalsegmentator, model.totalsegmentator_weights: {folder}" + (
        ", model.totalsegmentator_fast: true" if fast else ""
    )
