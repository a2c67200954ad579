"""Attenuation of tissues by contrast phase."""

from dataclasses import dataclass, fields

from ct.phantom.patient import Body, Lesion, Phase, dice

_TABLE: dict[Phase, tuple[float, ...]] = {
    #          aorta heart myo  liver spleen cortex medulla pancr portal cava muscle bowel adrenal
    "none": (40, 40, 46, 58, 48, 33, 32, 40, 40, 38, 55, 38, 24),
    "arterial": (310, 260, 105, 68, 112, 165, 75, 98, 82, 60, 60, 78, 55),
    "portal": (150, 142, 105, 108, 118, 185, 165, 90, 168, 140, 62, 82, 62),
    "delayed": (105, 100, 85, 90, 92, 142, 148, 70, 108, 104, 60, 60, 42),
}


@dataclass(frozen=True)
class Tissues:
    """HU of each tissue of one patient."""

    aorta: float
    blood: float
    myocardium: float
    liver: float
    spleen: float
    cortex: float
    medulla: float
    pancreas: float
    portal: float
    cava: float
    muscle: float
    bowel: float
    adrenal: float
    lung: float
    fat: float
    bone: float
    bile: float
    urine: float


def tissues(seed: int, body: Body, lesions: tuple[Lesion, ...]) -> Tissues:
    """Attenuation of one patient's tissues; steatosis lowers the liver."""
    rng = dice(seed, "tissues")
    values = [hu * rng.normal(1, 0.05) + rng.normal(0, 1.5) for hu in _TABLE[body.phase]]
    lung = -845 - 22 * body.inspiration + rng.normal(0, 10)
    fat, bone, bile, urine = rng.uniform(-112, -96), rng.uniform(150, 260), rng.uniform(2, 16), rng.uniform(0, 10)
    for lesion in lesions:
        if lesion.key == "liver.steatosis":
            values[3] = lesion.hu
        elif lesion.key == "lung.emphysema":
            lung -= 14 + 26 * lesion.severity
    values += [lung, fat, bone, bile, urine]
    return Tissues(**{field.name: float(hu) for field, hu in zip(fields(Tissues), values, strict=True)})
