"""The results of one series as files in a folder: SR.dcm, SEG.dcm, report.txt, summary.png."""

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from highdicom.seg import Segmentation
from pydicom import Dataset
from scipy import ndimage

from config import load_vocabulary
from ct.anatomy import AlgorithmIdentity, AnatomyMap, Sides
from ct.measure import measure
from ct.sides import measure_sides
from ct.volume import Volume
from dicom_sr import as_text, read, write_summary_page
from dicom_sr.segmentation import side_of
from node.errors import CommandError

_FILES = ("SR.dcm", "SEG.dcm", "report.txt", "summary.png")


def remove_results(out: Path, *kinds: str) -> None:
    """Remove the results of earlier runs from `out/KIND-N`: nobody shall take them for today's.

    Only our own files go, and the folder if nothing else is in it. Raises CommandError if they cannot be removed.
    """
    ours = re.compile(rf"(?:{'|'.join(kinds)})-[0-9]+")
    try:
        for folder in [path for path in out.iterdir() if ours.fullmatch(path.name) and path.is_dir()]:
            names = {path.name for path in folder.iterdir()}
            if not names <= set(_FILES) and not {"SR.dcm", "report.txt"} <= names:
                continue
            for name in names.intersection(_FILES):
                (folder / name).unlink()
            if names <= set(_FILES) and not folder.is_symlink():
                folder.rmdir()
    except OSError as error:
        raise CommandError(
            f"Earlier results in {out} cannot be removed: {error.strerror}.", "Name another folder with --out."
        ) from error


def write_results(
    folder: Path, objects: Sequence[Dataset], volume: Volume, anatomy_map: AnatomyMap, title: str
) -> list[Path]:
    """Write the objects of one series, its SR as text and its summary page under `title`; older ones are replaced.

    The text and the page say what the SR says. Raises CommandError if the folder cannot be written.
    """
    files = []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name in _FILES:
            (folder / name).unlink(missing_ok=True)
        for dataset in objects:
            files.append(folder / f"{dataset.Modality}.dcm")
            dataset.save_as(files[-1], enforce_file_format=True)
        report = next(dataset for dataset in objects if dataset.Modality == "SR")
        files.append(folder / "report.txt")
        files[-1].write_text(as_text(report) + "\n", encoding="utf-8")
        files.append(folder / "summary.png")
        write_summary_page(files[-1], read(report).reading, anatomy_map, volume, title)
    except OSError as error:
        raise CommandError(f"{folder} cannot be written: {error.strerror}.", "Name another folder.") from error
    return files


def map_from_segmentation(dataset: Dataset, volume: Volume, algorithm: AlgorithmIdentity) -> AnatomyMap:
    """Our BINARY Segmentation as labels on the volume's grid again, measured; names in segment order, with sides.

    Raises ValueError if the segmentation refers to other images than the volume's.
    """
    segmentation = Segmentation.from_dataset(dataset)
    stack = segmentation.get_pixels_by_source_instance(
        [source.sop_instance_uid for source in volume.sources],
        combine_segments=True,
        assert_missing_frames_are_empty=True,
        dtype=np.uint8,
    )
    by_code = {anatomy.code.value: anatomy.name for anatomy in load_vocabulary().anatomies}
    shown = {
        int(item.SegmentNumber): (by_code[str(item.SegmentedPropertyTypeCodeSequence[0].CodeValue)], side_of(item))
        for item in dataset.SegmentSequence
    }
    names = tuple(dict.fromkeys(name for name, _ in shown.values()))
    table, is_left = np.zeros(256, np.uint8), np.zeros(256, np.bool_)
    for number, (name, side) in shown.items():
        table[number], is_left[number] = names.index(name) + 1, side == "left"
    numbers = volume.grid.source_axes.to_patient(stack)
    labels = np.ascontiguousarray(table[numbers])
    boxes = ndimage.find_objects(labels, max_label=len(names))
    sides = {}
    for name in {name for name, side in shown.values() if side is not None}:
        label = names.index(name) + 1
        box = boxes[label - 1]
        mask, left = labels[box] == label, is_left[numbers[box]]
        sides[name] = Sides(box, left, measure_sides(volume, box, mask, left))
    return AnatomyMap(labels, volume.grid, names, algorithm, measure(volume, labels, names), sides)


def empty_map(volume: Volume, algorithm: AlgorithmIdentity) -> AnatomyMap:
    """The anatomy map of a series without a Segmentation: nothing was found."""
    return AnatomyMap(np.zeros(volume.hu.shape, np.uint8), volume.grid, (), algorithm)
