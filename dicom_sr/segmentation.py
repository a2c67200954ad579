"""The anatomy map as a BINARY Segmentation (PS3.3 A.51): one coded, tracked segment an anatomy."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

import numpy as np
from highdicom import AlgorithmIdentificationSequence
from highdicom.color import CIELabColor
from highdicom.seg import SegmentAlgorithmTypeValues, Segmentation, SegmentationTypeValues, SegmentDescription
from highdicom.sr import CodedConcept
from pydicom import Dataset
from pydicom.uid import ExplicitVRLittleEndian

from config import Reason, Vocabulary
from ct.anatomy import AnatomyMap
from dicom_sr import codes, identity
from dicom_sr.identity import Kind, Names, WriteContext
from fvlm.reading import Reading

IMPLAUSIBLE = frozenset(
    {Reason.ANATOMY_IMPLAUSIBLE_HU, Reason.ANATOMY_TOO_SMALL, Reason.ANATOMY_TOO_LARGE, Reason.ANATOMY_ABSENT}
)
"""A mask with one of these doubts is not worth showing: it is left out of the SEG."""

_SIDE_SHARE = 0.1
"""Least share of a paired anatomy on each side of the midline for `right and left` to be said of it."""


@dataclass(frozen=True)
class SegmentRow:
    """One segment: what it shows and what it measures."""

    number: int
    """Segment Number (0062,0004), from 1."""
    anatomy: str
    laterality: Literal["left", "right"] | None
    tracking_uid: str
    tracking_id: str
    """Also the Segment Label."""
    volume_mm3: float
    mean_hu: float


@dataclass(frozen=True)
class Segments:
    """A SEG and what its segments are, in the order of their numbers."""

    dataset: Dataset
    rows: tuple[SegmentRow, ...]

    def of(self, anatomy: str) -> tuple[SegmentRow, ...]:
        """The segments of an anatomy: none, one, or one a side."""
        return tuple(row for row in self.rows if row.anatomy == anatomy)


def segmented_anatomies(reading: Reading, anatomy_map: AnatomyMap) -> list[str]:
    """The anatomies that get a segment, in label order: measured, not empty, and not doubted as implausible."""
    doubts = {entry.anatomy: entry.reason for entry in reading.not_assessed}
    chosen = []
    for name in anatomy_map.names:
        measure = anatomy_map.measures.get(name)
        if measure is None or measure.voxels == 0:
            continue
        if doubts.get(name) in IMPLAUSIBLE or (name in doubts and measure.doubt in IMPLAUSIBLE):
            continue
        chosen.append(name)
    return chosen


def build(
    reading: Reading,
    anatomy_map: AnatomyMap,
    headers: Sequence[Dataset],
    names: Names,
    context: WriteContext,
    moment: datetime,
    vocabulary: Vocabulary,
) -> Segments | None:
    """The Segmentation, or None if nothing was segmented.

    `headers` are working copies (`sources.working_copies`) in the order of the source slices; the frames keep the
    pixel grid of the source images. Explicit VR little endian, uncompressed, empty frames left out.
    """
    chosen = segmented_anatomies(reading, anatomy_map)
    if not chosen:
        return None
    numbers = {name: number for number, name in enumerate(chosen, start=1)}
    lookup = np.zeros(256, dtype=np.uint8)
    for name, number in numbers.items():
        lookup[anatomy_map.label(name)] = number
    pixels = lookup[anatomy_map.grid.source_axes.to_source(anatomy_map.labels)]
    test_only = reading.test_only

    def _row(name: str, number: int) -> SegmentRow:
        measure = anatomy_map.measures[name]
        title = vocabulary.anatomy(name).title
        volume_mm3 = measure.volume_ml * 1000.0
        return SegmentRow(number, name, None, names.tracking(name), title, volume_mm3, measure.mean_hu)

    dataset = Segmentation(
        source_images=headers,
        pixel_array=pixels,
        segmentation_type=SegmentationTypeValues.BINARY,
        segment_descriptions=[
            _describe(name, number, anatomy_map, names, vocabulary) for name, number in numbers.items()
        ],
        series_instance_uid=names.series(Kind.SEG),
        series_number=Kind.SEG.series_number,
        sop_instance_uid=names.instance(Kind.SEG),
        instance_number=1,
        manufacturer=identity.MANUFACTURER,
        manufacturer_model_name=identity.PRODUCT,
        software_versions=identity.software_versions(reading, context),
        device_serial_number=identity.long_string(context.device_uid),
        content_label="TEST_MODEL" if test_only else "AI_ANATOMY",
        content_description=identity.TEST_MARKER if test_only else "Anatomies found by AI, not verified",
        transfer_syntax_uid=ExplicitVRLittleEndian,
        omit_empty_frames=True,
        workers=0,
        contributing_equipment=identity.contributing_equipment(reading, moment),
        series_description=Kind.SEG.series_description(test_only),
        content_date=moment.date(),
        content_time=moment.time(),
    )
    identity.stamp(dataset, moment, context, headers[0])
    if headers[0].get("BodyPartExamined"):
        dataset.BodyPartExamined = headers[0].BodyPartExamined
    organization = names.dimensions(Kind.SEG)
    for item in [*dataset.DimensionOrganizationSequence, *dataset.DimensionIndexSequence]:
        item.DimensionOrganizationUID = organization
    return Segments(dataset, tuple(_row(name, number) for name, number in numbers.items()))


def on_both_sides(anatomy_map: AnatomyMap, name: str) -> bool:
    """Whether an anatomy has at least `_SIDE_SHARE` of its voxels on either side of the midline.

    The midline is the median x (right to left) of all other labelled voxels, so that a lone lung does not pull it.
    """
    label = anatomy_map.label(name)
    width = anatomy_map.grid.shape[2]
    own, others = np.zeros(width, dtype=np.int64), np.zeros(width, dtype=np.int64)
    for plane in anatomy_map.labels:
        mine = np.count_nonzero(plane == label, axis=0)
        own += mine
        others += np.count_nonzero(plane, axis=0) - mine
    reference = np.cumsum(others if others.any() else own)
    middle = int(np.searchsorted(reference, reference[-1] / 2))
    least = _SIDE_SHARE * int(own.sum())
    return bool(min(own[:middle].sum(), own[middle + 1 :].sum()) >= least > 0)


def _describe(
    name: str, number: int, anatomy_map: AnatomyMap, names: Names, vocabulary: Vocabulary
) -> SegmentDescription:
    anatomy = vocabulary.anatomy(name)
    algorithm = anatomy_map.algorithm
    description = SegmentDescription(
        segment_number=number,
        segment_label=anatomy.title,
        segmented_property_category=codes.ANATOMICAL_STRUCTURE,
        segmented_property_type=codes.coded(anatomy.code),
        algorithm_type=SegmentAlgorithmTypeValues.AUTOMATIC,
        algorithm_identification=AlgorithmIdentificationSequence(
            name=identity.long_string(algorithm.name),
            family=codes.ARTIFICIAL_INTELLIGENCE,
            version=identity.long_string(algorithm.version),
            source=identity.long_string(algorithm.manufacturer),
            parameters=identity.algorithm_parameters(algorithm),
        ),
        tracking_uid=names.tracking(name),
        tracking_id=anatomy.title,
        display_color=CIELabColor.from_rgb(*anatomy.color),
    )
    if anatomy.paired and on_both_sides(anatomy_map, name):
        both_sides = CodedConcept.from_code(codes.RIGHT_AND_LEFT)
        description.SegmentedPropertyTypeCodeSequence[0].SegmentedPropertyTypeModifierCodeSequence = [both_sides]
    return description
