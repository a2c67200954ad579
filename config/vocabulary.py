"""The vocabulary: anatomies, findings, presets of prompts and their codes, loaded from the YAML beside this file."""

from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

WHOLE_SCAN = "scan"
"""In the place of an anatomy: findings of the whole scan. They have a code; no preset can ask for them."""
_HERE = Path(__file__).parent
_Entry = TypeVar("_Entry")


class VocabularyError(ValueError):
    """A vocabulary file is wrong. The text names file, key and cure."""


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Code(_Frozen):
    """A coded concept (DICOM PS3.3 section 8): value up to 16 characters, meaning up to 64."""

    value: Annotated[str, Field(min_length=1, max_length=16)]
    scheme: Annotated[str, Field(min_length=1, max_length=16)]
    meaning: Annotated[str, Field(min_length=1, max_length=64)]


class _Coded(_Frozen):
    code: Code
    evidence: str = ""
    """Where the code was found with this meaning; empty for a code of the project's own scheme."""
    verified: bool = False
    """True: found in an authority (a DICOM context group, TotalSegmentator's table, the Human Phenotype Ontology or the
    Human Disease Ontology). False: a terminologist has to look before it is relied on."""

    @property
    def local(self) -> bool:
        """Whether the code is of a private scheme (PS3.16 section 8.1: its designator begins with 99)."""
        return self.code.scheme.startswith("99")

    @model_validator(mode="after")
    def _check_evidence(self) -> Self:
        if self.local and (self.evidence or self.verified):
            raise ValueError(f"{self.code.value}: a code of one's own scheme has no evidence and is not verified")
        if self.verified and not self.evidence:
            raise ValueError(f"{self.code.value}: it is verified; say in `evidence` where")
        return self


class Anatomy(_Coded):
    """One anatomy that can be segmented, queried and reported."""

    name: Annotated[str, Field(pattern=r"^[a-z][a-z_]*$")]
    category: Literal["organ", "vessel", "bone"] = "organ"
    paired: bool = False
    """True: there is a left and a right one."""
    sides_touch: bool = False
    """Of a paired anatomy: the two are never one organ, though their masks may touch (kidneys that touch are one)."""
    totalsegmentator: tuple[str, ...]
    """Classes of TotalSegmentator v2 task `total` whose union is this anatomy; none: it does not find it."""
    mean_hu: tuple[float, float]
    """Plausible mean attenuation inside the mask, HU (the physiologic guard)."""
    volume_ml: tuple[float, float]
    """Plausible volume of the whole anatomy, ml."""
    may_be_cut: bool = False
    """True where a scan that shows only part of it may still be read (tubes and vessels)."""
    color: tuple[int, int, int]
    """RGB 0..255 of overlays and segments; of the left one where it is paired."""
    color_right: tuple[int, int, int] | None = None
    """Of the right one; None where it is not paired."""

    @property
    def title(self) -> str:
        return self.name.replace("_", " ").capitalize()


class FindingType(_Coded):
    """One finding that can be asked of one anatomy, or said of the whole scan."""

    key: Annotated[str, Field(pattern=r"^[a-z_]+\.[a-z_]+$")]
    """`anatomy.finding`, the stable name everywhere."""
    title: Annotated[str, Field(min_length=1)]
    ct_rate: str = ""
    """Its label in CT-RATE."""
    radar: str = ""
    """Its name in RADAR's catalogue."""

    @property
    def anatomy(self) -> str:
        """The name of its anatomy, or WHOLE_SCAN."""
        return self.key.split(".")[0]


class Prompt(_Frozen):
    """The pair of sentences whose softmax is the zero-shot probability (paper section 3.4)."""

    finding: str
    negative: str
    positive: str


