"""The fault table, what is in the images: rows 14 and 15, end to end."""

import sys
from collections.abc import Callable, Iterator

import pytest
from house import wait_for
from ledger import Ledger, current_set, send, slices
from pydicom import Dataset
from pydicom.uid import EnhancedCTImageStorage, MRImageStorage, SecondaryCaptureImageStorage
from raw_pdu import answer, connect, context, store
from rooms import Room, room
from spool_data import encode

pytestmark = [
    pytest.mark.peers,
    pytest.mark.timeout(600),
    pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc"),
]
_MOST = 12


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Room]:
    folder = tmp_path_factory.mktemp("content")
    with room(folder, environment={"FVLM_ROUTING__MAX_SLICES": str(_MOST)}) as made:
        yield made


Change = Callable[[list[Dataset]], list[Dataset]]


def _all(**values: object) -> Change:
    """Set these attributes in every image."""

    def change(datasets: list[Dataset]) -> list[Dataset]:
        for dataset in datasets:
            for keyword, value in values.items():
                setattr(dataset, keyword, value)
        return datasets

    return change


def _one(number: int, **values: object) -> Change:
    """Set these attributes in one image."""
    return lambda datasets: [*datasets[:number], *_all(**values)([datasets[number]]), *datasets[number + 1 :]]


def _second_phase(datasets: list[Dataset]) -> list[Dataset]:
    """The same positions once more under other UIDs: contrast, a cardiac phase."""
    again = slices(0, len(datasets))
    for number, (first, second) in enumerate(zip(datasets, again, strict=True), 50):
        second.SeriesInstanceUID, second.FrameOfReferenceUID = first.SeriesInstanceUID, first.FrameOfReferenceUID
        second.SOPInstanceUID = f"{first.SeriesInstanceUID}.{number}"
    return [*datasets, *again]


def _tilted(datasets: list[Dataset]) -> list[Dataset]:
    for number, dataset in enumerate(datasets):
        dataset.ImagePositionPatient = [-100.0, -100.0 + 1.0 * number, 2.0 * number]
    return datasets


def _feet_first(datasets: list[Dataset]) -> list[Dataset]:
    for number, dataset in enumerate(datasets):
        dataset.ImageOrientationPatient = [-1, 0, 0, 0, 1, 0]
        dataset.ImagePositionPatient = [100.0, -100.0, -2.0 * number]
    return datasets


def _coronal(datasets: list[Dataset]) -> list[Dataset]:
    for number, dataset in enumerate(datasets):
        dataset.ImageOrientationPatient = [1, 0, 0, 0, 0, -1]
        dataset.ImagePositionPatient = [-100.0, 2.0 * number, 100.0]
    return datasets


