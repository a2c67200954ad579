"""Result objects on disk: Part 10 files under names of the node's own, each whole or not at all, durable."""

import os
from collections.abc import Sequence
from pathlib import Path

from pydicom import Dataset

from dicom_sr.outputs import output_of
from node.spool import sync_folder


def write_objects(results_dir: Path, job_id: int, objects: Sequence[Dataset]) -> list[Path]:
    """Write the objects of a job and return their files in the same order; a repeat replaces them.

    Raises OSError if the disk does not take them.
    """
    folder = results_dir / f"job-{job_id:08d}"
    folder.mkdir(parents=True, exist_ok=True)
    sync_folder(results_dir)
    files = []
    for index, dataset in enumerate(objects, 1):
        target = folder / f"{index}-{output_of(dataset).lower()}.dcm"
        part = target.with_suffix(".part")
        with part.open("wb") as file:
            dataset.save_as(file, enforce_file_format=True)
            file.flush()
            os.fsync(file.fileno())
        part.replace(target)
        files.append(target)
    sync_folder(folder)
    return files