class Preset(_Frozen):
    """What one family of releases reads: anatomies in label order and prompts."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]*$", max_length=32)]
    protocol: Literal["chest", "abdomen"] = "chest"
    """Preprocessing of an imported checkpoint (`fvlm.preprocess.PROTOCOLS`)."""
    anatomies: tuple[str, ...]
    prompts: tuple[Prompt, ...]


class Vocabulary(_Frozen):
    """Everything the project can name. Cross-checked when loaded."""

    anatomies: tuple[Anatomy, ...]
    findings: tuple[FindingType, ...]
    presets: tuple[Preset, ...]

    @model_validator(mode="after")
    def _cross_check(self) -> "Vocabulary":
        names = _unique("anatomies.yaml:", (a.name for a in self.anatomies))
        keys = _unique("findings.yaml:", (f.key for f in self.findings))
        _unique("presets.yaml:", (p.name for p in self.presets))
        for finding in self.findings:
            if finding.anatomy not in names | {WHOLE_SCAN}:
                raise ValueError(f"findings.yaml: {finding.key}: no anatomy {finding.anatomy!r} in anatomies.yaml")
        for preset in self.presets:
            for name in preset.anatomies:
                if name not in names:
                    raise ValueError(f"presets.yaml: {preset.name}: no anatomy named {name!r} in anatomies.yaml")
            _unique(
                f"presets.yaml: {preset.name}: TotalSegmentator class",
                (c for a in self.anatomies if a.name in preset.anatomies for c in a.totalsegmentator),
            )
            for prompt in preset.prompts:
                if prompt.finding not in keys:
                    raise ValueError(f"presets.yaml: {preset.name}: no finding {prompt.finding!r} in findings.yaml")
                if prompt.finding.split(".")[0] not in preset.anatomies:
                    raise ValueError(
                        f"presets.yaml: {preset.name}: {prompt.finding} needs its anatomy in the preset's list"
                    )
        return self

    def anatomy(self, name: str) -> Anatomy:
        """The anatomy of that name; KeyError if there is none."""
        return _lookup("anatomy", {a.name: a for a in self.anatomies}, name)

    def finding(self, key: str) -> FindingType:
        """The finding of that key; KeyError if there is none."""
        return _lookup("finding", {f.key: f for f in self.findings}, key)

    def preset(self, name: str) -> Preset:
        """The preset of that name; KeyError if there is none."""
        return _lookup("preset", {p.name: p for p in self.presets}, name)


def _lookup(kind: str, table: dict[str, _Entry], name: str) -> _Entry:
    if name not in table:
        raise KeyError(f"no {kind} {name!r}; there are: {', '.join(table)}")
    return table[name]


def _unique(where: str, values: Iterable[str]) -> set[str]:
    seen: set[str] = set()
    for value in values:
        if value in seen:
            raise ValueError(f"{where} {value!r} stands twice; remove one")
        seen.add(value)
    return seen


def read_vocabulary(folder: Path) -> Vocabulary:
    """Read `anatomies.yaml`, `findings.yaml` and `presets.yaml` of a folder.

    Raises VocabularyError naming the file, the key and the cure.
    """
    tables: dict[str, Any] = {}
    for table in ("anatomies", "findings", "presets"):
        path = folder / f"{table}.yaml"
        try:
            tables[table] = yaml.safe_load(path.read_text(encoding="utf-8"))
        except (OSError, yaml.YAMLError) as error:
            raise VocabularyError(f"{path}: cannot be read: {error}") from error
    try:
        return Vocabulary.model_validate(tables)
    except ValidationError as error:
        lines = []
        for problem in error.errors():
            where = ".".join(str(part) for part in problem["loc"])
            file = folder / f"{problem['loc'][0]}.yaml" if problem["loc"] else folder
            lines.append(f"{file}: {where}: {problem['msg']}")
        raise VocabularyError("\n".join(lines)) from error


def read_preset(path: Path) -> Preset:
    """A preset of one's own: a YAML file with one entry as in `presets.yaml`, of anatomies and findings known here.

    Raises VocabularyError naming the file, the key and the cure.
    """
    try:
        entry = yaml.safe_load(path.read_text(encoding="utf-8"))
        preset = Preset.model_validate(entry)
        known = load_vocabulary()
        Vocabulary(anatomies=known.anatomies, findings=known.findings, presets=(preset,))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise VocabularyError(f"{path}: cannot be read: {error}") from error
    except ValidationError as error:
        lines = (f"{'.'.join(map(str, e['loc'])) or 'preset'}: {e['msg']}" for e in error.errors())
        raise VocabularyError(f"{path}: {'; '.join(lines)}") from error
    return preset


@cache
def load_vocabulary() -> Vocabulary:
    """The vocabulary that ships with the project."""
    return read_vocabulary(_HERE)
