"""A damaged CT header that is fit to be read, on its way into our SEG and SR: written and readable, or refused."""

import io
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import conftest  # noqa: F401 - the way to the other helpers
import numpy as np
import sr_synthetic
from pydicom import Dataset, dcmread, dcmwrite

import dicom_sr
from config import Reason
from ct.anatomy import AnatomyMap, AnatomyMeasure
from ct.part10 import Unfit
from ct.series import Header, Series, read_data_set, read_header
from ct.vetting import vet
from ct.volume import Grid
from dicom_sr.errors import WriteError
from fvlm.reading import Reading

MUTATIONS = {
    "nasty_value": 6, "nasty_uid": 1, "nasty_geometry": 1, "character_set": 3, "wrong_vr": 3, "remove": 2,
    "duplicate": 1, "swap": 1, "flip": 1, "deep_nesting": 0.2, "many_elements": 0.1, "lie_about_a_length": 0.3,
}  # fmt: skip
"""Mutations that leave many a header fit to be read, and how often each is taken."""
SPARED = frozenset({0x0002, 0x0028, 0x7FE0})
"""Groups that stay as they are, mostly: all their damage is found before anything is encoded."""


def encode(file: Path) -> str:
    """The verdict on a series of this image and a twin; AssertionError if the results cannot be read again."""
    try:
        header = read_header(file)
        twin = _twin(header)
        series = Series(header.study_instance_uid, header.series_instance_uid, (header, twin))
        vetted = vet(series, 2)
        sources = [read_data_set(header.source) for _ in vetted.headers]
    except Unfit as unfit:
        return f"UNFIT {unfit.reason}"
    second = sources[vetted.headers.index(twin)]
    second.add_new("SOPInstanceUID", "UI", twin.sop_instance_uid)
    second.add_new("ImagePositionPatient", "DS", list(twin.position or ()))
    try:
        objects = dicom_sr.write(_reading(), _anatomy_map(vetted.grid), sources)
    except WriteError as error:
        if error.reason is Reason.INTERNAL:
            raise AssertionError("refused for no fault of the case") from error
        return f"REFUSED {error.reason}"
    segmentation, report = (_as_read_by_others(dataset) for dataset in objects)
    assert dicom_sr.read(report).reading.anatomies, "the report lost its findings"
    assert segmentation.pixel_array.any(), "the segmentation lost its pixels"
    for dataset in (segmentation, report):
        assert dataset.StudyInstanceUID == header.study_instance_uid
        assert dataset.SpecificCharacterSet == "ISO_IR 192"
    return "WRITTEN"


def _twin(header: Header) -> Header:
    """The next slice of the same stack."""
    uid = f"{header.sop_instance_uid[:60]}.7"
    row, column = np.reshape(header.orientation or (1, 0, 0, 0, 1, 0), (2, 3))
    position = np.array(header.position or (0, 0, 0)) + 2.0 * np.cross(row, column)
    moved = None if header.position is None else tuple(float(value) for value in position)
    return replace(header, source=replace(header.source, sop_instance_uid=uid), position=moved)


def _as_read_by_others(dataset: Dataset) -> Dataset:
    """As it comes out of a file, each element beside the content tree decoded."""
    file = io.BytesIO()
    dcmwrite(file, dataset, enforce_file_format=True)
    file.seek(0)
    found = dcmread(file)
    for _ in found:
        pass
    return found


@lru_cache(maxsize=1)
def _reading() -> Reading:
    whole = sr_synthetic.reading()
    lung = replace(whole.anatomies[0], findings=whole.anatomies[0].findings[:1])
    return replace(whole, anatomies=(lung,), not_assessed=whole.not_assessed[:1])


def _anatomy_map(grid: Grid) -> AnatomyMap:
    """A lung in the middle."""
    labels = np.zeros(grid.shape, np.uint8)
    labels[:, grid.shape[1] // 4 : grid.shape[1] // 2 + 1, grid.shape[2] // 4 : grid.shape[2] // 2 + 1] = 1
    voxels = int(labels.sum())
    return AnatomyMap(
        labels,
        grid,
        ("lung",),
        sr_synthetic.SEGMENTER,
        {"lung": AnatomyMeasure(voxels, voxels * grid.voxel_ml, -800.0)},
    )
