"""Patient data planted in a series, and where it is found again."""

from pathlib import Path

from pydicom import dcmread

NAME, PATIENT_ID, BORN, ACCESSION = "Planted^Petra", "PLANTED-4711", "19230405", "ACC-PLANTED-99"
PLANTED = [b"Planted", b"PLANTED", b"Petra", b"-4711", b"19230405", b"1923-04-05"]


def plant(folder: Path) -> None:
    """Write it into every file of a series."""
    for path in folder.glob("*.dcm"):
        dataset = dcmread(path)
        dataset.PatientName, dataset.PatientID, dataset.PatientBirthDate = NAME, PATIENT_ID, BORN
        dataset.AccessionNumber = ACCESSION
        dataset.save_as(path)
    # Values that make pydicom complain, quoting them, wherever they are looked at.
    dataset.PatientBirthDate, dataset.PatientAge = f"{BORN}-Planted", "Petra 4711"
    dataset.save_as(path)


def leaks(folder: Path, patterns: tuple[str, ...]) -> list[tuple[str, bytes]]:
    """Files of these patterns below a folder, and the planted words in them."""
    files = [path for pattern in patterns for path in folder.rglob(pattern) if path.is_file()]
    assert files, f"no {patterns} below {folder}"
    return [(path.name, word) for path in files for word in PLANTED if word in path.read_bytes()]
