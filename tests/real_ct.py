"""Real images that nobody here made: two thorax CTs and a brain MR out of the source archive of pyradiomics 3.0.1.

Nothing of it is committed: `python tests/real_ct.py` (or the first test that needs it) takes the archive from the
package index into `.test-data/`, checked by SHA-256. The NRRD volumes carry no DICOM headers; `write_dicom` gives them
some, with the true geometry.
"""

import gzip
import hashlib
import re
import subprocess
import sys
import tarfile
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, MRImageStorage, generate_uid

FOLDER = Path(__file__).parents[1] / ".test-data"
REQUIREMENT = "pyradiomics==3.0.1 --hash=sha256:47c57f441d6cb7973fa3b2ea48d3948df78e3348e1c69e1e2ff19001601fc2f5"
SHA256 = {
    "lung1_image.nrrd": "379fa48bf34cfa961e6f5ec19c0c38757a30b9aa884212ef28dc29b5061c64ed",
    "lung2_image.nrrd": "aa2b94eec79127ed786798ac8dc3c013010e1692d5787bebfae1a1e9685a4651",
    "brain1_image.nrrd": "fffdb111ee8b428ede7256707393c927a7d5be912f0604cf3c6f1bd5fc9644cf",
}
TYPES = {"short": "i2", "int16": "i2", "unsigned short": "u2", "ushort": "u2", "uint16": "u2", "uchar": "u1"}


class FetchError(RuntimeError):
    """The data cannot be had: no network, or it is not what it was."""


@dataclass(frozen=True)
class Nrrd:
    """A volume with its place in the patient."""

    voxels: npt.NDArray[np.int16]
    """[slice, row, column]."""
    directions: npt.NDArray[np.float64]
    """[3, 3]: the step along slice, row, column in mm, each (x, y, z) in LPS."""
    origin: npt.NDArray[np.float64]
    """(x, y, z) of the first voxel centre in mm, LPS."""


def fetch(folder: Path = FOLDER) -> dict[str, Path]:
    """The three NRRD files by name (`lung1`, `lung2`, `brain1`); downloads once. Raises FetchError."""
    folder.mkdir(parents=True, exist_ok=True)
    if not all(_is_right(folder / name) for name in SHA256):
        with tempfile.TemporaryDirectory() as temporary:
            _unpack(_download(Path(temporary)), folder)
    wrong = [name for name in SHA256 if not _is_right(folder / name)]
    if wrong:
        raise FetchError(f"unexpected content: {', '.join(wrong)}")
    return {name.removesuffix("_image.nrrd"): folder / name for name in SHA256}


def _is_right(path: Path) -> bool:
    return path.is_file() and hashlib.sha256(path.read_bytes()).hexdigest() == SHA256[path.name]


def _download(folder: Path) -> Path:
    """The source archive. pip checks the hash before it looks inside; it insists on asking its setup.py for metadata,
    which imports numpy: therefore without build isolation."""
    requirements = folder / "requirements.txt"
    requirements.write_text(REQUIREMENT)
    command = ["download", "--quiet", "--no-deps", "--no-build-isolation", "--no-binary", "pyradiomics"]
    target = ["--require-hashes", "--requirement", str(requirements), "--dest", str(folder)]
    run = subprocess.run(
        [sys.executable, "-m", "pip", *command, *target], capture_output=True, text=True, timeout=300, check=False
    )
    archives = list(folder.glob("*.tar.gz"))
    if not archives:
        raise FetchError(f"pip download failed: {run.stderr[-500:]}")
    return archives[0]


def _unpack(archive: Path, folder: Path) -> None:
    with tarfile.open(archive) as tar:
        for name in SHA256:
            member = tar.extractfile(f"pyradiomics-3.0.1/data/{name}")
            if member is None:
                raise FetchError(f"{name} is not in the archive")
            part = folder / f"{name}.part"
            part.write_bytes(member.read())
            part.replace(folder / name)


