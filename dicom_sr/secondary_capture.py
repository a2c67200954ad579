"""The summary page as a Secondary Capture (PS3.3 A.8.1): what every archive and every viewer shows."""

from collections.abc import Sequence

import numpy as np
from highdicom.sc import SCImage
from PIL import Image
from pydicom import Dataset

from dicom_sr import codes
from dicom_sr.companion import Case, reference_to
from dicom_sr.identity import Kind


def build(case: Case, page: Image.Image, shown: Sequence[int]) -> Dataset:
    """The page, RGB, 8 bits, not compressed. `shown`: indices of the source slices that it shows."""
    dataset: Dataset = SCImage.from_ref_dataset(
        ref_dataset=case.headers[0],
        pixel_array=np.asarray(page.convert("RGB")),
        photometric_interpretation="RGB",
        bits_allocated=8,
        coordinate_system="PATIENT",
        patient_orientation=("L", "P"),
        **case.arguments(Kind.SC),
    )
    case.finish(dataset)
    dataset.PatientOrientation = None  # a page has none
    dataset.ConversionType = "WSD"
    dataset.BurnedInAnnotation = "YES"
    dataset.BodyPartExamined = case.body_part
    dataset.DateOfSecondaryCapture, dataset.TimeOfSecondaryCapture = dataset.ContentDate, dataset.ContentTime
    dataset.SourceImageSequence = [_source(case.headers[index]) for index in dict.fromkeys(shown)]
    return dataset


def _source(header: Dataset) -> Dataset:
    reference = reference_to(header)
    reference.PurposeOfReferenceCodeSequence = [codes.item(codes.SOURCE_IMAGE)]
    return reference
