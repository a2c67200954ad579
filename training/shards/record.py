"""What a shard says beside its voxels."""

from typing import Self

from pydantic import BaseModel, ConfigDict, Field

from config import Reason
from fvlm.config import Triple
from training.report_text import AnatomyText, Mention
from training.study import Split

Mm = tuple[float, float, float]
Row = tuple[float, float, float, float]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class AnatomyRecord(_Frozen):
    """One anatomy of the plan: where it is, what it measures, what the report says of it."""

    name: str
    start: Triple | None
    """First voxel z, y, x of its box in the shard; None: the shard has no voxel of it."""
    stop: Triple | None
    """One behind the last voxel of its box."""
    voxels: int
    """In the shard."""
    volume_ml: float
    """On the scan, before resampling."""
    mean_hu: float | None
    doubt: Reason | None
    """Why it should not be read (absent, cut off by the scan, implausible); None: usable where a crop holds it."""
    findings: str
    impression: str
    normal: bool
    """The report says nothing abnormal of it."""

    @property
    def usable(self) -> bool:
        return self.start is not None and self.doubt is None

    @property
    def text(self) -> AnatomyText:
        """What the report says of it; captions are assembled from this."""
        return AnatomyText(self.name, self.findings, self.impression, self.normal)


class StudyRecord(_Frozen):
    """The text, flags and provenance of one shard; JSON in its header."""

    source: str
    key: str
    scan: str
    subject: str
    split: Split
    report: str
    spacing: Mm
    """mm z, y, x of the shard's voxels."""
    affine: tuple[Row, Row, Row, Row]
    """(z, y, x, 1) in voxels of the shard -> (x, y, z, 1) in patient coordinates (LPS), mm; voxel centres."""
    scan_shape: Triple
    scan_spacing: Mm
    """Of the CT before resampling."""
    anatomies: tuple[AnatomyRecord, ...]
    """All of the plan, in label order."""
    labels: dict[str, Mention] = Field(default_factory=dict)
    """Findings that are present, absent or uncertain; the others of the vocabulary are unmentioned."""
    known: tuple[str, ...] = ()
    """Those of `labels` that the source knows; the others were read off the report."""
    attributes: dict[str, str] = Field(default_factory=dict)
    provenance: dict[str, str] = Field(default_factory=dict)

    @classmethod
    def parse(cls, text: str) -> Self:
        """From the JSON of a header. Raises pydantic's ValidationError (a ValueError)."""
        return cls.model_validate_json(text)