def read_nrrd(path: Path) -> Nrrd:
    """Read a three-dimensional NRRD (teem.sourceforge.net/nrrd/format.html): 8 and 16 bit, raw or gzip, LPS or RAS."""
    head, _, data = path.read_bytes().partition(b"\n\n")
    fields = dict(line.split(": ", 1) for line in head.decode("ascii").splitlines()[1:] if not line.startswith("#"))
    if fields["encoding"] in ("gzip", "gz"):
        data = gzip.decompress(data)
    elif fields["encoding"] != "raw":
        raise ValueError(f"encoding {fields['encoding']}")
    order = ">" if fields.get("endian") == "big" else "<"
    columns, rows, slices = (int(size) for size in fields["sizes"].split())
    voxels = np.frombuffer(data, order + TYPES[fields["type"]]).reshape(slices, rows, columns)
    to_lps = {
        "left-posterior-superior": np.array([1, 1, 1]),
        "right-anterior-superior": np.array([-1, -1, 1]),
    }[fields["space"]]
    directions = np.array([_vector(text) for text in re.findall(r"\([^)]*\)", fields["space directions"])])
    return Nrrd(voxels.astype(np.int16), directions[::-1] * to_lps, _vector(fields["space origin"]) * to_lps)


def _vector(text: str) -> npt.NDArray[np.float64]:
    return np.array([float(part) for part in text.strip("()").split(",")])


def write_dicom(nrrd: Nrrd, folder: Path, modality: str = "CT") -> list[Path]:
    """CT or MR Image Storage, one file a slice, in the order of the slices. Names and ids are made up."""
    folder.mkdir(parents=True, exist_ok=True)
    digest = hashlib.sha256(nrrd.voxels.tobytes()).hexdigest()
    paths = []
    for index in range(len(nrrd.voxels)):
        paths.append(folder / f"{index:04d}.dcm")
        _slice(nrrd, index, modality, digest).save_as(paths[-1], enforce_file_format=True)
    return paths


def _slice(nrrd: Nrrd, index: int, modality: str, digest: str) -> Dataset:
    slice_step, row_step, column_step = nrrd.directions
    spacing = np.linalg.norm(nrrd.directions, axis=1)
    data = Dataset()
    data.SpecificCharacterSet = "ISO_IR 100"
    data.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL" if modality == "CT" else "OTHER"]
    data.SOPClassUID = CTImageStorage if modality == "CT" else MRImageStorage
    data.SOPInstanceUID = generate_uid(entropy_srcs=[digest, modality, str(index)])
    for keyword in ("StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID"):
        setattr(data, keyword, generate_uid(entropy_srcs=[digest, modality, keyword]))
    data.StudyDate = data.SeriesDate = data.ContentDate = data.AcquisitionDate = "20200101"
    data.StudyTime = data.SeriesTime = data.ContentTime = data.AcquisitionTime = "120000"
    data.AccessionNumber, data.StudyID = digest[:8].upper(), digest[:8].upper()
    data.Modality, data.Manufacturer = modality, "unknown"
    data.ReferringPhysicianName, data.StudyDescription = "", f"Real {modality} of a public package"
    data.PatientName, data.PatientID = f"Real^{digest[:6]}", digest[:12].upper()
    data.PatientBirthDate, data.PatientSex, data.PatientPosition = "", "", "HFS"
    data.SeriesNumber, data.AcquisitionNumber, data.InstanceNumber = 1, 1, index + 1
    data.PositionReferenceIndicator, data.Laterality = "", ""
    data.ImagePositionPatient = [f"{value:.6g}" for value in nrrd.origin + index * slice_step]
    data.ImageOrientationPatient = [f"{v:.6g}" for v in (*(column_step / spacing[2]), *(row_step / spacing[1]))]
    data.PixelSpacing = [f"{spacing[1]:.9g}", f"{spacing[2]:.9g}"]
    data.SliceThickness = f"{spacing[0]:.6g}"
    if modality == "CT":
        data.KVP, data.RescaleIntercept, data.RescaleSlope, data.RescaleType = "", 0, 1, "HU"
    else:
        data.ScanningSequence, data.SequenceVariant, data.ScanOptions = "RM", "NONE", ""
        data.MRAcquisitionType, data.EchoTime, data.EchoTrainLength, data.RepetitionTime = "2D", "", "", ""
    image = nrrd.voxels[index]
    data.SamplesPerPixel, data.PhotometricInterpretation = 1, "MONOCHROME2"
    data.Rows, data.Columns = image.shape
    data.BitsAllocated, data.BitsStored, data.HighBit, data.PixelRepresentation = 16, 16, 15, 1
    data.PixelData = image.astype("<i2").tobytes()
    data["PixelData"].VR = "OW"
    data.file_meta = FileMetaDataset()
    data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    return data


if __name__ == "__main__":
    fetch()
