"""The reading as an Encapsulated PDF (PS3.3 A.45.1): the summary page, then everything that is said, in words."""

import io
from collections.abc import Mapping, Sequence

from highdicom.base import SOPClass
from PIL import Image
from pydicom import Dataset
from pydicom.uid import EncapsulatedPDFStorage

from dicom_sr import codes, identity
from dicom_sr.companion import Case, reference_to
from dicom_sr.identity import Kind
from dicom_sr.text_pages import text_pages

_DPI = 150.0


class _Document(SOPClass):  # type: ignore[misc]  # highdicom is taken as untyped
    """The modules that all our objects have in common."""

    def __init__(self, case: Case) -> None:
        source, arguments = case.headers[0], case.arguments(Kind.PDF)
        equipment = arguments.pop("contributing_equipment")
        super().__init__(
            study_instance_uid=source.StudyInstanceUID,
            sop_class_uid=EncapsulatedPDFStorage,
            modality="DOC",
            specific_character_set=source.SpecificCharacterSet,
            **arguments,
        )
        self.copy_patient_and_study_information(source)
        self._add_contributing_equipment(equipment, source)


def build(case: Case, page: Image.Image, slices: Mapping[str, Sequence[int]]) -> Dataset:
    """The document. `slices`: of each present finding, the source slices to look at."""
    dataset: Dataset = _Document(case)
    case.finish(dataset)
    dataset.ConversionType = "WSD"
    dataset.AcquisitionDateTime = case.moment.strftime("%Y%m%d%H%M%S.%f")
    dataset.BurnedInAnnotation = "YES"
    dataset.RecognizableVisualFeatures = "NO"
    dataset.DocumentTitle = identity.long_string(Kind.PDF.series_description(case.reading.test_only))
    dataset.ConceptNameCodeSequence = [codes.item(codes.CT_REPORT)]
    dataset.SourceInstanceSequence = [reference_to(header) for header in case.headers]
    dataset.MIMETypeOfEncapsulatedDocument = "application/pdf"
    content = document([page, *text_pages(case, slices)], case)
    dataset.EncapsulatedDocumentLength = len(content)
    dataset.EncapsulatedDocument = content + b"\0" * (len(content) % 2)
    return dataset


def document(pages: Sequence[Image.Image], case: Case) -> bytes:
    """The pages as a PDF file; the same pages give the same bytes."""
    stream = io.BytesIO()
    made = case.moment.utctimetuple()
    pages[0].save(
        stream,
        format="PDF",
        save_all=True,
        append_images=list(pages[1:]),
        resolution=_DPI,
        quality=90,
        title=Kind.PDF.series_description(case.reading.test_only),
        producer=identity.PRODUCT,
        creationDate=made,
        modDate=made,
    )
    return stream.getvalue()
