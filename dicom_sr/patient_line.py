"""Who the patient is, as a line that can be drawn and read."""

from datetime import datetime

from pydicom import Dataset
from pydicom.valuerep import PersonName

from dicom_sr.lettering import can_draw

_NAMELESS = "(no name)"
_UNDRAWABLE = "(name in letters that cannot be drawn here)"


def patient_name(header: Dataset) -> str:
    """The name in the letters that can be drawn: `山田 太郎 (Yamada Tarou)`, else `Yamada Tarou`.

    Of the component groups (alphabetic, ideographic, phonetic; PS3.5 6.2.1) the ideographic one goes first, since it is
    the name; one of which a letter is missing here is left out as a whole.
    """
    groups = [_spoken(group) for group in str(PersonName(header.get("PatientName") or "")).split("=")]
    alphabetic, ideographic, phonetic = [*groups, "", ""][:3]
    told = [group for group in (ideographic, alphabetic) if group and can_draw(group)]
    if not told and phonetic and can_draw(phonetic):
        told = [phonetic]
    if not told:
        return _UNDRAWABLE if any(groups) else _NAMELESS
    return told[0] if len(told) == 1 else f"{told[0]} ({told[1]})"


def identity_line(header: Dataset) -> str:
    """`ID 4711   born 1950-02-20   M`, as far as known."""
    told = [f"ID {_whole(header.PatientID)}" if header.get("PatientID") else "no ID"]
    if born := _date(header, "PatientBirthDate"):
        told.append(f"born {born}")
    if header.get("PatientSex"):
        told.append(str(header.PatientSex))
    return "   ".join(told)


def patient_line(header: Dataset) -> str:
    """Name, ID, date of birth, sex."""
    return f"{patient_name(header)}   {identity_line(header)}"


def study_line(header: Dataset) -> str:
    """The study and the series that was read, as far as they tell: date, descriptions, accession number."""
    told = [f"CT {_date(header, 'StudyDate')}".strip()]
    told += [_whole(header.get(keyword)) for keyword in ("StudyDescription", "BodyPartExamined") if header.get(keyword)]
    if header.get("AccessionNumber"):
        told.append(f"accession {_whole(header.AccessionNumber)}")
    series = f"series {header.SeriesNumber}" if header.get("SeriesNumber") not in (None, "") else "series"
    if header.get("SeriesDescription"):
        series += f" ({_whole(header.SeriesDescription)})"
    return "  |  ".join([*told[:1], *dict.fromkeys(told[1:]), series])


def _whole(value: object) -> str:
    """A value as text, or that it cannot be drawn: part of an identifier would be another one."""
    return str(value) if can_draw(str(value)) else "(in letters that cannot be drawn here)"


def _spoken(group: str) -> str:
    return " ".join(part for part in group.replace("^", " ").split() if part)


def _date(header: Dataset, keyword: str) -> str:
    """`2026-03-01`; empty if there is none."""
    try:
        return datetime.strptime(str(header.get(keyword) or ""), "%Y%m%d").strftime("%Y-%m-%d")
    except ValueError:
        return ""
