"""The one list of validators' warnings about our objects that are expected; any other is reported and fails a test."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Allowed:
    """A warning that is expected, and why."""

    tool: str
    """The validator: dciodvfy, dcentvfy, dsrdump, or DicomSRValidator (PixelMed)."""
    pattern: str
    """Regular expression that is found in the line."""
    why: str


_CODE = r'CODE \([^"]*"[^"]*"\)'
_WHOLE = r'CONTAINER \(C0034375,UMLS,"Qualitative Evaluations"\)'
_GROUP = r'CONTAINER \(125007,DCM,"Measurement Group"\)'

ALLOWED_WARNINGS = (
    Allowed(
        "dciodvfy",
        r"Unrecognized defined term <99FVLMNODE> .*Coding Scheme Designator",
        "the project's own scheme, declared in the Coding Scheme Identification Sequence: what has no public code",
    ),
    Allowed(
        "dciodvfy",
        r"Attribute is not present in standard DICOM IOD - \(0x0018,0x1002\) UI Device UID",
        "Device UID in the Contributing Equipment Sequence (PS3.3 table C.12-1), asked for by IHE AI Results; "
        "the tool's model of that sequence is older",
    ),
    Allowed(
        "dciodvfy",
        r"Dicom dataset contains attributes not present in standard DICOM IOD - this is a Standard Extended",
        "follows from the Device UID above",
    ),
    Allowed(
        "dciodvfy",
        r"Missing attribute or value that would be needed to build DICOMDIR",
        "what the source images do not have (such as a patient ID) cannot be made up; only media need it",
    ),
    Allowed(
        "dcentvfy",
        r"Different information entities for attribute - Element=<AccessionNumber> IE <Series> versus <Study>",
        "dcentvfy's own model, for every set of files",
    ),
    Allowed(
        "dsrdump",
        r"The VR checker does not support this Specific Character Set: ISO_IR 192",
        "a limit of the tool (DCMTK built without a check of UTF-8), not of the object",
    ),
    Allowed(
        "DicomSRValidator",
        _GROUP
        + r'/(NUM \([^"]*"[^"]*"\)/)?(TEXT \((111001|111002|111003|122405),DCM,|CODE \(111000,DCM,).*not in template',
        "algorithm identification (TID 4019) in groups and measurements, asked for by IHE AI Results; the tool's "
        "templates are of 2022",
    ),
    Allowed(
        "DicomSRValidator",
        _GROUP + r'/CODE \(276214006,SCT,"Finding category"\): Content Item not in template',
        "Finding category came into TID 1411 and TID 1501 with CP 2176; the tool's templates are older",
    ),
    Allowed(
        "DicomSRValidator",
        _GROUP + r"/" + _CODE + r": Content Item not in template",
        "coded qualitative evaluations (TID 1411 row 16, TID 1501 row 11): the tool's templates are older",
    ),
    Allowed(
        "DicomSRValidator",
        r'/CONTAINER \(25045-6,LN,"CT Report"\).*: Content Item not in template',
        "the text report (TID 2000): the tool has no templates of that family, and says so of every item",
    ),
    Allowed(
        "DicomSRValidator",
        r'\(121232,DCM,"Source Series for Segmentation"\) has different code meaning',
        "the same code; highdicom writes its meaning in other capitals",
    ),
    Allowed(
        "DicomSRValidator",
        _WHOLE + r"/" + _CODE + r"/(" + _CODE + r'|TEXT \(121106,DCM,"Comment"\)): Content Item not in template',
        "reason, detail and findings of an anatomy that was not assessed: TID 1500 is extensible",
    ),
)
