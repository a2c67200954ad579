"""How much is computed for the bundled networks."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Size:
    """Patients and steps of one run; the defaults are those of the networks that ship."""

    patients: int = 4000
    aligned: int = 1500
    """Of these, the first so many teach queries, projections and text encoder."""
    stem_steps: int = 1400
    trunk_steps: int = 600
    cell_steps: int = 2500
    query_steps: int = 400
    steps: int = 200
    segmenter_steps: int = 4000
    validation: int = 300
    test: int = 500
    processes: int = 2
