"""What is known of one series: the facts that rules ask for, out of its images in the spool.

They are read anew each time and kept nowhere: descriptions may hold whatever somebody typed at a scanner, names too.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime
from pathlib import Path
from statistics import median

from pydicom import Dataset
from pydicom.multival import MultiValue
from pydicom.valuerep import DA
from sqlalchemy.orm import Session

from config import Reason
from config.expressions import Value, Values
from config.priority import REQUESTED
from config.settings import RoutingSettings
from ct.kernels import is_soft
from ct.part10 import Unfit, parsing
from ct.series import Series as CtSeries
from ct.series import read_data_set, read_header
from ct.vetting import Vetted, vet
from ct.volume import SourceSlice
from node.completion import series_slices
from node.records import Series

_TEXTS = {
    "kernel": "ConvolutionKernel",
    "body_part": "BodyPartExamined",
    "image_type": "ImageType",
    "series_description": "SeriesDescription",
    "study_description": "StudyDescription",
    "protocol": "ProtocolName",
    "manufacturer": "Manufacturer",
    "model": "ManufacturerModelName",
    "station": "StationName",
}
_LONGEST = 200
"""Characters of a text that are looked at."""
_NO_CONTRAST = frozenset({"", "NO", "N", "NONE"})
_DAYS = {"D": 1 / 365.25, "W": 7 / 365.25, "M": 1 / 12, "Y": 1.0}
_WEEKDAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")


@dataclass(frozen=True)
class Facts:
    """What is known of a series."""

    values: Values
    """By the names of `config.expressions.FACTS`."""
    patient: str
    """SHA-256 of the Patient ID, hex: to be compared, never shown or kept."""


def facts_of(session: Session, series: Series, spool_dir: Path, limits: RoutingSettings) -> Facts:
    """The facts of a series that passed vetting.

    Raises Unfit if its images are gone (IMAGES_DELETED) or cannot be read any more.
    """
    slices = series_slices(session, series, spool_dir)
    if not slices:
        raise Unfit(Reason.IMAGES_DELETED, "its images are not in the spool any more")
    vetted, said = _of_images(series, slices, limits)
    values = {**_geometry(vetted), **said, "source_ae": (series.source_ae,), **of_moment(series.last_at)}
    return Facts(values, vetted.headers[0].patient)


def _of_images(
    series: Series, slices: Sequence[SourceSlice], limits: RoutingSettings
) -> tuple[Vetted, dict[str, Value | None]]:
    """The volume that the images make, and what the middle one says in words. Raises Unfit."""
    headers = tuple(read_header(one) for one in slices)
    vetted = vet(
        CtSeries(series.study_instance_uid, series.series_instance_uid, headers), limits.min_slices, limits.max_slices
    )
    with parsing():
        try:
            middle = read_data_set(vetted.headers[len(vetted.headers) // 2].source)
        except OSError as error:
            raise Unfit(Reason.NOT_DICOM, f"cannot be read: {error.strerror or error}") from error
    return vetted, _said(middle)


def of_moment(moment: datetime) -> dict[str, Value | None]:
    """Time of day, hour and weekday of a time, in the time zone of this machine."""
    local = moment.astimezone()
    return {
        "time": 60.0 * local.hour + local.minute,
        "hour": float(local.hour),
        "weekday": (_WEEKDAYS[local.weekday()],),
    }


def _geometry(vetted: Vetted) -> dict[str, Value | None]:
    known = [h.slice_thickness for h in vetted.headers if h.slice_thickness is not None and h.slice_thickness > 0]
    return {
        "slices": float(len(vetted.headers)),
        "slice_thickness": float(median(known)) if known else None,
        "spacing": round(vetted.grid.spacing[0], 4),
    }


def _said(image: Dataset) -> dict[str, Value | None]:
    """What one image says in words."""
    found: dict[str, Value | None] = {name: _texts(image, keyword) or None for name, keyword in _TEXTS.items()}
    agent = _texts(image, "ContrastBolusAgent")
    found["contrast"] = bool(agent) and agent[0].upper() not in _NO_CONTRAST
    found["soft_kernel"] = is_soft(_texts(image, "ConvolutionKernel"))
    asked = REQUESTED.get("".join(_texts(image, "RequestedProcedurePriority")[:1]).upper())
    found["asked_priority"] = None if asked is None else (asked.label,)
    found["patient_age"] = _age(image)
    return found


def _texts(image: Dataset, keyword: str) -> tuple[str, ...]:
    """The values of an element that say something; one that cannot be decoded says nothing."""
    try:
        value = image.get(keyword)
    except Exception:  # pydicom raises nearly any type on values that break their VR's rules
        return ()
    values = value if isinstance(value, MultiValue | list) else [value]
    texts = (" ".join(str(one).split())[:_LONGEST] for one in values if one is not None)
    return tuple(text for text in texts if text)


def _age(image: Dataset) -> float | None:
    """Years (PS3.5, VR AS: 045Y), else between the dates of birth and study."""
    told = "".join(_texts(image, "PatientAge")[:1])
    if len(told) == 4 and told[:3].isascii() and told[:3].isdigit() and told[3] in _DAYS:
        return int(told[:3]) * _DAYS[told[3]]
    born, studied = _date(image, "PatientBirthDate"), _date(image, "StudyDate")
    if born is None or studied is None or studied < born:
        return None
    return (studied - born).days / 365.25


def _date(image: Dataset, keyword: str) -> date | None:
    try:
        return DA("".join(_texts(image, keyword)[:1])) or None
    except (ValueError, TypeError):
        return None
