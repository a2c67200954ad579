"""`fvlm-node phantom`: a synthetic patient as files."""

from collections.abc import Sequence
from pathlib import Path

from config import load_vocabulary
from ct.phantom import DISEASES, PhantomPatient, write_nifti, write_report, write_series
from ct.phantom.patient import Arms
from node.errors import CommandError

HEALTHY = "none"
"""The disease of a patient without disease."""


def make_phantom(out: Path, seed: int, diseases: Sequence[str] | None, nifti: bool, arms: Arms) -> list[str]:
    """Write `dicom/*.dcm` (or `ct.nii.gz` and `labels.nii.gz`) and `report.txt` below `out`; lines that say what.

    `diseases` None draws them by prevalence. Raises CommandError.
    """
    keys = None if diseases is None else [key for key in diseases if key != HEALTHY]
    unknown = [key for key in keys or [] if key not in DISEASES]
    if unknown:
        raise CommandError(f"Unknown disease {', '.join(unknown)}.", f"There are: {HEALTHY}, {', '.join(DISEASES)}")
    patient = PhantomPatient.draw(seed, keys, arms)
    try:
        files = write_nifti(patient, out) if nifti else write_series(patient, out / "dicom")
        report, text = out / "report.txt", write_report(patient)
        report.write_text(f"FINDINGS\n{text.findings}\n\nIMPRESSION\n{text.impression}\n", encoding="utf-8")
    except OSError as error:
        raise CommandError(f"{out} cannot be written: {error.strerror}.", "Name another folder with --out.") from error
    vocabulary = load_vocabulary()
    drawn = ", ".join(vocabulary.finding(lesion.key).title for lesion in patient.diseases) or "healthy"
    what = f"{files[0]}, {files[1]}" if nifti else f"{len(files)} slices in {out / 'dicom'}"
    return [f"Patient of {patient.age} years, {patient.sex}: {drawn}", what, f"Report: {report}"]
