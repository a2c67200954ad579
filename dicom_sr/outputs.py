"""Which of our objects a data set is."""

from collections.abc import Mapping

from pydicom import Dataset
from pydicom.uid import (
    UID,
    Comprehensive3DSRStorage,
    ComprehensiveSRStorage,
    EncapsulatedPDFStorage,
    EnhancedSRStorage,
    KeyObjectSelectionDocumentStorage,
    ParametricMapStorage,
    SecondaryCaptureImageStorage,
    SegmentationStorage,
)

from config import Output

LABEL_MAP_STORAGE = UID("1.2.840.10008.5.1.4.1.1.66.7")
"""Label Map Segmentation Storage."""
OUTPUT_OF_CLASS: Mapping[str, Output] = {
    SegmentationStorage: Output.SEG,
    LABEL_MAP_STORAGE: Output.LABEL_MAP,
    ParametricMapStorage: Output.PM,
    SecondaryCaptureImageStorage: Output.SC,
    KeyObjectSelectionDocumentStorage: Output.KO,
    EncapsulatedPDFStorage: Output.PDF,
    EnhancedSRStorage: Output.TEXT,
    Comprehensive3DSRStorage: Output.SR,
    ComprehensiveSRStorage: Output.SR,
}
"""SOP Class UID -> which of our objects it is."""


def output_of(dataset: Dataset) -> Output:
    """Which of our objects this is. Raises KeyError for any other."""
    return OUTPUT_OF_CLASS[str(dataset.SOPClassUID)]
