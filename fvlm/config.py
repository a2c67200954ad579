"""What a release's `config.json` says: the architecture, the anatomies, the preprocessing."""

from collections.abc import Iterable
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from config import Prompt

Triple = tuple[int, int, int]
Positive = Annotated[int, Field(ge=1)]
PositiveTriple = tuple[Positive, Positive, Positive]
PositiveMm = Annotated[float, Field(gt=0)]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class TextConfig(_Frozen):
    """The BERT text encoder; defaults are BERT-base with the vocabulary of CXR-BERT."""

    vocab_size: Positive = 30522
    width: Positive = 768
    depth: Positive = 12
    heads: Positive = 12
    mlp_ratio: Positive = 4
    max_positions: Positive = 512
    """Rows of the position table."""
    max_tokens: Positive = 384
    """Longer texts are truncated, tokens."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.width % self.heads:
            raise ValueError(f"text width {self.width} is not a multiple of heads {self.heads}")
        if self.max_tokens > self.max_positions:
            raise ValueError(f"max_tokens {self.max_tokens} is more than max_positions {self.max_positions}")
        return self


Unit = Annotated[float, Field(ge=0, le=1)]


class CellsConfig(_Frozen):
    """A level of fine tokens made by convolutions alone (`fvlm.cells`)."""

    windows: Annotated[tuple[tuple[Unit, Unit], ...], Field(min_length=1)]
    """Parts of the input's range 0..1 that are each stretched to a channel of their own, as a reader of CT does."""
    channels: Annotated[tuple[Positive, ...], Field(min_length=1)]
    """Of each strided 3x3x3 convolution."""
    strides: tuple[PositiveTriple, ...]
    """z, y, x of each; together they make the size of a cell."""
    blocks: Annotated[int, Field(ge=0)] = 0
    """Residual 3x3x3 convolutions after them."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if len(self.strides) != len(self.channels):
            raise ValueError("strides and channels of the cells differ in length")
        if any(low >= high for low, high in self.windows):
            raise ValueError(f"windows {self.windows} of the cells must rise")
        return self

    @property
    def size(self) -> Triple:
        """Voxels z, y, x of one cell."""
        return _product(self.strides)


class ModelConfig(_Frozen):
    """The architecture; defaults are the public fVLM (ViT-B/16x16x32 and BERT-base, arXiv 2501.14548)."""

    anatomies: Annotated[tuple[str, ...], Field(min_length=1, max_length=62)]
    """Names in the order of labels (1-based), queries and projections."""
    image_shape: PositiveTriple = (112, 256, 352)
    """Voxels z, y, x of the training window: fixes the position table."""
    patch: PositiveTriple = (16, 16, 32)
    """Voxels z, y, x of one token."""
    width: Positive = 768
    depth: Positive = 12
    heads: Positive = 12
    mlp_ratio: Positive = 4
    levels: tuple[Annotated[int, Field(ge=0)], ...] = (3, 6, 9)
    """0-based blocks whose raw output joins the final, normed one."""
    attention_heads: Positive = 4
    """Heads of the anatomy attention."""
    embedding: Positive = 256
    """Length E of the shared image-text feature."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.1
    """Of the image side, in training only."""
    stem: Literal["patch", "conv"] = "patch"
    """`conv` puts strided 3x3x3 convolutions before the patch convolution, for small models and small lesions."""
    stem_channels: tuple[Positive, ...] = ()
    """Channels of each stem stage; only with `conv`."""
    stem_strides: tuple[PositiveTriple, ...] = ()
    """Strides z, y, x of each stem stage; empty is (2, 2, 2) each."""
    cells: CellsConfig | None = None
    """A level of tokens finer than `patch`, for small lesions; the public model has none."""
    text: TextConfig = TextConfig()

    @model_validator(mode="after")
    def _check(self) -> Self:
        if len(set(self.anatomies)) != len(self.anatomies):
            raise ValueError("an anatomy stands twice")
        if len(set(self.levels)) != len(self.levels):
            raise ValueError("a level stands twice")
        if self.width % self.heads or self.width % self.attention_heads:
            raise ValueError(f"width {self.width} is not a multiple of its heads")
        if any(level >= self.depth - 1 for level in self.levels):
            raise ValueError(f"levels {self.levels} must lie before the last block, {self.depth - 1}")
        if any(size % patch for size, patch in zip(self.image_shape, self.patch, strict=True)):
            raise ValueError(f"image_shape {self.image_shape} is not a multiple of patch {self.patch}")
        if (self.stem == "conv") != bool(self.stem_channels) or (self.stem == "patch" and self.stem_strides):
            raise ValueError("stem_channels and stem_strides belong to stem 'conv', which needs stem_channels")
        if self.stem_strides and len(self.stem_strides) != len(self.stem_channels):
            raise ValueError("stem_strides and stem_channels differ in length")
        if any(patch % stride for patch, stride in zip(self.patch, self.stem_stride, strict=True)):
            raise ValueError(f"patch {self.patch} is not a multiple of the stem's stride {self.stem_stride}")
        if any(patch % size for patch, size in zip(self.patch, self.finest, strict=True)):
            raise ValueError(f"patch {self.patch} is not a multiple of the cells' size {self.finest}")
        return self

    @property
    def stages(self) -> tuple[tuple[int, Triple], ...]:
        """Channels and stride of each stem stage."""
        strides: tuple[Triple, ...] = self.stem_strides or ((2, 2, 2),) * len(self.stem_channels)
        return tuple(zip(self.stem_channels, strides, strict=True))

    @property
    def stem_stride(self) -> Triple:
        """Total stride of the stem, z, y, x."""
        return _product(stride for _, stride in self.stages)

    @property
    def finest(self) -> Triple:
        """Voxels z, y, x of the finest tokens: the cells, where there are any."""
        return self.patch if self.cells is None else self.cells.size

    @property
    def grid(self) -> Triple:
        """Tokens z, y, x of the training window."""
        z, y, x = (size // patch for size, patch in zip(self.image_shape, self.patch, strict=True))
        return z, y, x


def _product(strides: Iterable[Triple]) -> Triple:
    """Total stride, z, y, x."""
    z = y = x = 1
    for stride in strides:
        z, y, x = z * stride[0], y * stride[1], x * stride[2]
    return z, y, x


class PreprocessConfig(_Frozen):
    """From Hounsfield units on the scanner's grid to the model's input; grid and window of the public CT-RATE chain."""

    spacing: tuple[PositiveMm, PositiveMm, PositiveMm] = (3.0, 1.0, 1.0)
    """mm z, y, x of the model's grid."""
    hu_window: tuple[float, float] = (-1150.0, 350.0)
    """HU mapped to 0 and 1; clipped outside."""
    window: PositiveTriple = (112, 288, 352)
    """Voxels z, y, x of the model's grid: exact for `whole`, least for `organ`."""
    windows: Literal["organ", "whole"] = "organ"
    """`organ`: one window an anatomy, centred on it, grown to hold it; anatomies whose windows coincide share one.
    `whole`: one window for all of them."""
    margin: tuple[Annotated[int, Field(ge=0)], Annotated[int, Field(ge=0)], Annotated[int, Field(ge=0)]] | None = None
    """Voxels z, y, x kept around the box of all anatomies, everything beyond is blanked; None keeps the whole scan."""
    antialias: bool = False
    """Average when down-sampling. The public model was trained without."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.hu_window[0] >= self.hu_window[1]:
            raise ValueError(f"hu_window {self.hu_window} must rise")
        return self


class Calibration(_Frozen):
    """Platt scaling of the zero-shot probability p: sigmoid(slope * logit(p) + intercept)."""

    slope: Annotated[float, Field(gt=0)]
    intercept: float


class FindingConfig(_Frozen):
    """One entry of `findings.json`: what is asked and what the answer means."""

    finding: Annotated[str, Field(pattern=r"^[a-z_]+\.[a-z_]+$")]
    """`anatomy.finding` of the vocabulary."""
    negative: Annotated[str, Field(min_length=1)]
    positive: Annotated[str, Field(min_length=1)]
    """The prompt pair."""
    threshold: Annotated[float, Field(ge=0, le=1)] | None = None
    """Present at or above it (after calibration); None: no operating point."""
    absent_below: Annotated[float, Field(ge=0, le=1)] | None = None
    """Absent below it, undetermined up to `threshold`; None: undetermined below `threshold`."""
    calibration: Calibration | None = None

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.absent_below is not None and (self.threshold is None or self.absent_below > self.threshold):
            raise ValueError("absent_below needs a threshold that is not lower")
        return self

    @classmethod
    def of(cls, prompt: Prompt) -> Self:
        """The finding of a preset, without operating point."""
        return cls(finding=prompt.finding, negative=prompt.negative, positive=prompt.positive)

    @property
    def anatomy(self) -> str:
        return self.finding.split(".")[0]


class ReleaseConfig(_Frozen):
    """`config.json` of a release."""

    name: Annotated[str, Field(min_length=1, max_length=64)]
    version: Annotated[str, Field(min_length=1, max_length=64)]
    manufacturer: Annotated[str, Field(min_length=1, max_length=64)] = "fVLM Node project"
    test_only: bool = False
    """True: every object written is marked TEST MODEL - NOT FOR CLINICAL USE."""
    model: ModelConfig
    preprocess: PreprocessConfig = PreprocessConfig()

    @model_validator(mode="after")
    def _check(self) -> Self:
        if any(size % patch for size, patch in zip(self.preprocess.window, self.model.patch, strict=True)):
            raise ValueError(f"window {self.preprocess.window} is not a multiple of patch {self.model.patch}")
        return self
