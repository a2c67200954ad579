"""Names of objects: the same for the same inputs, other for other inputs; and the caller's data stay as they are."""

from copy import deepcopy
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from io import BytesIO

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom import Dataset, dcmread
from pydicom.dataelem import RawDataElement
from pydicom.tag import BaseTag
from pydicom.uid import UID
from sr_patients import arabic, japanese
from sr_synthetic import MOMENT, anatomy_map, ct_headers, reading

import dicom_sr
from config import Reason, load_vocabulary
from dicom_sr.identity import Kind, Names, derive_uid, device_uid, long_string
from fvlm.reading import Reading


def as_bytes(dataset: Dataset) -> bytes:
    stream = BytesIO()
    dataset.save_as(stream)
    return stream.getvalue()


def uids(objects: list[Dataset]) -> set[str]:
    return {uid for d in objects for uid in (str(d.SeriesInstanceUID), str(d.SOPInstanceUID))}


def test_same_inputs_give_the_same_bytes() -> None:
    first = dicom_sr.write(reading(), anatomy_map(), ct_headers())
    second = dicom_sr.write(reading(), anatomy_map(), ct_headers())
    assert [as_bytes(d) for d in first] == [as_bytes(d) for d in second]


def test_order_of_writing_objects_is_the_order_to_send_them() -> None:
    seg, sr = dicom_sr.write(reading(), anatomy_map(), ct_headers())
    assert (seg.Modality, seg.SeriesNumber, sr.Modality, sr.SeriesNumber) == ("SEG", 9001, "SR", 9002)
    assert seg.StudyInstanceUID == sr.StudyInstanceUID == ct_headers()[0].StudyInstanceUID


def test_other_inputs_give_other_uids() -> None:
    base = reading()
    other_model = replace(base, model=replace(base.model, digest="c" * 64))
    other_segmenter = replace(base, segmenter=replace(base.segmenter, digest="c" * 64))
    fewer = ct_headers()
    fewer[5].SOPInstanceUID = "1.2.3.4.5"

    def written(of: Reading, headers: list[Dataset], images_at: datetime = MOMENT) -> set[str]:
        return uids(dicom_sr.write(of, anatomy_map(), headers, dicom_sr.WriteContext(images_at)))

    sets = [
        written(base, ct_headers()),
        written(base, ct_headers(), MOMENT + timedelta(microseconds=1)),
        written(other_model, ct_headers()),
        written(other_segmenter, ct_headers()),
        written(base, ct_headers(SeriesInstanceUID="1.2.3.9")),
        written(base, fewer),
    ]
    assert len(set.union(*sets)) == 4 * len(sets)


def test_tracking_outlives_reprocessing_but_not_the_series() -> None:
    def tracking(series: str, dated: str, digest: str) -> str:
        return Names(series, "s", dated, digest, "g").tracking("liver.cyst")

    assert tracking("1.2", "today", "a") == tracking("1.2", "later", "b")
    assert tracking("1.2", "today", "a") != tracking("1.3", "today", "a")


def test_the_hour_of_the_analysis_changes_nothing_where_the_images_date_the_objects() -> None:
    def written(analysed_at: datetime, images_at: datetime) -> list[bytes]:
        of = replace(reading(), analysed_at=analysed_at)
        return [as_bytes(d) for d in dicom_sr.write(of, anatomy_map(), headers, dicom_sr.WriteContext(images_at))]

    headers = ct_headers(TimezoneOffsetFromUTC="+0100")
    first = written(MOMENT, MOMENT)
    assert first == written(MOMENT + timedelta(days=3), MOMENT.astimezone(UTC))
    assert first != written(MOMENT, MOMENT + timedelta(days=3))


@given(st.lists(st.text(), min_size=1, max_size=5))
def test_derived_uids_are_valid(parts: list[str]) -> None:
    assert UID(derive_uid(*parts)).is_valid
    assert derive_uid(*parts) == derive_uid(*parts)
    assert derive_uid(*parts) != derive_uid(*parts, "")


