"""The anatomy map as a Segmentation: coded, tracked segments, left and right apart where they are known.

BINARY (PS3.3 A.51) is what the SR refers to; a label map (A.51, Label Map Segmentation) is only for destinations that
ask for it, beside the other.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

import numpy as np
from highdicom import AlgorithmIdentificationSequence
from highdicom.color import CIELabColor
from highdicom.seg import SegmentAlgorithmTypeValues, Segmentation, SegmentationTypeValues, SegmentDescription
from highdicom.sr import CodedConcept
from pydicom import Dataset
from pydicom.uid import ExplicitVRLittleEndian

from config import Reason, Vocabulary
from ct.anatomy import AnatomyMap, AnatomyMeasure, Side, UInt8Array
from dicom_sr import codes, identity
from dicom_sr.identity import Kind, Names, WriteContext
from fvlm.reading import Reading

IMPLAUSIBLE = frozenset(
    {
        Reason.ANATOMY_IMPLAUSIBLE_HU,
        Reason.ANATOMY_TOO_SMALL,
        Reason.ANATOMY_TOO_LARGE,
        Reason.ANATOMY_ABSENT,
        Reason.ANATOMY_FRAGMENTED,
    }
)
"""A mask with one of these doubts is not worth showing: it is left out of the SEG."""

_TYPES = {Kind.SEG: SegmentationTypeValues.BINARY, Kind.LABEL_MAP: SegmentationTypeValues.LABELMAP}


@dataclass(frozen=True)
class SegmentRow:
    """One segment: what it shows and what it measures."""

    number: int
    """Segment Number (0062,0004), from 1."""
    anatomy: str
    laterality: Side | None
    """None: not a paired anatomy, or its sides are not known."""
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
        """The segments of an anatomy: none, one, or right and left."""
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


def segment_rows(
    reading: Reading, anatomy_map: AnatomyMap, names: Names, vocabulary: Vocabulary
) -> tuple[SegmentRow, ...]:
    """The segments in label order, right before left."""
    rows: list[SegmentRow] = []
    for name in segmented_anatomies(reading, anatomy_map):
        title = vocabulary.anatomy(name).title
        for side, measure in _parts(anatomy_map, name):
            rows.append(
                SegmentRow(
                    number=len(rows) + 1,
                    anatomy=name,
                    laterality=side,
                    tracking_uid=names.tracking(f"{name}.{side}" if side else name),
                    tracking_id=f"{side.capitalize()} {title.lower()}" if side else title,
                    volume_mm3=measure.volume_ml * 1000.0,
                    mean_hu=measure.mean_hu,
                )
            )
    return tuple(rows)


def _parts(anatomy_map: AnatomyMap, name: str) -> list[tuple[Side | None, AnatomyMeasure]]:
    if name not in anatomy_map.sides:
        return [(None, anatomy_map.measures[name])]
    measures = anatomy_map.sides[name].measures
    sides: tuple[Side, Side] = ("right", "left")
    return [(side, measures[side]) for side in sides if side in measures]


def build(
    reading: Reading,
    anatomy_map: AnatomyMap,
    headers: Sequence[Dataset],
    names: Names,
    context: WriteContext,
    moment: datetime,
    vocabulary: Vocabulary,
) -> Segments | None:
    """The BINARY Segmentation, or None if nothing was segmented.

    `headers` are working copies (`sources.working_copies`) in the order of the source slices; the frames keep the
    pixel grid of the source images. Explicit VR little endian, uncompressed, empty frames left out.
    """
    rows = segment_rows(reading, anatomy_map, names, vocabulary)
    if not rows:
        return None
    return Segments(_encode(Kind.SEG, rows, reading, anatomy_map, headers, names, context, moment, vocabulary), rows)


def build_label_map(
    rows: Sequence[SegmentRow],
    reading: Reading,
    anatomy_map: AnatomyMap,
    headers: Sequence[Dataset],
    names: Names,
    context: WriteContext,
    moment: datetime,
    vocabulary: Vocabulary,
) -> Dataset:
    """The same segments as one Label Map Segmentation: its pixels are segment numbers. Nothing may refer to them.

    Explicit VR little endian, uncompressed, empty frames left out.
    """
    return _encode(Kind.LABEL_MAP, rows, reading, anatomy_map, headers, names, context, moment, vocabulary)


def side_of(segment: Dataset) -> Side | None:
    """The laterality of an item of the Segment Sequence that was written here; None if it has none."""
    modifiers = segment.SegmentedPropertyTypeCodeSequence[0].get("SegmentedPropertyTypeModifierCodeSequence") or []
    sides: tuple[Side, Side] = ("left", "right")
    return next((side for side in sides for item in modifiers if codes.code_of(item) == codes.SIDES[side]), None)


def segment_pixels(anatomy_map: AnatomyMap, rows: Sequence[SegmentRow]) -> UInt8Array:
    """Segment numbers uint8 [slice, row, column], 0 where there is no segment."""
    lookup = np.zeros(256, dtype=np.uint8)
    for row in rows:
        lookup[anatomy_map.label(row.anatomy)] = row.number
    pixels = lookup[anatomy_map.labels]
    for row in rows:
        if row.laterality is not None:
            sides = anatomy_map.sides[row.anatomy]
            mine = sides.left if row.laterality == "left" else ~sides.left
            box = pixels[sides.box]
            mine = mine & (anatomy_map.labels[sides.box] == anatomy_map.label(row.anatomy))
            box[mine] = row.number
    return anatomy_map.grid.source_axes.to_source(pixels).astype(np.uint8, copy=False)


def _encode(
    kind: Kind,
    rows: Sequence[SegmentRow],
    reading: Reading,
    anatomy_map: AnatomyMap,
    headers: Sequence[Dataset],
    names: Names,
    context: WriteContext,
    moment: datetime,
    vocabulary: Vocabulary,
) -> Dataset:
    test_only = reading.test_only
    dataset: Dataset = Segmentation(
        source_images=headers,
        pixel_array=segment_pixels(anatomy_map, rows),
        segmentation_type=_TYPES[kind],
        segment_descriptions=[_describe(row, anatomy_map, vocabulary) for row in rows],
        series_instance_uid=names.series(kind),
        series_number=kind.series_number,
        sop_instance_uid=names.instance(kind),
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
        series_description=kind.series_description(test_only),
        content_date=moment.date(),
        content_time=moment.time(),
    )
    identity.stamp(dataset, moment, context, headers[0])
    if headers[0].get("BodyPartExamined"):
        dataset.BodyPartExamined = headers[0].BodyPartExamined
    organization = names.dimensions(kind)
    for item in [*dataset.DimensionOrganizationSequence, *dataset.DimensionIndexSequence]:
        item.DimensionOrganizationUID = organization
    return dataset


def _describe(row: SegmentRow, anatomy_map: AnatomyMap, vocabulary: Vocabulary) -> SegmentDescription:
    anatomy = vocabulary.anatomy(row.anatomy)
    color = anatomy.color_right if row.laterality == "right" and anatomy.color_right else anatomy.color
    algorithm = anatomy_map.algorithm
    description = SegmentDescription(
        segment_number=row.number,
        segment_label=row.tracking_id,
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
        tracking_uid=row.tracking_uid,
        tracking_id=row.tracking_id,
        display_color=CIELabColor.from_rgb(*color),
    )
    if row.laterality is not None:
        side = CodedConcept.from_code(codes.SIDES[row.laterality])
        description.SegmentedPropertyTypeCodeSequence[0].SegmentedPropertyTypeModifierCodeSequence = [side]
    return description
