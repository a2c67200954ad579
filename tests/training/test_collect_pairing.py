"""Which report a study has, which series is taken, and when."""

from dataclasses import replace
from datetime import date, datetime, time, timedelta

import pytest
from pydicom import Dataset
from pydicom.uid import CTImageStorage

from config import Reason
from dicom_sr.reports_in import Status
from training.archive import choice
from training.archive.choice import Kernel, kernel_of
from training.archive.entries import Days, SeriesEntry, StudyEntry
from training.archive.identifiers import known
from training.archive.pace import Pace
from training.archive.pairing import Unpaired, choose, fits
from training.archive.reports import FoundReport
from training.archive.secret import Secret
from training.archive.settings import PaceSettings

STUDY = StudyEntry("1.2.3", "00P-7", "A-9", date(2021, 3, 11))
BY_UID = FoundReport("k1", "sr", study_uid="1.2.3", sections=(("Findings", "A nodule."),))
BY_NUMBER = FoundReport("k2", "hl7", "", "a-9", "P-7", date(2021, 3, 11), sections=(("Findings", "A nodule."),))
WITHIN = timedelta(days=30)


@pytest.mark.parametrize(
    ("report", "fit"),
    [
        (BY_UID, True),
        (replace(BY_UID, study_uid="1.2.4"), False),
        (replace(BY_NUMBER, study_uid="1.2.4"), False),
        (BY_NUMBER, True),
        (replace(BY_NUMBER, accession="00A-9"), True),
        (replace(BY_NUMBER, patient_id="P-8"), False),
        (replace(BY_NUMBER, patient_id=""), False),
        (replace(BY_NUMBER, examined=date(2021, 3, 12)), False),
        (replace(BY_NUMBER, examined=None), False),
        (replace(BY_NUMBER, examined=None, issued=datetime(2021, 3, 20, 9)), True),
        (replace(BY_NUMBER, examined=None, issued=datetime(2021, 3, 10, 9)), False),
        (replace(BY_NUMBER, examined=None, issued=datetime(2021, 4, 20, 9)), False),
    ],
)
def test_a_report_fits_by_uid_or_else_by_accession_patient_and_day(report: FoundReport, fit: bool) -> None:
    assert fits(report, STUDY, WITHIN) is fit


def test_of_several_reports_the_valid_one_is_taken() -> None:
    other = replace(BY_UID, key="k3", sections=(("Findings", "Two nodules."),))
    long = replace(BY_UID, key="k4", sections=(("Findings", "A nodule. No effusion."),), known=known(["Doe^Jane"]))
    first = replace(other, key="k5", status=Status.CORRECTED, issued=datetime(2021, 3, 12))
    second = replace(BY_UID, key="k6", status=Status.CORRECTED, issued=datetime(2021, 3, 13))
    assert choose(STUDY, []) == Unpaired(Reason.NO_REPORT)
    assert choose(STUDY, [BY_UID, other]) == Unpaired(Reason.REPORT_AMBIGUOUS)
    assert choose(STUDY, [replace(BY_UID, status=Status.PRELIMINARY)]) == Unpaired(Reason.REPORT_PRELIMINARY)
    assert choose(STUDY, [replace(BY_UID, by_machine=True)]) == Unpaired(Reason.REPORT_BY_MACHINE)
    assert choose(STUDY, [replace(BY_UID, patient_id="P-8")]) == Unpaired(Reason.REPORT_OTHER_PATIENT)
    found = choose(STUDY, [BY_UID, long, replace(other, status=Status.PRELIMINARY), replace(other, by_machine=True)])
    assert isinstance(found, FoundReport)
    assert found.key == "k4"
    corrected = choose(STUDY, [long, first, second])
    assert isinstance(corrected, FoundReport)
    assert corrected.key == "k6"
    assert corrected.known.names == {"Doe", "Jane"}
    unverified = choose(STUDY, [replace(BY_UID, status=Status.PRELIMINARY)], unverified=True)
    assert isinstance(unverified, FoundReport)


@pytest.mark.parametrize(
    ("name", "kernel"),
    [
        ("B30f", Kernel.SOFT), ("Br40d\\3", Kernel.SOFT), ("I31f", Kernel.SOFT), ("B70s", Kernel.SHARP),
        ("Bl57", Kernel.SHARP), ("STANDARD", Kernel.SOFT), ("BONEPLUS", Kernel.SHARP), ("LUNG", Kernel.SHARP),
        ("FC08", Kernel.SOFT), ("FC52", Kernel.SHARP), ("B", Kernel.SOFT), ("YA", Kernel.SHARP), ("", Kernel.UNKNOWN),
    ],
)  # fmt: skip
def test_kernels_of_the_makers(name: str, kernel: Kernel) -> None:
    assert kernel_of(name) is kernel


