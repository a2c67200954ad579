"""Tiny data sets in the published layouts, made of phantoms, and a release that reads them in no time."""

import csv
import gzip
from pathlib import Path

import nibabel as nib
import numpy as np
import torch

from ct.phantom import ANATOMIES, PhantomPatient, to_volume
from fvlm import FVLM, save_release
from fvlm.config import FindingConfig, ModelConfig, PreprocessConfig, ReleaseConfig, TextConfig
from fvlm.tokenizer import load_tokenizer

SPACING, SHAPE = (20.0, 9.0, 9.0), (31, 44, 46)
"""Coarse phantoms: 0.1 s each."""
CT_RATE_LABELS = (
    "Medical material", "Arterial wall calcification", "Cardiomegaly", "Pericardial effusion",
    "Coronary artery wall calcification", "Hiatal hernia", "Lymphadenopathy", "Emphysema", "Atelectasis",
    "Lung nodule", "Lung opacity", "Pulmonary fibrotic sequela", "Pleural effusion", "Mosaic attenuation pattern",
    "Peribronchial thickening", "Consolidation", "Bronchiectasis", "Interlobular septal thickening",
)  # fmt: skip
RAD_LABELS = (
    "emphysema", "atelectasis", "nodule", "nodulegr1cm", "opacity", "scarring", "pleural_effusion",
    "bronchial_wall_thickening", "consolidation", "bronchiectasis", "septal_thickening", "cardiomegaly",
    "pericardial_effusion", "hernia", "calcification", "fracture",
)  # fmt: skip
KNOWN = {
    "Cardiomegaly": "heart.cardiomegaly",
    "Emphysema": "lung.emphysema",
    "Pleural effusion": "lung.pleural_effusion",
    "Hiatal hernia": "esophagus.hiatal_hernia",
}
"""Labels that the phantoms have."""


def patient(number: int) -> PhantomPatient:
    """Of every three patients one has cardiomegaly and one an effusion."""
    keys = ((), ("heart.cardiomegaly",), ("lung.pleural_effusion",))[number % 3]
    return PhantomPatient.draw(number, keys)


def write_ct_rate(folder: Path, scans: int, *, fixed: bool) -> Path:
    """Two reconstructions of each scan, in `valid_fixed`, or in `valid` with a header that is not to be believed."""
    root = folder / "dataset"
    rows, metadata = [], []
    for number in range(1, scans + 1):
        drawn = patient(number)
        volume, labels = to_volume(drawn, SPACING, SHAPE)
        for reconstruction in (1, 2):
            name = f"valid_{number}_a_{reconstruction}.nii.gz"
            place = root / ("valid_fixed" if fixed else "valid") / f"valid_{number}" / f"valid_{number}_a"
            place.mkdir(parents=True, exist_ok=True)
            masks = folder / "masks"
            masks.mkdir(exist_ok=True)
            affine = volume.grid.affine[:, [2, 1, 0, 3]] * np.array([[-1], [-1], [1], [1]])
            stored, header = volume.hu.transpose(2, 1, 0), affine
            if not fixed:
                stored, header = (stored + 1024) // 2, np.diag([1.0, 1.0, 1.0, 1.0])
            write_nifti(place / name, stored, header)
            write_nifti(masks / name, labels.transpose(2, 1, 0), affine)
            rows.append([name, *(int(KNOWN.get(label) in drawn.keys) for label in CT_RATE_LABELS)])
            x, y, z = volume.grid.affine[:3, 3]
            metadata.append(
                [name, "[9.0, 9.0]", "20.0", f"[{x}, {y}, {z}]", "[1.0, 0.0, 0.0, 0.0, 1.0, 0.0]", "2.0", "-1024.0"]
            )
    rows.append(["valid_999_a_1.nii.gz", *[0] * len(CT_RATE_LABELS)])  # not downloaded
    write_csv(root / "multi_abnormality_labels" / "valid_predicted_labels.csv", ["VolumeName", *CT_RATE_LABELS], rows)
    head = ["VolumeName", "XYSpacing", "ZSpacing", "ImagePositionPatient", "ImageOrientationPatient", "RescaleSlope"]
    write_csv(root / "metadata" / "validation_metadata.csv", [*head, "RescaleIntercept"], metadata)
    return folder


def write_rad_chestct(folder: Path, scans: int) -> Path:
    """Cubes of 0.8 mm would be large: the phantom is drawn as if its coarse voxels were such."""
    folder.mkdir(parents=True)
    columns = [f"{label}*{place}" for label in RAD_LABELS for place in ("lung", "heart", "left_upper")]
    english = {"heart.cardiomegaly": "cardiomegaly*heart", "lung.pleural_effusion": "pleural_effusion*left_upper"}
    rows = []
    for number in range(1, scans + 1):
        drawn = patient(number)
        volume, _ = to_volume(drawn, SPACING, SHAPE)
        np.savez_compressed(folder / f"tst{number:05d}.npz", ct=volume.hu[::-1].clip(-1000, 1000))
        there = {english[key] for key in drawn.keys}
        rows.append([f"tst{number:05d}", *(int(column in there) for column in columns)])
    rows.append(["tst99999", *[0] * len(columns)])
    write_csv(folder / "imgtest_Abnormality_and_Location_Labels.csv", ["NoteAcc_DEID", *columns], rows)
    owners = [[f"tst{number:05d}", f"m{number // 2}"] for number in range(1, scans + 1)]
    write_csv(folder / "CT_Scan_Metadata_Complete_35747.csv", ["NoteAcc_DEID", "MRN_DEID"], owners)
    return folder


def write_nifti(path: Path, array: np.ndarray, affine: np.ndarray) -> None:
    path.write_bytes(gzip.compress(nib.Nifti1Image(np.ascontiguousarray(array), affine).to_bytes(), compresslevel=1))


def write_csv(path: Path, header: list[str], rows: list[list[object]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([header, *rows])


WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "no", "large", "heart", "effusion", "emphysema", "hernia", "."]
PROMPTS = {
    "heart.cardiomegaly": ("No large heart.", "Large heart."),
    "lung.pleural_effusion": ("No effusion.", "Effusion."),
    "lung.emphysema": ("No emphysema.", "Emphysema."),
    "esophagus.hiatal_hernia": ("No hernia.", "Hernia."),
}


def write_release(folder: Path) -> str:
    """Random weights; its anatomies are those of the phantom's label maps. Returns the digest."""
    words = folder.with_name("words")
    words.mkdir(parents=True)
    (words / "vocab.txt").write_text("\n".join(WORDS) + "\n", encoding="utf-8")
    model = ModelConfig(
        anatomies=ANATOMIES,
        image_shape=(32, 48, 48),
        patch=(8, 8, 8),
        width=24,
        depth=2,
        heads=2,
        levels=(0,),
        attention_heads=2,
        embedding=8,
        text=TextConfig(vocab_size=len(WORDS), width=16, depth=1, heads=2, max_positions=16, max_tokens=12),
    )
    settings = PreprocessConfig(spacing=(20.0, 9.0, 9.0), window=(32, 48, 48), windows="whole")
    config = ReleaseConfig(name="tiny", version="1", test_only=True, model=model, preprocess=settings)
    findings = [FindingConfig(finding=key, negative=n, positive=p) for key, (n, p) in PROMPTS.items()]
    torch.manual_seed(0)
    return save_release(folder, FVLM(model).eval(), config, findings, load_tokenizer(words), "# Tiny\n\nRandom.\n")
