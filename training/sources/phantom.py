"""Synthetic patients as studies: CT, true masks, report and diseases from one seed."""

from functools import partial

from ct.anatomy import AlgorithmIdentity, AnatomyMap
from ct.measure import measure
from ct.phantom import ANATOMIES, DISEASES, PhantomPatient, to_volume, write_report
from ct.volume import Volume
from training.sources.listing import Listing
from training.study import SPLITS, Split, Study

SPACING, SHAPE = (5.0, 3.0, 3.0), (124, 133, 133)
"""mm and voxels z, y, x at which a patient is drawn; coarser than a scanner, and a hundred times faster."""
TRUTH = AlgorithmIdentity("phantom ground truth", "1", "0" * 64, test_only=True)
_TENTH = {8: SPLITS[1], 9: SPLITS[2]}


def phantoms(
    count: int,
    first: int = 0,
    spacing: tuple[float, float, float] = SPACING,
    shape: tuple[int, int, int] = SHAPE,
) -> Listing:
    """`count` patients from seed `first` on; of every ten, one is for validation and one for the test."""
    return Listing(tuple(_study(seed, spacing, shape) for seed in range(first, first + count)))


def _study(seed: int, spacing: tuple[float, float, float], shape: tuple[int, int, int]) -> Study:
    patient = PhantomPatient.draw(seed)
    report = write_report(patient)
    split: Split = _TENTH.get(seed % 10, SPLITS[0])
    return Study(
        source="phantom",
        key=f"{seed:07d}",
        scan=f"{seed:07d}",
        subject=f"{seed:07d}",
        split=split,
        report=f"Findings: {report.findings}\nImpression: {report.impression}",
        load=partial(_load, seed, spacing, shape),
        known={disease: disease in patient.keys for disease in DISEASES},
        attributes={"sex": patient.sex, "age": str(patient.age), "phase": patient.body.phase},
        provenance={"seed": str(seed)},
    )


def _load(
    seed: int, spacing: tuple[float, float, float], shape: tuple[int, int, int], anatomies: tuple[str, ...]
) -> tuple[Volume, AnatomyMap]:
    """The true masks of those anatomies that a phantom has."""
    volume, labels = to_volume(PhantomPatient.draw(seed), spacing, shape)
    del anatomies  # a shard takes those of its plan
    return volume, AnatomyMap(labels, volume.grid, ANATOMIES, TRUTH, measure(volume, labels, ANATOMIES))
