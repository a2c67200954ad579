"""All that is told of the masks of a scan: measures, quality, left and right."""

from dataclasses import dataclass, replace

from config import load_vocabulary
from ct.anatomy import AnatomyMeasure, Sides, UInt8Array
from ct.measure import measure
from ct.quality import judge
from ct.sides import OwnSides, tell_sides
from ct.volume import Volume


@dataclass(frozen=True)
class Examined:
    """What an `AnatomyMap` is filled with."""

    measures: dict[str, AnatomyMeasure]
    """One entry a name."""
    sides: dict[str, Sides]
    """Paired anatomies whose left and right are known."""


def examine(volume: Volume, labels: UInt8Array, names: tuple[str, ...], own: OwnSides | None = None) -> Examined:
    """Measure and judge every anatomy of `labels` (uint8 [z, y, x]; label i + 1 is `names[i]`), and tell its sides.

    `own` is what the segmenter itself says of left and right.
    """
    measures = measure(volume, labels, names)
    told = tell_sides(volume, labels, names, measures, own)
    for name in told.swapped:
        swapped = replace(measures[name], swapped=True)
        measures[name] = replace(swapped, doubt=judge(load_vocabulary().anatomy(name), swapped))
    return Examined(measures, told.sides)
