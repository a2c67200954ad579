"""Dates with times as DICOM, HL7 and FHIR write them."""

import re
from datetime import date, datetime, timedelta, timezone

_COMPACT = re.compile(
    r"(?P<date>\d{4}(?:\d{2}){0,2})(?P<time>\d{2}(?:\d{2}){0,2})?(?:\.(?P<fraction>\d{1,6}))?(?P<zone>[+-]\d{4})?"
)


def compact(text: str, zone: str = "") -> datetime | None:
    """`YYYY[MM[DD[HH[MM[SS[.FFFFFF]]]]]][+ZZZZ]`: HL7 TS, and DICOM DT (PS3.5 section 6.2). None if it is none.

    `zone`: offset that holds where the text has none; without either the time is naive.
    """
    found = _COMPACT.fullmatch(text.strip())
    if found is None:
        return None
    digits = found["date"] + ("01" * ((8 - len(found["date"])) // 2)) + (found["time"] or "").ljust(6, "0")
    try:
        moment = datetime.strptime(digits, "%Y%m%d%H%M%S")
        moment = moment.replace(microsecond=int((found["fraction"] or "0").ljust(6, "0")))
        offset = found["zone"] or (zone if re.fullmatch(r"[+-]\d{4}", zone) else "")
        return moment.replace(tzinfo=_zone(offset)) if offset else moment
    except ValueError:
        return None


def day(moment: datetime | None) -> date | None:
    """Its day, as the sender's clock has it."""
    return None if moment is None else moment.date()


def iso(text: str) -> datetime | None:
    """A FHIR date, dateTime or instant (ISO 8601). None if it is none."""
    if not re.fullmatch(r"\d{4}(-\d{2}(-\d{2}(T[\d:.]+(Z|[+-]\d{2}:\d{2})?)?)?)?", text):
        return None
    try:
        return datetime.fromisoformat(text + "-01" * ((10 - len(text)) // 3) if len(text) < 10 else text)
    except ValueError:
        return None


def _zone(offset: str) -> timezone:
    minutes = int(offset[1:3]) * 60 + int(offset[3:])
    return timezone(timedelta(minutes=-minutes if offset[0] == "-" else minutes))