def test_everything_that_can_be_tracked_has_its_own_uid() -> None:
    vocabulary = load_vocabulary()
    names = Names("1.2.3", "s", "today", "m", "g")
    things = [*(a.name for a in vocabulary.anatomies), *(f.key for f in vocabulary.findings)]
    derived = {names.tracking(thing) for thing in things}
    derived |= {make(kind) for make in (names.series, names.instance, names.dimensions) for kind in Kind}
    assert len(derived) == len(things) + 3 * len(Kind)


def test_algorithms_are_contributing_equipment_with_a_device_of_their_weights() -> None:
    for written in dicom_sr.write(reading(), anatomy_map(), ct_headers()):
        by_serial = {str(i.get("DeviceSerialNumber", "")): i for i in written.ContributingEquipmentSequence}
        for algorithm in (reading().model, reading().segmenter):
            item = by_serial[algorithm.digest]
            assert item.DeviceUID == device_uid(algorithm)
            assert item.PurposeOfReferenceCodeSequence[0].CodeValue == "109102"
    assert device_uid(reading().model) != device_uid(replace(reading().model, digest="0"))


def test_the_callers_data_stay_as_they_are() -> None:
    headers, source, of = ct_headers(SpecificCharacterSet="ISO_IR 100"), anatomy_map(), reading()
    before = deepcopy((headers, of))
    mask = source.labels.copy()
    dicom_sr.write(of, source, headers)
    assert (headers, of) == before
    assert (source.labels == mask).all()


def test_the_two_objects_share_nothing() -> None:
    seg, sr = dicom_sr.write(reading(), anatomy_map(), ct_headers())
    seg["PatientName"].value = "Changed"
    assert str(sr.PatientName) == "Müller^Jörg"


@pytest.mark.parametrize("headers", [japanese, arabic, ct_headers])
def test_names_survive_in_utf_8(headers) -> None:  # type: ignore[no-untyped-def]
    images = headers()
    for written in dicom_sr.write(reading(), anatomy_map(), images):
        back = dcmread(BytesIO(as_bytes(written)))
        assert back.SpecificCharacterSet == "ISO_IR 192"
        assert str(back.PatientName) == str(images[0].PatientName)
        assert back.PatientID == images[0].PatientID


def test_institution_is_ours_if_given_else_the_sources() -> None:
    context = dicom_sr.WriteContext(institution="Another Hospital")
    assert dicom_sr.write(reading(), anatomy_map(), ct_headers(), context)[0].InstitutionName == "Another Hospital"
    assert dicom_sr.write(reading(), anatomy_map(), ct_headers())[0].InstitutionName == "General Hospital"


def test_context_is_checked() -> None:
    with pytest.raises(ValueError, match="device_uid"):
        dicom_sr.WriteContext(device_uid="1.2.03")


@given(st.text())
def test_long_strings_fit_their_vr(text: str) -> None:
    value = long_string(text)
    assert len(value) <= 64
    assert "\\" not in value
    assert value == value.strip()
    assert value.isprintable()


@pytest.mark.parametrize(
    ("tag", "vr", "value"),
    [
        (0x00080005, "CS", b"zlib"),
        (0x00180015, "PN", b"CHEST "),
        (0x00200010, "UL", b"17"),
        (0x00200010, "US", b"17"),
        (0x00321064, "SQ", b"\xfe\xff\x00\xe0\xff\xff\xff\xff\x08"),
        (0x00081110, "LO", b"no sequence "),
        (0x00280010, "LO", b"24  "),
    ],
)
def test_a_header_with_a_value_under_a_wrong_vr_is_encoded_or_refused(tag: int, vr: str, value: bytes) -> None:
    """What is written can be put into a file and read again."""
    headers = ct_headers(StudyID="17")
    for header in headers:
        header[tag] = RawDataElement(BaseTag(tag), vr, len(value), value, 0, False, True)
    if tag == 0x00280010:
        with pytest.raises(dicom_sr.WriteError, match=Reason.MIXED_SIZE):
            dicom_sr.write(reading(), anatomy_map(), headers)
        return
    for dataset in dicom_sr.write(reading(), anatomy_map(), headers):
        assert list(dcmread(BytesIO(as_bytes(dataset))))
