"""An archive that is a folder with DICOM files, in any order and depth."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from pydicom import Dataset, dcmread
from pydicom.uid import MediaStorageDirectoryStorage

from ct.series import Progress
from training.archive.entries import CollectError, Days, SeriesEntry, StudyEntry, day_of, word

_WANTED = [
    "SOPClassUID", "StudyInstanceUID", "SeriesInstanceUID", "Modality", "PatientID", "AccessionNumber", "StudyDate",
    "InstanceNumber",
]  # fmt: skip


@dataclass
class _Study:
    entry: StudyEntry
    series: dict[str, tuple[str, list[tuple[int, Path]]]] = field(default_factory=dict)
    """Series Instance UID -> modality, files with their Instance Number."""


class FolderArchive:
    """Implements `Archive`. The folder is read once, at the start."""

    def __init__(self, folder: Path, progress: Progress | None = None) -> None:
        """Raises CollectError if there is no such folder."""
        if not folder.is_dir():
            raise CollectError(f"{folder} is no folder")
        self._studies: dict[str, _Study] = {}
        self.unreadable = 0
        """Files that claim to be DICOM (`.dcm`) and cannot be read."""
        files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != "DICOMDIR")
        for done, file in enumerate(files, 1):
            self._take(file)
            if progress is not None:
                progress(done, len(files))

    def close(self) -> None:
        """Nothing is open."""

    def studies(self, days: Days) -> Iterator[StudyEntry]:
        for study in self._studies.values():
            if study.entry.day in days and any(modality == "CT" for modality, _ in study.series.values()):
                yield study.entry

    def series(self, study_uid: str) -> list[SeriesEntry]:
        study = self._studies.get(study_uid)
        found = study.series if study is not None else {}
        return [SeriesEntry(study_uid, uid, modality, len(files)) for uid, (modality, files) in found.items()]

    def peek(self, series: SeriesEntry) -> Dataset | None:
        files = sorted(self._studies[series.study_uid].series[series.series_uid][1])
        try:
            return dcmread(files[len(files) // 2][1], stop_before_pixels=True)
        except Exception:  # a damaged file; pydicom raises nearly any type
            return None

    def fetch(self, series: SeriesEntry, into: Path) -> int:
        """As symbolic links: nothing is copied."""
        files = self._studies[series.study_uid].series[series.series_uid][1]
        for number, (_, file) in enumerate(sorted(files), 1):
            (into / f"{number:06d}.dcm").symlink_to(file.resolve())
        return len(files)

    def _take(self, file: Path) -> None:
        try:
            header = dcmread(file, specific_tags=_WANTED, stop_before_pixels=True)
            study, series = word(header.get("StudyInstanceUID")), word(header.get("SeriesInstanceUID"))
            number = int(header.get("InstanceNumber") or 0)
            modality, sop_class = word(header.get("Modality")), header.get("SOPClassUID")
        except Exception:  # not DICOM, or damaged; pydicom raises nearly any type
            self.unreadable += file.suffix.lower() == ".dcm"
            return
        if not study or not series or sop_class == MediaStorageDirectoryStorage:
            return
        entry = StudyEntry(
            study, word(header.get("PatientID")), word(header.get("AccessionNumber")), day_of(header.get("StudyDate"))
        )
        known = self._studies.setdefault(study, _Study(entry))
        known.series.setdefault(series, (modality, []))[1].append((number, file))
