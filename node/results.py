"""The results of one series as files in a folder: SR.dcm, SEG.dcm and so on, report.txt, summary.png."""

import re
from collections.abc import Sequence
from pathlib import Path

from PIL import Image
from pydicom import Dataset

from config import Output
from dicom_sr import as_text, output_of
from node.errors import CommandError

_OURS = re.compile(rf"(?:{'|'.join(Output)})(?:-[0-9]+)?\.dcm|report\.txt|summary\.png")


def remove_results(out: Path, *kinds: str) -> None:
    """Remove the results of earlier runs from `out/KIND-N`: nobody shall take them for today's.

    Only our own files go, and the folder if nothing else is in it. Raises CommandError if they cannot be removed.
    """
    ours = re.compile(rf"(?:{'|'.join(kinds)})-[0-9]+")
    try:
        for folder in [path for path in out.iterdir() if ours.fullmatch(path.name) and path.is_dir()]:
            names = {path.name for path in folder.iterdir()}
            written = _written_by_us(folder)
            if len(written) < len(names) and not {"SR.dcm", "report.txt"} <= names:
                continue
            for path in written:
                path.unlink()
            if len(written) == len(names) and not folder.is_symlink():
                folder.rmdir()
    except OSError as error:
        raise CommandError(
            f"Earlier results in {out} cannot be removed: {error.strerror}.", "Name another folder with --out."
        ) from error


def write_results(folder: Path, objects: Sequence[Dataset]) -> list[Path]:
    """Write the objects of one series, its SR as text and its summary page as a picture; older ones are replaced.

    Several objects of one kind are numbered. Raises CommandError if the folder cannot be written.
    """
    files: list[Path] = []
    kinds = [output_of(dataset) for dataset in objects]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for path in _written_by_us(folder):
            path.unlink()
        for position, (kind, dataset) in enumerate(zip(kinds, objects, strict=True)):
            number = f"-{kinds[: position + 1].count(kind)}" if kinds.count(kind) > 1 else ""
            files.append(folder / f"{kind}{number}.dcm")
            dataset.save_as(files[-1], enforce_file_format=True)
            if kind is Output.SR:
                files.append(folder / "report.txt")
                files[-1].write_text(as_text(dataset) + "\n", encoding="utf-8")
            elif kind is Output.SC:
                files.append(folder / "summary.png")
                Image.fromarray(dataset.pixel_array).save(files[-1], format="PNG")
    except OSError as error:
        raise CommandError(f"{folder} cannot be written: {error.strerror}.", "Name another folder.") from error
    return files


def _written_by_us(folder: Path) -> list[Path]:
    return [path for path in folder.iterdir() if _OURS.fullmatch(path.name)]
