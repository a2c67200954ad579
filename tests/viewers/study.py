"""A study for the viewers: an asymmetric phantom, its true anatomies as SEG, and a reading of it as SR."""

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from pydicom import Dataset, dcmread

from config import Plan, Reason, outputs_of
from ct.anatomy import AlgorithmIdentity, AnatomyMap
from ct.examine import examine
from ct.load import load_series
from ct.phantom import ANATOMIES, PhantomPatient, render, write_series
from dicom_sr import write
from fvlm.reading import AnatomyReading, Finding, NotAssessed, Reading, Verdict

SPACING, SHAPE = (10.0, 3.2, 3.2), (62, 128, 128)
READ = ("lung", "heart", "liver")
DISEASES = ("lung.pleural_effusion", "heart.cardiomegaly")


@dataclass(frozen=True)
class Study:
    """Files of the CT, and what the node writes about it."""

    images: tuple[Path, ...]
    results: tuple[Dataset, ...]
    anatomy_map: AnatomyMap

    @property
    def uid(self) -> str:
        return str(self.results[0].StudyInstanceUID)


def make_study(folder: Path) -> Study:
    """The masks are the phantom's own; every disease is present, everything else absent."""
    patient = PhantomPatient.draw(5, DISEASES)
    files = write_series(patient, folder, spacing=SPACING, shape=SHAPE)
    (volume,) = load_series(folder)
    labels = render(patient, SPACING, SHAPE).labels
    model = AlgorithmIdentity("fVLM", "1.0", "a" * 64, test_only=True)
    examined = examine(volume, labels, ANATOMIES)
    anatomy_map = AnatomyMap(labels, volume.grid, ANATOMIES, model, examined.measures, examined.sides)
    read = []
    for name in READ:
        findings = [Finding(key, 0.93, Verdict.PRESENT, 0.5, True) for key in DISEASES if key.startswith(name)]
        if name == "liver":
            findings.append(Finding("liver.cyst", 0.04, Verdict.ABSENT, 0.5, True, 0.2))
        measured = examined.measures[name]
        read.append(AnatomyReading(name, measured.volume_ml, measured.mean_hu, tuple(findings)))
    rest = tuple(NotAssessed(name, Reason.ANATOMY_IMPLAUSIBLE_HU) for name in ANATOMIES if name not in READ)
    reading = Reading(model, model, tuple(read), rest, datetime(2026, 3, 1, 9, 30, tzinfo=UTC))
    headers = {str(h.SOPInstanceUID): h for h in (dcmread(file, stop_before_pixels=True) for file in files)}
    sources = [headers[source.sop_instance_uid] for source in volume.sources]
    results = write(reading, anatomy_map, sources, plan=Plan.of([outputs_of("air+sc")]), volume=volume)
    return Study(tuple(files), tuple(results), anatomy_map)