def listed(
    uid: str, kernel: str = "B30f", thickness: object = 1.0, count: int = 100, **more: object
) -> tuple[SeriesEntry, Dataset]:
    ds = Dataset()
    ds.SOPClassUID, ds.ImageType = CTImageStorage, ["ORIGINAL", "PRIMARY", "AXIAL"]
    ds.ImageOrientationPatient, ds.ConvolutionKernel, ds.SliceThickness = [1, 0, 0, 0, 1, 0], kernel, thickness
    for keyword, value in more.items():
        setattr(ds, keyword, value)
    return SeriesEntry("1", uid, "CT", count), ds


def test_the_thinnest_original_axial_soft_tissue_series_comes_first() -> None:
    chosen = choice.choose(
        [
            listed("thick", thickness=5.0),
            listed("sharp", "B70s", 0.6),
            listed("thin"),
            listed("thinner, fewer", count=50),
            listed("unsaid", thickness=""),
            listed("reformat", thickness=0.5, ImageType=["DERIVED", "SECONDARY", "MPR"]),
            listed("coronal", thickness=0.5, ImageOrientationPatient=[1, 0, 0, 0, 0, -1]),
            listed("scout", thickness=0.5, ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"]),
            listed("no orientation", thickness=0.5, ImageOrientationPatient=None),
        ],
        20,
    )
    assert [one.entry.series_uid for one in chosen.candidates] == ["thin", "thinner, fewer", "thick", "unsaid", "sharp"]


@pytest.mark.parametrize(
    ("series", "reason"),
    [
        (listed("a", BurnedInAnnotation="YES"), Reason.BURNED_IN),
        (listed("a", ConversionType="WSD"), Reason.BURNED_IN),
        (listed("a", count=3), Reason.TOO_FEW_SLICES),
        (listed("a", ImageType=["DERIVED", "PRIMARY", "AXIAL"]), Reason.NO_ORIGINAL_SERIES),
        ((SeriesEntry("1", "a", "CT", 100), None), Reason.INCOMPLETE_FETCH),
    ],
)
def test_what_cannot_be_taken_says_why(series: tuple[SeriesEntry, Dataset], reason: Reason) -> None:
    assert choice.choose([series], 20) == choice.Choice((), reason)


def test_the_pace_keeps_to_rate_and_night() -> None:
    clock = [datetime(2021, 3, 11, 19, 30).astimezone()]
    slept, told = list[float](), list[datetime]()

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        clock[0] += timedelta(seconds=seconds)

    settings = PaceSettings(images_per_second=10, night_from=time(20), night_to=time(6))
    pace = Pace(settings, lambda: clock[0], sleep, told.append)
    pace.wait()
    assert clock[0].time() == time(20)
    assert told == [clock[0]]
    pace.fetched(300)
    pace.wait()
    assert sum(slept) == pytest.approx(1800 + 30)
    midnight = datetime(2021, 3, 12, 2).astimezone()
    assert pace.opens(midnight) == midnight
    assert pace.opens(datetime(2021, 3, 12, 6).astimezone()) == datetime(2021, 3, 12, 20).astimezone()


def test_pseudonyms_depend_on_the_salt_and_shifts_on_the_patient() -> None:
    one, other = Secret(b"1" * 32), Secret(b"2" * 32)
    assert one.subject("P-7") == one.subject("P-7") != other.subject("P-7")
    assert one.uid("1.2.3") != one.uid("1.2.4")
    assert one.uid("1.2.3").is_valid
    days = [date(2021, 3, 11), date(2021, 5, 1)]
    first, second = (one.shifted(day, "P-7") for day in days)
    assert second - first == days[1] - days[0]
    assert timedelta(0) < days[0] - first <= timedelta(days=730)
    assert one.shifted(days[0], "P-8") != first
    splits = [one.split(f"P-{number}", 0.1, 0.2) for number in range(2000)]
    assert 0.16 < splits.count("test") / 2000 < 0.24
    assert 0.07 < splits.count("validate") / 2000 < 0.13


def test_days_without_an_end() -> None:
    assert Days(date(2021, 1, 1), None).dicom == "20210101-"
    assert date(2022, 1, 1) in Days(date(2021, 1, 1), None)
    assert None not in Days(date(2021, 1, 1), None)
    assert None in Days()
