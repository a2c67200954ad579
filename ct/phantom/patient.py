"""A synthetic patient: the dice that are thrown once, before anything is drawn."""

import zlib
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Literal

import numpy as np

Phase = Literal["none", "arterial", "portal", "delayed"]
Side = Literal["left", "right", "both", ""]
Arms = Literal["raised", "beside"]
Point = tuple[float, float, float]


def dice(seed: int, name: str) -> np.random.Generator:
    """A random generator for one purpose: other purposes do not shift its numbers."""
    return np.random.default_rng([seed & 0xFFFFFFFF, seed >> 32, zlib.crc32(name.encode())])


@dataclass(frozen=True)
class Body:
    """Habitus and scan: what makes patients differ without any disease."""

    stature: float
    """Scale along z."""
    frame: float
    """Scale along x and y."""
    fat_mm: float
    """Thickness of the subcutaneous fat."""
    offset_mm: Point
    """Where the middle of the body lies in the scan (x, y, z)."""
    phase: Phase
    """Contrast phase."""
    noise_hu: float
    """Standard deviation of the noise on a thin slice, HU."""
    texture_hu: float
    """Amplitude of the smooth unevenness of tissue, HU."""
    inspiration: float
    """-1 (expiration) .. 1 (deep inspiration)."""

    def to_patient(self, point: Point) -> Point:
        """Body coordinates (x, y, z; unscaled mm) -> patient coordinates LPS, mm."""
        x, y, z = point
        ox, oy, oz = self.offset_mm
        return x * self.frame + ox, y * self.frame + oy, z * self.stature + oz

    def from_patient(self, point: Point) -> Point:
        """Patient coordinates LPS (mm) -> body coordinates (x, y, z; unscaled mm)."""
        x, y, z = point
        ox, oy, oz = self.offset_mm
        return (x - ox) / self.frame, (y - oy) / self.frame, (z - oz) / self.stature


@dataclass(frozen=True)
class Lesion:
    """One disease of one patient, as it is drawn and as it is told."""

    key: str
    """Finding key of the vocabulary."""
    side: Side = ""
    location: str = ""
    """Where in the anatomy, in words that a report can use."""
    size_mm: float = 0.0
    """Largest diameter, or thickness, or caliber: whichever a report would give."""
    severity: float = 0.5
    """0 (slight) .. 1 (severe)."""
    centre_mm: Point | None = None
    """Focal lesions: centre in patient coordinates LPS (x, y, z), mm."""
    radius_mm: float | None = None
    """Focal lesions: radius, mm."""
    balls: tuple[tuple[float, float, float, float], ...] = ()
    """Focal lesions: every ball (x, y, z, radius) in patient mm that is drawn for it; the first is the main one."""
    hu: float = 0.0
    """Attenuation of the lesion, HU, where it has one of its own."""

    @property
    def anatomy(self) -> str:
        return self.key.split(".")[0]

    @property
    def finding(self) -> str:
        return self.key.split(".")[1]


def find(lesions: Iterable[Lesion], key: str, side: str | None = None) -> Lesion | None:
    """The first lesion of a key (on a side: there or on both)."""
    for lesion in lesions:
        if lesion.key == key and (side is None or lesion.side in (side, "both")):
            return lesion
    return None


@dataclass(frozen=True)
class PhantomPatient:
    """A synthetic patient. The same seed and diseases give the same patient, voxel for voxel."""

    seed: int
    sex: Literal["M", "F"]
    age: int
    """Years."""
    body: Body
    diseases: tuple[Lesion, ...]
    arms: Arms = "raised"
    """Raised above the scan, or beside the trunk and cut by the field of view."""

    @classmethod
    def draw(cls, seed: int, diseases: Collection[str] | None = None, arms: Arms = "raised") -> "PhantomPatient":
        """Throw the dice for one patient.

        Parameters
        ----------
        seed
            Any integer >= 0. The body depends on the seed only: the same seed with other diseases is the same person.
        diseases
            Finding keys such as `lung.nodule`; None draws them by prevalence, () is a healthy patient.
        arms
            `beside` for a patient who cannot raise them.

        Raises
        ------
        ValueError
            A key is not one of the phantom's diseases.
        """
        from ct.phantom.diseases import draw_diseases, draw_lesions

        if seed < 0:
            raise ValueError(f"seed must not be negative, is {seed}")
        rng = dice(seed, "body")
        sex: Literal["M", "F"] = "M" if rng.random() < 0.52 else "F"
        age = int(np.clip(rng.normal(58, 16), 20, 95))
        stature = float(np.clip(rng.normal(0.985 if sex == "M" else 0.955, 0.022), 0.91, 1.03))
        frame = float(np.clip(stature + 0.01 + rng.normal(0, 0.03), 0.9, 1.07))
        phases: tuple[Phase, ...] = ("none", "arterial", "portal", "delayed")
        body = Body(
            stature=stature,
            frame=frame,
            fat_mm=float(np.clip(rng.gamma(4, 4.2) + (3 if sex == "F" else 0), 6, 34)),
            offset_mm=(float(rng.uniform(-7, 7)), float(rng.uniform(-5, 5)), float(rng.uniform(-6, 6))),
            phase=phases[int(rng.choice(4, p=[0.4, 0.15, 0.35, 0.1]))],
            noise_hu=float(rng.uniform(9, 24)),
            texture_hu=float(rng.uniform(2.5, 6)),
            inspiration=float(rng.uniform(-1, 1)),
        )
        keys = draw_diseases(seed, age, sex) if diseases is None else tuple(diseases)
        return cls(seed, sex, age, body, draw_lesions(seed, body, keys), arms)

    def lesions(self, key: str) -> tuple[Lesion, ...]:
        """The lesions of one finding key, possibly none."""
        return tuple(lesion for lesion in self.diseases if lesion.key == key)

    @property
    def keys(self) -> frozenset[str]:
        """The finding keys that this patient has."""
        return frozenset(lesion.key for lesion in self.diseases)
