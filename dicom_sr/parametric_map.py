"""What the model looked at for one finding as a Parametric Map (PS3.3 A.75) in the frame of reference of the CT."""

import numpy as np
from highdicom import (
    PixelMeasuresSequence,
    PlaneOrientationSequence,
    PlanePositionSequence,
    VOILUTTransformation,
)
from highdicom.pm import ParametricMap, RealWorldValueMapping
from pydicom import Dataset

from dicom_sr import codes, identity
from dicom_sr.companion import Case
from dicom_sr.heat_stack import HeatStack, source_spacing
from dicom_sr.identity import Kind
from fvlm.reading import Finding


def build(case: Case, finding: Finding, stack: HeatStack) -> Dataset:
    """The map of one finding, float 32, in the box around its anatomy; 0 (adds nothing) outside the anatomy.

    Its planes lie on slices of the CT, and each names the one it lies on. It is sampled more coarsely than the CT
    (`heat_stack`), since the model looks at blocks of tissue; what it says of itself in words tells how coarsely.
    """
    values = np.nan_to_num(stack.values, nan=0.0)
    low, high = float(values.min()), float(values.max())
    spacing = [mm * step for mm, step in zip(source_spacing(case.anatomy_map.grid), stack.step, strict=True)]
    what = f"{case.title(finding)}, {case.site(finding).lower()}"
    kind = Kind.PM.series_description(case.reading.test_only)
    arguments = case.arguments(Kind.PM, finding.key)
    arguments["series_description"] = identity.long_string(f"{kind}: {what}")
    dataset: Dataset = ParametricMap(
        source_images=case.headers,
        pixel_array=values,
        contains_recognizable_visual_features=False,
        real_world_value_mappings=[
            RealWorldValueMapping(
                lut_label="LOG_ODDS",
                lut_explanation=identity.long_string(f"Log-odds added to: {what}"),
                unit=codes.NO_UNITS,
                value_range=(low, high),
                slope=1.0,
                intercept=0.0,
            )
        ],
        voi_lut_transformations=[
            VOILUTTransformation(
                window_center=(high if high > 0.0 else low) / 2,
                window_width=max(high if high > 0.0 else -low, 1e-6),
                voi_lut_function="LINEAR_EXACT",
            )
        ],
        content_label="TEST_MODEL" if case.reading.test_only else "AI_HEAT",
        content_description=identity.long_string(_description(case, spacing)),
        pixel_measures=PixelMeasuresSequence(
            pixel_spacing=(spacing[1], spacing[2]), slice_thickness=spacing[0], spacing_between_slices=spacing[0]
        ),
        plane_orientation=PlaneOrientationSequence(
            "PATIENT", image_orientation=[float(value) for value in case.headers[0].ImageOrientationPatient]
        ),
        plane_positions=[_position(case, stack, index) for index in stack.slices],
        **arguments,
    )
    case.finish(dataset)
    dataset.BodyPartExamined = case.body_part
    organization = case.names.dimensions(Kind.PM, finding.key)
    for item in [*dataset.DimensionOrganizationSequence, *dataset.DimensionIndexSequence]:
        item.DimensionOrganizationUID = organization
    return dataset


def _description(case: Case, spacing: list[float]) -> str:
    mark = identity.TEST_MARKER if case.reading.test_only else "AI, not verified"
    slices, rows, columns = (f"{mm:.1f}" for mm in spacing)
    return f"{mark}; every {slices} x {rows} x {columns} mm"


def _position(case: Case, stack: HeatStack, index: int) -> PlanePositionSequence:
    """Where the first value lies on one source slice: that slice's position, moved in its plane (PS3.3 C.7.6.2)."""
    header = case.headers[index]
    cosines = np.array([float(value) for value in header.ImageOrientationPatient])
    row_mm, column_mm = (float(value) for value in header.PixelSpacing)
    corner = np.array([float(value) for value in header.ImagePositionPatient])
    at = corner + cosines[:3] * column_mm * stack.start[2] + cosines[3:] * row_mm * stack.start[1]
    return PlanePositionSequence("PATIENT", [float(value) for value in at])
