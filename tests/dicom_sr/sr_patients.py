"""Patients of different shape, for the validators: what was read, on which map, of which images."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import date
from importlib import import_module
from inspect import signature
from typing import Any, get_args

from pydicom import Dataset
from pydicom.dataelem import RawDataElement
from pydicom.encaps import encapsulate
from pydicom.tag import Tag
from pydicom.uid import JPEG2000, Comprehensive3DSRStorage
from sr_synthetic import (
    FEET_FIRST,
    MOMENT,
    NAMES,
    anatomy_map,
    as_test_model,
    ct_headers,
    empty_map,
    feet_first_headers,
    labels,
    nothing_assessed,
    nothing_present,
    oblique_headers,
    reading,
    through_file,
    volume,
)

import dicom_sr
from config import Reason
from ct.anatomy import AnatomyMap
from fvlm.reading import AnatomyReading, Finding, NotAssessed, Reading, Verdict


@dataclass(frozen=True)
class Patient:
    """The arguments of `dicom_sr.write`, made when they are needed."""

    read: Callable[[], Reading]
    masks: Callable[[], AnatomyMap] = anatomy_map
    headers: Callable[[], list[Dataset]] = ct_headers
    context: dict[str, Any] = field(default_factory=dict)


def sets_of(patient: Patient) -> tuple[list[Dataset], dict[str, list[Dataset]]]:
    """The source headers, and by profile every object that is written for it."""
    headers, context = patient.headers(), dicom_sr.WriteContext(**patient.context)
    arguments = (patient.read(), patient.masks(), headers, context)
    if "plan" not in signature(dicom_sr.write).parameters:
        return headers, {"air": dicom_sr.write(*arguments)}
    outputs = import_module("config.outputs")
    axes = FEET_FIRST if patient.headers is feet_first_headers else None
    more = {}
    for name in get_args(outputs.ProfileName):
        plan = outputs.Plan.of([outputs.outputs_of(name, True, True)])
        more[name] = dicom_sr.write(*arguments, plan=plan, volume=volume(axes))  # type: ignore[call-arg]
    return headers, more


def short() -> Reading:
    """One finding present, one anatomy not assessed: where the patient is what is looked at."""
    return reading(
        anatomies=(
            AnatomyReading("lung", 5231.41, -801.26, (Finding("lung.nodule", 0.91, Verdict.PRESENT, 0.5, True, 0.2),)),
        ),
        not_assessed=(NotAssessed("spleen", Reason.ANATOMY_IMPLAUSIBLE_HU, "", ("spleen.splenomegaly",)),),
    )


def one_kidney() -> AnatomyMap:
    """The kidney of one side is not there."""
    whole, here = anatomy_map(), labels()
    here[:, :, 40:][here[:, :, 40:] == NAMES.index("kidney") + 1] = 0
    measure = replace(whole.measures["kidney"], voxels=int((here == NAMES.index("kidney") + 1).sum()))
    return replace(whole, labels=here, measures={**whole.measures, "kidney": measure})


def kidney_read() -> Reading:
    cyst = Finding("kidney.cyst", 0.8, Verdict.PRESENT, 0.5)
    return reading(
        anatomies=(AnatomyReading("kidney", 150.0, 35.0, (cyst,)),),
        not_assessed=(NotAssessed("lung", Reason.ANATOMY_CUT_OFF),),
    )


def japanese() -> list[Dataset]:
    name = "Yamada^Tarou=山田^太郎=やまだ^たろう"
    return through_file(ct_headers(SpecificCharacterSet=["", "ISO 2022 IR 87"], PatientName=name))


def arabic() -> list[Dataset]:
    return through_file(ct_headers(SpecificCharacterSet="ISO_IR 127", PatientName="قباني^لنزار"))


def compressed() -> list[Dataset]:
    """Images as lossy JPEG 2000; the pixels are not looked at."""
    headers = ct_headers(
        LossyImageCompression="01",
        LossyImageCompressionRatio="8.5",
        LossyImageCompressionMethod="ISO_15444_1",
        SamplesPerPixel=1,
        PhotometricInterpretation="MONOCHROME2",
        BitsAllocated=16,
        BitsStored=16,
        HighBit=15,
        PixelRepresentation=1,
    )
    for header in headers:
        header.PixelData = encapsulate([b"\xff\x4f\xff\x51"])
        header["PixelData"].VR, header["PixelData"].is_undefined_length = "OB", True
        header.file_meta.TransferSyntaxUID = JPEG2000
    return through_file(headers)


def deidentified() -> list[Dataset]:
    method = Dataset()
    method.CodeValue, method.CodingSchemeDesignator = "113100", "DCM"
    method.CodeMeaning = "Basic Application Confidentiality Profile"
    return ct_headers(
        PatientName="",
        PatientID="7F3A",
        PatientBirthDate="",
        PatientSex="",
        AccessionNumber="",
        ReferringPhysicianName="",
        StudyID="",
        InstitutionName=None,
        PatientIdentityRemoved="YES",
        DeidentificationMethod="Basic profile",
        DeidentificationMethodCodeSequence=[method],
        LongitudinalTemporalInformationModified="MODIFIED",
    )


def with_order() -> list[Dataset]:
    order = Dataset()
    order.RequestedProcedureID, order.RequestedProcedureDescription = "RP1", "CT chest"
    order.PlacerOrderNumberImagingServiceRequest = "PL-1"
    return ct_headers(RequestAttributesSequence=[order])


def with_garbage() -> list[Dataset]:
    headers = ct_headers(
        StudyDate="2026.03.01",
        PatientBirthDate="19500231",
        PatientSex="U",
        PatientAge="45",
        BodyPartExamined="Thorax+Abd",
    )
    for header in headers:
        weight = Tag("PatientWeight")
        header[weight] = RawDataElement(weight, "DS", 4, b"70,5", 0, False, True)
    return headers


PRIOR = dicom_sr.Prior(date(2025, 11, 3), "2.25.4713", {"lung.nodule": dicom_sr.Said(0.04, Verdict.ABSENT)})
FORMER = dicom_sr.Predecessor("2.25.4711", "2.25.4712", Comprehensive3DSRStorage)

PATIENTS: dict[str, Patient] = {
    "findings": Patient(reading),
    "nothing present": Patient(nothing_present),
    "all absent": Patient(lambda: nothing_present(complete=True)),
    "nothing assessed": Patient(nothing_assessed, empty_map),
    "segmented, nothing assessed": Patient(lambda: reading(anatomies=())),
    "assessed, nothing segmented": Patient(short, empty_map),
    "test model": Patient(lambda: as_test_model(short())),
    "two-sided anatomy": Patient(kidney_read),
    "one-sided anatomy": Patient(kidney_read, one_kidney),
    "Japanese, ISO 2022 IR 87": Patient(short, headers=japanese),
    "Arabic": Patient(short, headers=arabic),
    "empty PatientID": Patient(short, headers=lambda: ct_headers(PatientID="", PatientName="")),
    "no StudyDate": Patient(short, headers=lambda: ct_headers(StudyDate=None, StudyTime=None, StudyID=None)),
    "no body part, no thickness": Patient(
        short,
        headers=lambda: ct_headers(BodyPartExamined=None, SliceThickness=None, Manufacturer=None, InstitutionName=None),
    ),
    "garbage": Patient(short, headers=with_garbage),
    "order": Patient(short, headers=with_order),
    "oblique": Patient(short, headers=oblique_headers),
    "feet first": Patient(short, lambda: anatomy_map(source_axes=FEET_FIRST), feet_first_headers),
    "non-square pixels": Patient(short, headers=lambda: ct_headers(PixelSpacing=[0.9, 0.6])),
    "compressed": Patient(short, headers=compressed),
    "de-identified": Patient(short, headers=deidentified),
    "generation 2": Patient(short, context={"predecessor": FORMER}),
    "compared with a prior": Patient(short, context={"prior": PRIOR}),
    "context": Patient(short, context={"images_at": MOMENT, "institution": "Another Hospital"}),
}


def former_report(like: Dataset) -> Dataset:
    """The header of the predecessor that `generation 2` names."""
    former = Dataset()
    for keyword in ("StudyInstanceUID", "PatientID", "PatientName", "PatientBirthDate", "PatientSex", "StudyDate"):
        former[keyword] = like[keyword]
    former.SpecificCharacterSet = "ISO_IR 192"
    former.SOPClassUID, former.SOPInstanceUID = FORMER.sop_class_uid, FORMER.sop_instance_uid
    former.SeriesInstanceUID, former.Modality = FORMER.series_instance_uid, "SR"
    return former
