"""Public data sets as published, and a collection, as studies: the right voxels, text, flags and reasons."""

import csv
import importlib.util
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from data_sets import CT_RATE_LABELS, SHAPE, SPACING, write_csv, write_ct_rate, write_nifti, write_release
from openpyxl import Workbook
from pydicom import dcmread
from typer.testing import CliRunner

from config import Reason
from config.settings import ModelSettings
from ct.anatomy import AlgorithmIdentity, AnatomyMap
from ct.measure import measure
from ct.phantom import ANATOMIES, PhantomPatient, to_volume, write_series
from ct.totalsegmentator import merge_classes
from ct.volume import Grid, Volume
from fvlm.release import read_release
from training.cli import app
from training.collection import Collection, Pair, Provenance, ReportSection
from training.evaluation.data_set import DataError
from training.shards.build import build
from training.shards.folder import ShardFolder
from training.shards.format import Shard
from training.shards.plan import ShardPlan
from training.sources.collected import collected
from training.sources.ct_rate import ct_rate
from training.sources.masks import OneFileEach, Segmented
from training.sources.merlin import merlin
from training.sources.radgenome import radgenome
from training.study import StudyError

needs_package = pytest.mark.skipif(
    importlib.util.find_spec("totalsegmentator") is None and os.environ.get("CI") != "true",
    reason="TotalSegmentator is not installed; run: deploy/install.sh test",
)
FINDINGS = "The heart is enlarged. There is a cyst in the liver. No pleural effusion."
CODES = {"lung": 10, "heart": 51, "esophagus": 15, "liver": 5, "spleen": 1, "stomach": 6}


@dataclass(frozen=True)
class Ready:
    """Masks that are there already."""

    def find(self, name: str, volume: Volume, anatomies: tuple[str, ...]) -> AnatomyMap:  # noqa: ARG002
        labels = np.zeros(volume.grid.shape, np.uint8)
        labels[5:20, 10:30, 10:30] = 1
        identity = AlgorithmIdentity("ready", "1", "0" * 64)
        return AnatomyMap(labels, volume.grid, anatomies, identity, measure(volume, labels, anatomies))


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("release") / "tiny"
    write_release(folder)
    return folder


def nifti_affine(grid: Grid) -> np.ndarray:
    return grid.affine[:, [2, 1, 0, 3]] * np.array([[-1], [-1], [1], [1]])