VERDICTS: dict[str, tuple[int, Change, str | None]] = {
    "missing slice": (6, lambda datasets: datasets[:3] + datasets[4:], "GEOM_GAP"),
    "duplicate position": (6, _one(3, ImagePositionPatient=[-100.0, -100.0, 6.0]), "GEOM_DUPLICATE"),
    "mixed orientation": (6, _one(3, ImageOrientationPatient=[-1, 0, 0, 0, -1, 0]), "MIXED_ORIENTATION"),
    "gantry tilt": (6, _tilted, "TILT"),
    "variable spacing": (6, _one(5, ImagePositionPatient=[-100.0, -100.0, 12.7]), "GEOM_IRREGULAR"),
    "localizer in the series": (6, _one(0, ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"]), None),
    "localizer alone": (4, _all(ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"]), "LOCALIZER"),
    "coronal reformat": (4, _coronal, "NON_AXIAL"),
    "secondary capture": (4, _all(SOPClassUID=SecondaryCaptureImageStorage), "NOT_CT"),
    "not CT": (4, _all(SOPClassUID=MRImageStorage, Modality="MR"), "NOT_CT"),
    "dual energy": (4, _all(RescaleType="Z_EFF"), "BAD_RESCALE"),
    "cardiac phases, contrast and none": (4, _second_phase, "GEOM_DUPLICATE"),
    "enhanced multi-frame": (4, _all(SOPClassUID=EnhancedCTImageStorage), "MULTI_FRAME"),
    "feet first": (4, _feet_first, None),
    "single slice": (1, _all(), "TOO_FEW_SLICES"),
    "too many slices": (_MOST + 1, _all(), "TOO_MANY_SLICES"),
    "good": (4, _all(), None),
}
"""What comes -> number of images made, what is done to them, the reason code (None: read)."""


def _send(here: Room, datasets: list[Dataset]) -> None:
    """One association, with the presentation context that the class needs."""
    sop_class = str(datasets[0].SOPClassUID)
    with connect(here.node, context(1, sop_class)) as connection:
        for dataset in datasets:
            data = encode(dataset)
            connection.sendall(store(str(dataset.SOPInstanceUID), data, cls=sop_class))
            assert answer(connection) == 0x0000
            here.ledger.note(dataset, data)


def test_row_14_verdict_table(kept: Room) -> None:
    here = Room(kept.node, kept.archive, Ledger())
    expected = {}
    for number, (name, (count, change, reason)) in enumerate(VERDICTS.items(), 1401):
        datasets = change(slices(number, count))
        _send(here, datasets)
        expected[str(datasets[0].SeriesInstanceUID)] = (name, reason)
    refused = {uid: pair for uid, pair in expected.items() if pair[1] is not None}
    wait_for(lambda: all(_reason(here, uid) for uid in refused), "a verdict on every series", here.node)
    assert {name: _reason(here, uid) for uid, (name, _) in refused.items()} == dict(refused.values())
    localizer = next(uid for uid, (name, _) in expected.items() if name == "localizer in the series")
    here.ledger.series[localizer].remove(f"{localizer}.1")  # it is kept, and not read
    here.settle(*refused)
    read = [uid for uid, (_, reason) in expected.items() if reason is None]
    assert len(here.archive.results()) == 2 * len(read), "something was read that should have been refused"
    seen = here.node.status()
    assert all(reason in seen for _, reason in refused.values())
    assert "localizer" in seen.lower()


def _reason(here: Room, uid: str) -> str | None:
    states = here.node.states(uid)
    return states[-1][1] if states else None


NAMES = {
    ("ISO_IR 100",): "Äneas^Rüdiger^von^Dr.^Jr.",
    ("ISO_IR 144",): "Люкceмбypг",
    ("ISO_IR 13", "ISO 2022 IR 87"): "ﾔﾏﾀﾞ^ﾀﾛｳ=山田^太郎=やまだ^たろう",
    ("", "ISO 2022 IR 149"): "Hong^Gildong=洪^吉洞=홍^길동",
    ("ISO_IR 192",): "Wang^XiaoDong=王^小东",
}
"""Specific Character Set -> a name in it (most are the examples of PS3.5 annexes H, I and J)."""


def test_row_15_character_sets_and_missing_patient_data(kept: Room) -> None:
    here, expected = Room(kept.node, kept.archive, Ledger()), {}
    for number, (characters, name) in enumerate(NAMES.items(), 1501):
        datasets = slices(number, SpecificCharacterSet=list(characters), PatientName=name, StudyDate="20260102")
        send(here.node, datasets, here.ledger)
        expected[str(datasets[0].SeriesInstanceUID)] = (name, "PLANTED-ID-4711", "20260102")
    nameless = slices(1520, PatientID="", PatientName="")
    send(here.node, nameless, here.ledger)
    expected[str(nameless[0].SeriesInstanceUID)] = ("", "", "")
    here.settle()
    for uid, (name, patient_id, study_date) in expected.items():
        found = current_set(here.archive.results(), here.ledger.series[uid])
        for result in (*found["SR"], *found["SEG"]):
            assert str(result.PatientName) == name
            assert str(result.PatientID or "") == patient_id
            assert str(result.StudyDate or "") == study_date
    log = "".join(file.read_text(errors="replace") for file in (here.node.data / "logs").glob("*.log"))
    assert not any(part in log for part in ("Rüdiger", "山田", "Gildong", "PLANTED"))
