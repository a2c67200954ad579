"""The coded concepts of our objects, for writing and for reading back (PS3.16)."""

from pydicom import Dataset
from pydicom.sr.coding import Code

import config
from config import Reason
from dicom_sr.prior import Change
from fvlm.reading import Verdict

LOCAL_SCHEME = "99FVLMNODE"
"""Designator of the project's own codes; declared in the Coding Scheme Identification Sequence."""
LOCAL_SCHEME_NAME = "fVLM Node local codes"

# document (TID 1500)
IMAGING_MEASUREMENT_REPORT = Code("126000", "DCM", "Imaging Measurement Report")
CT_UNSPECIFIED_REGION = Code("25045-6", "LN", "CT unspecified body region")  # CID 100
IMAGING_MEASUREMENTS = Code("126010", "DCM", "Imaging Measurements")
QUALITATIVE_EVALUATIONS = Code("C0034375", "UMLS", "Qualitative Evaluations")
MEASUREMENT_GROUP = Code("125007", "DCM", "Measurement Group")
COMMENT = Code("121106", "DCM", "Comment")

# groups (TID 1411, TID 1501)
TRACKING_IDENTIFIER = Code("112039", "DCM", "Tracking Identifier")
TRACKING_UID = Code("112040", "DCM", "Tracking Unique Identifier")
FINDING = Code("121071", "DCM", "Finding")
FINDING_SITE = Code("363698007", "SCT", "Finding Site")
FINDING_CATEGORY = Code("276214006", "SCT", "Finding category")
ANATOMICAL_STRUCTURE = Code("91723000", "SCT", "Anatomical Structure")  # CID 7150
CLINICAL_FINDING = Code("404684003", "SCT", "Clinical finding")  # CID 3769
SIDES: dict[str, Code] = {  # CID 244
    "left": Code("7771000", "SCT", "Left"),
    "right": Code("24028007", "SCT", "Right"),
}
LATERALITY = Code("272741003", "SCT", "Laterality")

# numbers (TID 300)
CERTAINTY_OF_FINDING = Code("111012", "DCM", "Certainty of Finding")
VOLUME = Code("118565006", "SCT", "Volume")
ATTENUATION = Code("112031", "DCM", "Attenuation Coefficient")
MEAN = Code("373098007", "SCT", "Mean")
PERCENT = Code("%", "UCUM", "Percent")
CUBIC_MM = Code("mm3", "UCUM", "Cubic millimeter")
HOUNSFIELD = Code("[hnsf'U]", "UCUM", "Hounsfield unit")

# statements
PRESENT = Code("52101004", "SCT", "Present")  # CID 240
ABSENT = Code("272519000", "SCT", "Absent")
UNDETERMINED = Code("373068000", "SCT", "Undetermined")
CHANGE = Code("CHANGE", LOCAL_SCHEME, "Change of certainty since the prior AI reading")
"""Its values are `prior.Change` in the local scheme: public codes speak of size or of status, not of certainty."""
WHY_NOT_ASSESSED = Code("NOT_ASSESSED", LOCAL_SCHEME, "Reason for not being assessed")
"""Its values are the stable reason codes (`config.Reason`) in the local scheme; no public scheme has them."""
NOT_EVALUATED = Code("373121007", "SCT", "Not Evaluated")  # CID 3703
PROCESSING_SUMMARY = Code("111017", "DCM", "CAD Processing and Findings Summary")
ALL_WITHOUT_FINDINGS = Code("111241", "DCM", "All algorithms succeeded; without findings")  # CID 6047
ALL_WITH_FINDINGS = Code("111242", "DCM", "All algorithms succeeded; with findings")
SOME_WITHOUT_FINDINGS = Code("111243", "DCM", "Not all algorithms succeeded; without findings")
SOME_WITH_FINDINGS = Code("111244", "DCM", "Not all algorithms succeeded; with findings")
NONE_SUCCEEDED = Code("111245", "DCM", "No algorithms succeeded; without findings")

# algorithms and equipment (TID 4019, CID 7162, CID 7005)
ALGORITHM_NAME = Code("111001", "DCM", "Algorithm Name")
ALGORITHM_PARAMETERS = Code("111002", "DCM", "Algorithm Parameters")
ARTIFICIAL_INTELLIGENCE = Code("123110", "DCM", "Artificial Intelligence")
DEVICE = Code("121007", "DCM", "Device")
PROCESSING_EQUIPMENT = Code("109102", "DCM", "Processing Equipment")

# companions: text report (TID 2000, CID 7000 to 7003), key objects (CID 7010), heat map
CT_REPORT = Code("25045-6", "LN", "CT Report")
LANGUAGE = Code("121049", "DCM", "Language of Content Item and Descendants")
ENGLISH = Code("en", "RFC5646", "English")
IMPRESSIONS = Code("19005-8", "LN", "Impressions")
IMPRESSION = Code("121073", "DCM", "Impression")
PREVIOUS_FINDINGS = Code("18834-2", "LN", "Previous Findings")
FINDINGS = Code("59776-5", "LN", "Findings")
PROCEDURE_DESCRIPTIONS = Code("55111-9", "LN", "Current Procedure Descriptions")
PROCEDURE_DESCRIPTION = Code("121065", "DCM", "Procedure Description")
BEST_ILLUSTRATION = Code("121080", "DCM", "Best illustration of finding")
OF_INTEREST = Code("113000", "DCM", "Of Interest")
SOURCE_IMAGE = Code("121322", "DCM", "Source image for image processing operation")
NO_UNITS = Code("1", "UCUM", "no units")

VERDICTS: dict[Verdict, Code] = {
    Verdict.PRESENT: PRESENT,
    Verdict.ABSENT: ABSENT,
    Verdict.UNDETERMINED: UNDETERMINED,
}
"""What a verdict is called (CID 240); without an operating point nothing is said."""


def coded(code: config.Code) -> Code:
    """A code of the vocabulary as pydicom's."""
    return Code(code.value, code.scheme, code.meaning)


def reason(why: Reason) -> Code:
    """A stable reason code in the local scheme."""
    return Code(why.value, LOCAL_SCHEME, why.meaning)


def change(which: Change) -> Code:
    """A change since the prior in the local scheme."""
    return Code(which.name, LOCAL_SCHEME, which.value.capitalize())


def item(code: Code) -> Dataset:
    """A code as an item of a code sequence."""
    made = Dataset()
    made.CodeValue, made.CodingSchemeDesignator, made.CodeMeaning = code.value, code.scheme_designator, code.meaning
    return made


def code_of(item: Dataset) -> Code:
    """The code in an item of a code sequence; codes compare by value and scheme.

    Raises AttributeError if the item has none.
    """
    value = item.get("CodeValue") or item.get("LongCodeValue") or item.URNCodeValue
    return Code(str(value), str(item.get("CodingSchemeDesignator", "")), str(item.CodeMeaning))


def is_a(item: Dataset, code: Code) -> bool:
    """Whether the concept name of a content item is `code`."""
    names = item.get("ConceptNameCodeSequence")
    return bool(names) and code_of(names[0]) == code