def turned(array: np.ndarray, affine: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The same scan stored in another order: from the front, upside down, axes swapped."""
    flip = np.eye(4)
    flip[1, 1], flip[1, 3], flip[2, 2], flip[2, 3] = -1, array.shape[1] - 1, -1, array.shape[2] - 1
    order = np.eye(4)[:, [2, 0, 1, 3]]
    return array[:, ::-1, ::-1].transpose(2, 0, 1), affine @ flip @ order


def write_scan(path: Path, masks: Path, seed: int, *, odd: bool = False, shift_mm: float = 0.0) -> np.ndarray:
    """A phantom and its TotalSegmentator map; returns its true labels."""
    volume, labels = to_volume(PhantomPatient.draw(seed), SPACING, SHAPE)
    affine = nifti_affine(volume.grid)
    classes = np.zeros_like(labels)
    for name, code in CODES.items():
        classes[labels == ANATOMIES.index(name) + 1] = code
    path.parent.mkdir(parents=True, exist_ok=True)
    masks.mkdir(parents=True, exist_ok=True)
    for where, array, shift in ((path, volume.hu, 0.0), (masks / path.name, classes, shift_mm)):
        stored, header = array.transpose(2, 1, 0), affine.copy()
        header[0, 3] += shift
        write_nifti(where, *(turned(stored, header) if odd else (stored, header)))
    return labels


def middle(labels: np.ndarray, name: str, names: tuple[str, ...], affine: np.ndarray) -> np.ndarray:
    """Centre of an anatomy in patient coordinates, mm: x grows to the left."""
    at = np.argwhere(labels == names.index(name) + 1).mean(0)
    return (np.asarray(affine) @ np.append(at, 1))[:3]


def assert_on_its_side(shard: Shard, seed: int) -> None:
    """Liver on the right in the array and in space, and where it was drawn."""
    volume, labels = to_volume(PhantomPatient.draw(seed), SPACING, SHAPE)
    names = tuple(anatomy.name for anatomy in shard.record.anatomies)
    columns = {name: np.argwhere(shard.labels == names.index(name) + 1)[:, 2].mean() for name in ("liver", "spleen")}
    assert columns["liver"] < shard.labels.shape[2] / 2 < columns["spleen"]
    for name in ("liver", "spleen", "heart", "lung"):
        there = middle(shard.labels, name, names, shard.record.affine)
        assert np.abs(there - middle(labels, name, ANATOMIES, volume.grid.affine)).max() < 4.0, name
    assert middle(shard.labels, "liver", names, shard.record.affine)[0] < 0


@needs_package
def test_ct_rate_from_the_command_line(release: Path, tmp_path: Path) -> None:
    root, masks = tmp_path / "CT-RATE" / "dataset", tmp_path / "masks"
    scans = root / "train_fixed"

    def place(name: str) -> Path:
        patient, scan = "_".join(name.split("_")[:2]), name.rpartition("_")[0]
        return scans / patient / scan / f"{name}.nii.gz"

    write_scan(place("train_1_a_1"), masks, 4, odd=True)
    write_scan(place("train_1_a_2"), masks, 4)
    write_scan(place("train_2_a_1"), masks, 5)
    place("train_2_a_1").write_bytes(place("train_2_a_1").read_bytes()[:4000])
    write_scan(place("train_4_a_1"), masks, 6, shift_mm=30.0)
    write_scan(place("train_5_a_1"), tmp_path / "elsewhere", 7)
    write_scan(place("train_6_a_1"), masks, 8)
    write_scan(place("train_7_a_1"), masks, 9)
    names = ["train_1_a_1", "train_1_a_2", *(f"train_{n}_a_1" for n in range(2, 8))]
    reports = [[f"{n}.nii.gz", "", "", "" if n == "train_6_a_1" else FINDINGS, ""] for n in names]
    head = ["VolumeName", "ClinicalInformation_EN", "Technique_EN", "Findings_EN", "Impressions_EN"]
    write_csv(root / "radiology_text_reports" / "train_reports.csv", head, reports)
    labels = [[f"{n}.nii.gz", *(int(label == "Hiatal hernia") for label in CT_RATE_LABELS)] for n in names]
    write_csv(root / "multi_abnormality_labels" / "train_predicted_labels.csv", ["VolumeName", *CT_RATE_LABELS], labels)
    about = [[f"{n}.nii.gz", "F", "063Y", "ACME"] for n in names]
    columns = ["VolumeName", "PatientSex", "PatientAge", "Manufacturer"]
    write_csv(root / "metadata" / "train_metadata.csv", columns, about)
    (root / "metadata" / "no_chest_train.txt").write_text("train_7_a_1.nii.gz\n")

    arguments = ["shards", "--from", "ct-rate", "--data", root.parent, "--masks", masks, "--release", release]
    done = CliRunner().invoke(app, [*map(str, arguments), "--out", str(tmp_path / "out")])
    assert done.exit_code == 0, done.output
    assert "2 shards" in done.output
    folder = ShardFolder.open(tmp_path / "out")
    assert {left.key: left.reason for left in folder.index.skipped} == {
        "train_2_a_1": Reason.VOLUME_UNREADABLE,
        "train_3_a_1": Reason.VOLUME_MISSING,
        "train_4_a_1": Reason.MASK_UNUSABLE,
        "train_5_a_1": Reason.MASK_UNUSABLE,
        "train_6_a_1": Reason.REPORT_NO_TEXT,
        "train_7_a_1": Reason.ANATOMY_ABSENT,
    }
    for reason in ("VOLUME_UNREADABLE", "MASK_UNUSABLE", "REPORT_NO_TEXT"):
        assert reason in done.output
    odd, plain = (folder.shard(entry) for entry in folder.index.studies)
    assert np.array_equal(odd.image, plain.image)
    assert np.array_equal(odd.labels, plain.labels)
    assert_on_its_side(odd, 4)
    assert (odd.record.scan, odd.record.subject) == ("train_1_a", "train_1")
    assert odd.record.attributes == {"sex": "F", "age": "063Y", "manufacturer": "ACME"}
    assert odd.record.labels["esophagus.hiatal_hernia"] == "present"  # the table goes before the report
    assert odd.record.labels["liver.cyst"] == "present"
    assert "liver.cyst" not in odd.record.known
    texts = {anatomy.name: anatomy for anatomy in odd.record.anatomies}
    assert (texts["heart"].findings, texts["heart"].normal) == ("The heart is enlarged.", False)
    assert {anatomy.name for anatomy in odd.record.anatomies if anatomy.start} == set(CODES)


def test_ct_rate_as_first_published(release: Path, tmp_path: Path) -> None:
    """Header and scale of the files are wrong; the metadata puts them right."""
    root = write_ct_rate(tmp_path / "data", 2, fixed=False) / "dataset"
    rows = [[f"valid_{n}_a_{r}.nii.gz", "Heart.", "Normal."] for n in (1, 2) for r in (1, 2)]
    head = ["VolumeName", "Findings_EN", "Impressions_EN"]
    write_csv(root / "radiology_text_reports" / "validation_reports.csv", head, rows)
    listing = ct_rate(tmp_path / "data", Ready())
    assert [study.split for study in listing.studies] == ["valid"] * 4
    assert listing.studies[0].report == "Findings: Heart.\nImpression: Normal."
    assert len({study.scan for study in listing.studies}) == 2
    volume, _ = listing.studies[0].load(ANATOMIES)
    expected, _ = to_volume(PhantomPatient.draw(1, ("heart.cardiomegaly",)), SPACING, SHAPE)
    assert np.abs(volume.hu - expected.hu).max() <= 1
    assert volume.grid.coincides(expected.grid)
    plan = ShardPlan.of_release(read_release(release).config, ())
    assert build(listing.studies, listing.dropped, plan, tmp_path / "out", 1, lambda *_: None).made == 4
    (root / "radiology_text_reports" / "validation_reports.csv").unlink()
    with pytest.raises(DataError, match=r"no train_reports\.csv"):
        ct_rate(tmp_path / "data", Ready())


def test_radgenome(release: Path, tmp_path: Path) -> None:
    root = tmp_path / "dataset"
    volume, labels = to_volume(PhantomPatient.draw(4), SPACING, SHAPE)
    affine, name = nifti_affine(volume.grid), "train_1_a_1"
    scan = root / "train_preprocessed" / "train_1" / "train_1a" / f"{name}.nii.gz"
    scan.parent.mkdir(parents=True)
    write_nifti(scan, *turned(volume.hu.transpose(2, 1, 0), affine))
    for kind, anatomy, file in (("region", "lung", "lung"), ("anatomy", "liver", "liver"), ("region", "heart", "heart"),
                                ("anatomy", "spleen", "spleen")):  # fmt: skip
        mask = (labels == ANATOMIES.index(anatomy) + 1).astype(np.uint8).transpose(2, 1, 0)
        path = root / f"train_{kind}_mask" / f"seg_{name}" / f"{file}.nii.gz"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_nifti(path, mask, affine)
    said = [
        ["lung", "There is a 5 mm nodule."],
        ["pleura", "There is a pleural effusion."],
        ["heart", "The heart is of normal size."],
        ["abdomen", "There is a cyst in the liver."],
        ["", "The bones are unremarkable."],
    ]
    rows = [[f"{name}.nii.gz", *row] for row in said] + [["train_9_a_1.nii.gz", "lung", "Emphysema."]]
    table = root / "radgenome_files" / "train_region_report.csv"
    write_csv(table, ["Volumename", "Anatomy", "Sentence"], rows)
    listing = radgenome(tmp_path, None)
    plan = ShardPlan.of_release(read_release(release).config, ())
    built = build(listing.studies, listing.dropped, plan, tmp_path / "out", 1, lambda *_: None)
    assert [(left.key, left.reason) for left in built.index.skipped] == [("train_9_a_1", Reason.VOLUME_MISSING)]
    folder = ShardFolder.open(tmp_path / "out")
    shard = folder.shard(folder.index.studies[0])
    assert_on_its_side(shard, 4)
    found = {anatomy.name: anatomy for anatomy in shard.record.anatomies}
    assert found["lung"].findings == "There is a 5 mm nodule. There is a pleural effusion."
    assert (found["lung"].normal, found["heart"].normal, found["liver"].normal) == (False, True, False)
    assert found["liver"].findings == "There is a cyst in the liver."  # by the rules: abdomen is no anatomy
    assert found["stomach"].doubt is Reason.ANATOMY_NOT_SEGMENTED
    assert found["heart"].usable
    with pytest.raises(StudyError, match="no mask of any"):
        OneFileEach((root / "nowhere",)).find(name, volume, ANATOMIES)
    write_csv(table, ["Volumename", "Region", "Sentence"], rows)
    with pytest.raises(DataError, match="no column Anatomy"):
        radgenome(tmp_path, None)


def test_merlin(release: Path, tmp_path: Path) -> None:
    root = tmp_path / "merlinabdominalctdataset"
    (root / "merlin_data").mkdir(parents=True)
    rows = [
        ["study id", "Findings", "Split", "Fewshot"],
        ["AC1", "LIVER: There is a cyst. IMPRESSION: 1. Hepatic cyst.", "train", None],
        ["AC2", "KIDNEYS: Normal.", "val", 1],
        ["AC3", None, "test", None],
        ["AC4", "Normal.", "test", None],
    ]
    volume, _ = to_volume(PhantomPatient.draw(4), SPACING, SHAPE)
    for name in ("AC1", "AC2", "AC3"):
        stored = turned(volume.hu.transpose(2, 1, 0), nifti_affine(volume.grid))
        write_nifti(root / "merlin_data" / f"{name}.nii.gz", *stored)
    book = Workbook()
    for row in rows:
        book.active.append(row)
    book.save(root / "reports_final.xlsx")
    listing = merlin(tmp_path, Ready())
    assert [(study.key, study.split) for study in listing.studies] == [("AC1", "train"), ("AC2", "valid")]
    assert listing.studies[0].report == "Findings: LIVER: There is a cyst.\nImpression: 1. Hepatic cyst."
    assert [(left.key, left.reason.value) for left in listing.dropped] == [
        ("AC3", "REPORT_NO_TEXT"),
        ("AC4", "VOLUME_MISSING"),
    ]
    read, _ = listing.studies[0].load(ANATOMIES)
    assert np.array_equal(read.hu, volume.hu)
    assert read.grid.coincides(volume.grid)
    plan = ShardPlan.of_release(read_release(release).config, ())
    built = build(listing.studies, listing.dropped, plan, tmp_path / "out", 1, lambda *_: None)
    assert (built.made, len(built.index.skipped)) == (2, 2)
    with (root / "reports_final.csv").open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    (root / "reports_final.xlsx").unlink()
    assert [study.report for study in merlin(tmp_path, Ready()).studies] == [s.report for s in listing.studies]
    for bad, told in (
        ([rows[0], ["../AC1", "x", "train", ""]], "no file name"),
        ([rows[0], ["AC1", "x", "tune", ""]], "split 'tune'"),
        ([["study id", "Findings"]], "no column split"),
    ):
        with (root / "reports_final.csv").open("w", newline="") as file:
            csv.writer(file).writerows(bad)
        with pytest.raises(DataError, match=told):
            merlin(tmp_path, Ready())
    (root / "reports_final.xlsx").write_bytes(b"PK nothing")
    with pytest.raises(DataError, match="cannot be read"):
        merlin(tmp_path, Ready())


def test_a_collection_segmented_by_the_configured_segmenter(tmp_path: Path) -> None:
    """DICOM of a patient who lay on the belly, feet first: the liver is on the right all the same."""
    collection = Collection(tmp_path / "collection")
    about = Provenance(manufacturer="ACME", sex="F", age_years=63, slice_thickness_mm=5.0)
    sections = (ReportSection("FINDINGS", FINDINGS), ReportSection("IMPRESSION", "Cardiomegaly."))
    headings = tuple(section.heading for section in sections)
    patient = PhantomPatient.draw(4)
    with collection.writing():
        for name, language in (("a" * 32, "en-US"), ("b" * 32, "de"), ("c" * 32, "")):
            images = collection.draft(name)
            if name[0] == "a":
                write_series(patient, images, spacing=(5.0, 4.0, 4.0), shape=(124, 100, 100), orientation="FFP")
            elif name[0] == "c":
                (images / "0001.dcm").write_bytes(b"nothing")
            collection.add(Pair(name, "5" * 32, "validate", 124, headings, language, "sr", about), sections)
    listing = collected(tmp_path / "collection", Segmented(ModelSettings()))
    assert [(left.key[0], left.reason) for left in listing.dropped] == [("b", Reason.REPORT_NOT_ENGLISH)]
    plan = ShardPlan.of_preset("phantom").model_copy(update={"findings": ("heart.cardiomegaly",)})
    build(listing.studies, listing.dropped, plan, tmp_path / "out", 1, lambda *_: None)
    folder = ShardFolder.open(tmp_path / "out")
    assert [(left.key[0], left.reason) for left in folder.index.skipped] == [
        ("b", Reason.REPORT_NOT_ENGLISH),
        ("c", Reason.NOT_DICOM),
    ]
    shard = folder.shard(folder.index.studies[0])
    record = shard.record
    names = tuple(anatomy.name for anatomy in record.anatomies)
    assert (record.split, record.subject, record.attributes["age"]) == ("valid", "5" * 32, "63")
    assert record.provenance["masks"] == "fVLM Node phantom segmenter 1"
    assert middle(shard.labels, "liver", names, record.affine)[0] < 0 < middle(
        shard.labels, "spleen", names, record.affine
    )[0]  # fmt: skip
    heart = record.anatomies[names.index("heart")]
    assert (heart.impression, heart.findings) == ("Cardiomegaly.", "The heart is enlarged.")
    assert record.labels["heart.cardiomegaly"] == "present"
    header, everything = dcmread(next(collection.images(next(iter(collection))).iterdir())), shard.path.read_bytes()
    for word in ("PatientName", "PatientID", "StudyInstanceUID", "SeriesInstanceUID", "StudyDate"):
        assert str(header[word].value).encode() not in everything, word
    done = CliRunner().invoke(app, ["shards", "--from", "collection", "--data", str(tmp_path), "--out", str(tmp_path)])
    assert (done.exit_code, "is no collection" in done.output) == (2, True)


@needs_package
def test_class_numbers_are_those_of_the_package() -> None:
    from totalsegmentator.map_to_binary import class_map

    numbers = np.array(list(CODES.values()), np.uint8).reshape(1, 1, -1)
    assert merge_classes(numbers, class_map["total"], tuple(CODES)).ravel().tolist() == list(range(1, len(CODES) + 1))
