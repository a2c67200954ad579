"""Where a score looks: how often the heat of a finding is hottest at the lesion that was drawn.

Phantoms with one focal lesion of at least `LEAST_MM`, read through `fvlm.Reader` with their own anatomy masks, so that
it is a figure of the model and not of the segmenter. A hit: the greatest heat over the lesion's voxels lies within the
top `TOP` of the heat over the organ's voxels (the lesion's among them), on the grid of the scan.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ct.anatomy import AnatomyMap
from ct.measure import measure
from ct.phantom import DISEASES, PhantomPatient, render
from ct.phantom.patient import Lesion
from ct.phantom.rendering import lesion_mask
from ct.volume import Grid, Volume
from fvlm.checkpoint import load_release
from fvlm.heat import Heat
from fvlm.reader import Reader
from training.phantom_data import SCAN_SHAPE, SCAN_SPACING, TRUTH, Progress

LEAST_MM = 15.0
"""Largest diameter of the smallest lesion that is asked."""
TOP = 0.1
"""Share of the organ's voxels that counts as hottest."""
SHUFFLES = 5
"""For the level of chance: how often the values of each heat are shuffled over its tokens."""


@dataclass(frozen=True)
class Located:
    """How often the lesions of one finding, or of all, were found in the heat."""

    finding: str
    """Key of the vocabulary, or `all`."""
    lesions: int
    hits: int
    chance: float
    """Share of hits of heats whose values were shuffled over the organ's tokens."""

    @property
    def share(self) -> float:
        return self.hits / self.lesions


def localise(release: Path, seeds: Iterable[int], progress: Progress) -> list[Located]:
    """One lesion a seed; a row for each finding that was drawn, by name, then the row `all`.

    A seed tries the focal findings of the release in an order of its own until one draws a single lesion of that size.
    An anatomy that is not read counts as a miss. Raises ReleaseError.
    """
    reader, chosen = Reader(load_release(release)), list(seeds)
    asked = [f.finding for f in reader.release.findings if f.finding in DISEASES]
    rows: dict[str, list[tuple[bool, float]]] = {}
    for done, seed in enumerate(chosen, start=1):
        patient, lesion = _draw(seed, asked)
        rows.setdefault(lesion.key, []).append(_look(reader, patient, lesion))
        progress(done, len(chosen))
    table = [_row(finding, rows[finding]) for finding in sorted(rows)]
    return [*table, _row("all", [one for several in rows.values() for one in several])]


def _draw(seed: int, asked: list[str]) -> tuple[PhantomPatient, Lesion]:
    """The patient of a seed with a single disease: a single focal lesion that is large enough."""
    for finding in np.random.default_rng(seed).permutation(asked).tolist():
        patient = PhantomPatient.draw(seed, [finding])
        lesions = patient.lesions(finding)
        if len(lesions) == 1 and lesions[0].balls and lesions[0].size_mm >= LEAST_MM:
            return patient, lesions[0]
    raise ValueError(f"seed {seed}: none of {', '.join(asked)} draws a single focal lesion of {LEAST_MM:g} mm")


def _look(reader: Reader, patient: PhantomPatient, lesion: Lesion) -> tuple[bool, float]:
    """Whether the heat of the lesion's finding hits it, and the share of shuffled heats that do."""
    rendered = render(patient, SCAN_SPACING, SCAN_SHAPE)
    z, y, x = rendered.origin_mm
    volume = Volume(rendered.hu, Grid.axis_aligned(SCAN_SHAPE, SCAN_SPACING, (x, y, z)))
    names = reader.release.config.model.anatomies
    truth = AnatomyMap(rendered.labels, volume.grid, names, TRUTH, measure(volume, rendered.labels, names))
    reading = reader.read(volume, truth)
    heat = next((f.heat for a in reading.anatomies for f in a.findings if f.key == lesion.key), None)
    if heat is None:
        return False, 0.0
    organ = rendered.labels == truth.label(lesion.anatomy)
    place = lesion_mask(patient, lesion, SCAN_SPACING, SCAN_SHAPE)[organ]
    generator = np.random.default_rng(patient.seed)
    lucky = [is_hit(_shuffled(heat, generator).on(volume.grid, organ)[organ], place) for _ in range(SHUFFLES)]
    return is_hit(heat.on(volume.grid, organ)[organ], place), float(np.mean(lucky))


def is_hit(heat: npt.NDArray[np.float16], lesion: npt.NDArray[np.bool_]) -> bool:
    """Whether the hottest voxel of the lesion is among the hottest `TOP` of the organ.

    heat [N] of the organ's voxels, NaN where there is none; lesion bool [N]. A heat that is the same everywhere hits
    nothing.
    """
    known = np.nan_to_num(heat.astype(np.float32), nan=-np.inf)
    if not lesion.any() or known.min() == known.max():
        return False
    return bool(known[lesion].max() >= np.quantile(known, 1.0 - TOP, method="higher"))


def _shuffled(heat: Heat, generator: np.random.Generator) -> Heat:
    values = heat.values.copy()
    known = np.isfinite(values)
    values[known] = generator.permutation(values[known])
    return Heat(values, heat.grid)


def _row(finding: str, looked: list[tuple[bool, float]]) -> Located:
    return Located(
        finding, len(looked), sum(hit for hit, _ in looked), float(np.mean([chance for _, chance in looked]))
    )
