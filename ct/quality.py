"""Whether the mask of an anatomy may be read: what was measured of it, against what the vocabulary calls plausible.

One verdict, the first of these that is true: absent, cut by the border of the scan, too small, too large, of a mean
attenuation that the anatomy cannot have, in too many pieces, left and right swapped. The limits are wide: they are to
find masks that are not the anatomy, not patients who are ill.
"""

from config import Anatomy, Reason
from ct.anatomy import AnatomyMeasure

BORDER_SHARE = 0.02
"""Area of an anatomy on the faces of the scan, over its volume to the power 2/3, above which it counts as cut off.

Both are areas in mm2, so slice thickness does not matter. A ball cut through its middle has 1.9; a liver of 1.5 l may
show 2.6 cm2.
"""
MAIN_SHARE = 0.5
"""Share of a mask that its largest pieces must hold, as many as the anatomy may fall into."""


def allowed_border_mm2(volume_ml: float) -> float:
    """Area on the faces of the scan up to which an anatomy of this volume is whole, mm2."""
    return float(BORDER_SHARE * (volume_ml * 1000.0) ** (2 / 3))


def judge(anatomy: Anatomy, measure: AnatomyMeasure) -> Reason | None:
    """Why an anatomy with these measures should not be read; None if it may be."""
    smallest, largest = anatomy.volume_ml
    lowest, highest = anatomy.mean_hu
    checks = (
        (measure.voxels == 0, Reason.ANATOMY_ABSENT),
        (measure.cut and not anatomy.may_be_cut, Reason.ANATOMY_CUT_OFF),
        (measure.volume_ml < smallest, Reason.ANATOMY_TOO_SMALL),
        (measure.volume_ml > largest, Reason.ANATOMY_TOO_LARGE),
        (not lowest <= measure.mean_hu <= highest, Reason.ANATOMY_IMPLAUSIBLE_HU),
        (measure.main_share < MAIN_SHARE, Reason.ANATOMY_FRAGMENTED),
        (measure.swapped, Reason.ANATOMY_SIDES_SWAPPED),
    )
    return next((reason for failed, reason in checks if failed), None)


def describe(measure: AnatomyMeasure) -> str:
    """What was measured, in words, beside a reason; empty without a voxel."""
    if not measure.voxels:
        return ""
    told = f"{measure.volume_ml:.0f} ml, mean {measure.mean_hu:.0f} HU"
    if measure.doubt is Reason.ANATOMY_FRAGMENTED:
        told += f", {100 * measure.main_share:.0f} % of it in its main pieces"
    return told
