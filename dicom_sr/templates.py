"""The templates of PS3.16 that the report's groups are made of: one function a template, which checks its arguments."""

import math
from collections.abc import Mapping, Sequence
from typing import TypeAlias

from highdicom.sr import (
    AlgorithmIdentification,
    DeviceObserverIdentifyingAttributes,
    FindingSite,
    Measurement,
    MeasurementsAndQualitativeEvaluations,
    ObserverContext,
    QualitativeEvaluation,
    ReferencedSegment,
    SourceSeriesForSegmentation,
    TrackingIdentifier,
    VolumetricROIMeasurementsAndQualitativeEvaluations,
)
from pydicom.sr.coding import Code
from pydicom.uid import SegmentationStorage

from config import Reason
from ct.anatomy import AlgorithmIdentity
from dicom_sr import codes, identity
from dicom_sr.errors import WriteError

Group: TypeAlias = VolumetricROIMeasurementsAndQualitativeEvaluations | MeasurementsAndQualitativeEvaluations


def percent(probability: float) -> float:
    """A probability 0..1 in percent, with one decimal."""
    return round(probability * 100.0, 1)


def device_observer(device_uid: str) -> ObserverContext:
    """TID 1002 with a device and no person (TID 1004): the node installation."""
    device = DeviceObserverIdentifyingAttributes(
        uid=device_uid,
        name=identity.PRODUCT,
        manufacturer_name=identity.MANUFACTURER,
        model_name=identity.PRODUCT,
        serial_number=device_uid,
    )
    return ObserverContext(codes.DEVICE, device)


def algorithm_identification(
    algorithm: AlgorithmIdentity, parameters: Mapping[str, str] | None = None
) -> AlgorithmIdentification:
    """TID 4019: name, version, manufacturer, family, and the parameters as `key=value`."""
    return AlgorithmIdentification(
        name=algorithm.name,
        version=algorithm.version,
        parameters=[f"{key}={value}" for key, value in (parameters or {}).items()] or None,
        family=codes.ARTIFICIAL_INTELLIGENCE,
        manufacturer=algorithm.manufacturer,
    )


def volume(what: str, cubic_mm: float, algorithm: AlgorithmIdentity) -> Measurement:
    """TID 1419 row 5 (TID 300): a volume, with TID 4019. Raises WriteError if it is no finite number, or negative."""
    if not (math.isfinite(cubic_mm) and cubic_mm >= 0.0):
        raise WriteError(Reason.INTERNAL, f"{what}: the volume {cubic_mm} is not a number of mm3")
    return Measurement(
        name=codes.VOLUME,
        value=round(cubic_mm),
        unit=codes.CUBIC_MM,
        algorithm_id=algorithm_identification(algorithm),
    )


def mean_attenuation(what: str, hu: float, algorithm: AlgorithmIdentity) -> Measurement:
    """TID 1419 row 5 (TID 300): a mean attenuation, with TID 4019. Raises WriteError if it is no finite number."""
    if not math.isfinite(hu):
        raise WriteError(Reason.INTERNAL, f"{what}: the mean attenuation is not a number")
    return Measurement(
        name=codes.ATTENUATION,
        value=round(hu, 1),
        unit=codes.HOUNSFIELD,
        derivation=codes.MEAN,
        algorithm_id=algorithm_identification(algorithm),
    )


def certainty(what: str, probability: float, algorithm: AlgorithmIdentity) -> Measurement:
    """TID 1419 row 5 (TID 300): a Certainty of Finding in percent, with TID 4019. Raises WriteError outside of 0..1."""
    if not 0.0 <= probability <= 1.0:
        raise WriteError(Reason.INTERNAL, f"{what}: probability {probability} is not in 0..1")
    return Measurement(
        name=codes.CERTAINTY_OF_FINDING,
        value=percent(probability),
        unit=codes.PERCENT,
        algorithm_id=algorithm_identification(algorithm),
    )


def referenced_segments(instance_uid: str, numbers: Sequence[int], series_uid: str) -> ReferencedSegment:
    """TID 1411 rows 7 and 12: one reference to a BINARY Segmentation, and the series that was segmented.

    Several numbers make one region of several segments, in one reference: Referenced Segment Number has a value
    multiplicity of 1-n (PS3.3 C.18.4), though TID 1411 has a single segment in mind. The other form, TID 1501 without
    a region, is an error to PixelMed's validator beside groups of TID 1411, and two groups would each claim a side.
    Raises WriteError without numbers, for one below 1, or for a repeated one.
    """
    if not numbers or min(numbers) < 1 or len(set(numbers)) != len(numbers):
        raise WriteError(Reason.INTERNAL, f"{list(numbers)} are no segment numbers")
    reference = ReferencedSegment(
        sop_class_uid=SegmentationStorage,
        sop_instance_uid=instance_uid,
        segment_number=numbers[0],
        source_series=SourceSeriesForSegmentation(series_uid),
    )
    if len(numbers) > 1:
        reference[0].ReferencedSOPSequence[0].ReferencedSegmentNumber = list(numbers)
    return reference


def measurement_group(
    tracking: TrackingIdentifier,
    algorithm: AlgorithmIdentification,
    region: ReferencedSegment | None = None,
    finding: Code | None = None,
    category: Code | None = None,
    site: FindingSite | None = None,
    measurements: Sequence[Measurement] = (),
    evaluations: Sequence[QualitativeEvaluation] = (),
) -> Group:
    """TID 1411 where there is a region, else TID 1501. Raises WriteError for a group that states nothing."""
    if not measurements and not evaluations:
        raise WriteError(Reason.INTERNAL, "a measurement group without measurement and evaluation")
    if region is None:
        return MeasurementsAndQualitativeEvaluations(
            tracking_identifier=tracking,
            finding_type=finding,
            finding_category=category,
            algorithm_id=algorithm,
            finding_sites=[site] if site else None,
            measurements=list(measurements) or None,
            qualitative_evaluations=list(evaluations) or None,
        )
    return VolumetricROIMeasurementsAndQualitativeEvaluations(
        tracking_identifier=tracking,
        referenced_segment=region,
        finding_type=finding,
        finding_category=category,
        algorithm_id=algorithm,
        finding_sites=[site] if site else None,
        measurements=list(measurements) or None,
        qualitative_evaluations=list(evaluations) or None,
    )
