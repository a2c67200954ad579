"""The YAML file beside a segmenter of yours: who it is, how its voxels lie, which label is which anatomy.

name: Abdominal CT
version: "2"
manufacturer: Example Hospital
orientation: LPS
labels:
  liver: liver
  left kidney: {anatomy: kidney, side: left}
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, Self

import numpy as np
import numpy.typing as npt
import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from config import load_vocabulary
from ct.anatomy import AlgorithmIdentity, AnatomyMap, SegmenterWeightsError, UInt8Array
from ct.examine import examine
from ct.sides import LEFT, RIGHT, OwnSides
from ct.volume import Volume

Classes = npt.NDArray[np.uint8] | npt.NDArray[np.uint16]
Text = Annotated[str, Field(min_length=1, max_length=64)]
Length = Annotated[float, Field(gt=0)]
Voxels = Annotated[int, Field(gt=0)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class LabelTarget(_Strict):
    """What a label of the segmenter is."""

    anatomy: str
    """By its name in the vocabulary; several labels may be one anatomy."""
    side: Literal["left", "right"] | None = None
    """The patient's; none where the label is both sides, or the anatomy has none."""

    @model_validator(mode="after")
    def _known(self) -> Self:
        """ValueError for what the vocabulary does not have."""
        anatomies = {anatomy.name: anatomy for anatomy in load_vocabulary().anatomies}
        if self.anatomy not in anatomies:
            raise ValueError(f"there is no anatomy {self.anatomy!r}; there are {', '.join(sorted(anatomies))}")
        if self.side is not None and not anatomies[self.anatomy].paired:
            raise ValueError(f"{self.anatomy} has no sides; leave `side` out")
        return self


def _target(value: object) -> object:
    return {"anatomy": value} if isinstance(value, str) else value


class NetworkInput(_Strict):
    """What the network of a MONAI bundle was trained on; axes are x, y, z, as in the bundle's own transforms."""

    spacing: tuple[Length, Length, Length]
    """mm."""
    window: tuple[float, float]
    """HU that become the lower and upper end of `scaled_to`; what lies outside is clipped."""
    scaled_to: tuple[float, float] = (0.0, 1.0)
    roi: tuple[Voxels, Voxels, Voxels]
    """Voxels of one sliding window."""

    @model_validator(mode="after")
    def _ascending(self) -> Self:
        if self.window[0] >= self.window[1] or self.scaled_to[0] >= self.scaled_to[1]:
            raise ValueError("`window` and `scaled_to` are the lower end, then the upper end")
        return self


class SegmenterFile(_Strict):
    """One segmenter, as `model.segmenter_labels` describes it."""

    name: Text
    """As it is named in every object written."""
    version: Text
    manufacturer: Text
    test_only: bool = False
    """True: every object is marked TEST MODEL - NOT FOR CLINICAL USE."""
    orientation: Annotated[str, Field(pattern=r"^[LR][AP][SI]$")]
    """Where the numbers of voxels grow to along x, y and z in the arrays that it was trained on. No default: a wrong
    one exchanges left and right."""
    labels: Annotated[dict[str, Annotated[LabelTarget, BeforeValidator(_target)]], Field(min_length=1)]
    """Label, by its name in dataset.json or in the bundle's channel_def, to anatomy; other labels are not used."""
    input: NetworkInput | None = None
    """MONAI bundles only."""

    @property
    def flipped(self) -> tuple[int, ...]:
        """Axes of [z, y, x] arrays that have to be turned round, from LPS to `orientation` and back."""
        return tuple(
            2 - i for i, (theirs, ours) in enumerate(zip(self.orientation, "LPS", strict=True)) if theirs != ours
        )

    def identity(self, digest: str) -> AlgorithmIdentity:
        return AlgorithmIdentity(self.name, self.version, digest, self.manufacturer, self.test_only)


def read_segmenter_file(file: Path) -> SegmenterFile:
    """Raises SegmenterWeightsError that names what is wrong where."""
    try:
        content = yaml.safe_load(file.read_bytes())
        return SegmenterFile.model_validate(content)
    except OSError as error:
        raise SegmenterWeightsError(
            f"{file}: {error.strerror}; name the YAML file with the labels in model.segmenter_labels"
        ) from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise SegmenterWeightsError(
            f"{file}: cannot be read as YAML: {' '.join(str(error).split())}; docs/operations/segmenters.md "
            "has an example"
        ) from error
    except ValidationError as error:
        wrong = "; ".join(
            f"{'.'.join(str(part) for part in found['loc']) or 'file'}: {found['msg'].removeprefix('Value error, ')}"
            for found in error.errors()
        )
        raise SegmenterWeightsError(f"{file}: {wrong}; docs/operations/segmenters.md has an example") from error


@dataclass(frozen=True)
class LabelMap:
    """Numbers in a segmenter's output, with what each is."""

    targets: dict[int, LabelTarget]

    @classmethod
    def of(cls, file: Path, described: SegmenterFile, numbers: dict[str, tuple[int, ...]]) -> "LabelMap":
        """`numbers`: label -> the values that it has in the output. Raises SegmenterWeightsError for an unknown one."""
        unknown = sorted(described.labels.keys() - numbers.keys())
        if unknown:
            raise SegmenterWeightsError(
                f"{file}: labels: the network has no {', '.join(map(repr, unknown))}; it has "
                f"{', '.join(map(repr, numbers))}"
            )
        return cls({number: target for name, target in described.labels.items() for number in numbers[name]})

    def anatomy_map(
        self, volume: Volume, classes: Classes, anatomies: tuple[str, ...], identity: AlgorithmIdentity
    ) -> AnatomyMap:
        """Those of `anatomies` that the segmenter has, from its output [z, y, x] on the volume's grid."""
        had = {target.anatomy for target in self.targets.values()}
        known = tuple(name for name in anatomies if name in had)
        size = int(max(self.targets.keys() | {int(classes.max(initial=0))})) + 1
        anatomy, side = np.zeros(size, dtype=np.uint8), np.zeros(size, dtype=np.uint8)
        for number, target in self.targets.items():
            anatomy[number] = known.index(target.anatomy) + 1 if target.anatomy in known else 0
            side[number] = {"left": LEFT, "right": RIGHT, None: 0}[target.side]
        labels = anatomy[classes]
        examined = examine(volume, labels, known, _own_sides(classes, side) if side.any() else None)
        return AnatomyMap(labels, volume.grid, known, identity, examined.measures, examined.sides)


def _own_sides(classes: Classes, side: UInt8Array) -> OwnSides:
    return lambda box: side[classes[box]]
