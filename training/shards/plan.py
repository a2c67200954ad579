"""What shards are made for: the anatomies, the model's grid, and the vocabulary; two digests say whether shards fit."""

import hashlib
import json
from typing import Any, Self

from pydantic import BaseModel, ConfigDict

from config import Vocabulary, load_vocabulary
from fvlm.config import PreprocessConfig, ReleaseConfig, Triple
from fvlm.preprocess import PROTOCOLS


class ShardPlan(BaseModel):
    """Preprocessing, anatomies and findings of one folder of shards."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    anatomies: tuple[str, ...]
    """In label order."""
    findings: tuple[str, ...]
    """In the order of label columns; a reader may choose others of the vocabulary."""
    preprocess: PreprocessConfig
    """`hu_window` and `window` are applied when crops are read, the rest is in the voxels."""
    shape: Triple
    """Voxels z, y, x of the crops that the model is trained with."""

    @classmethod
    def of_preset(cls, name: str) -> Self:
        """The public preprocessing of a preset of the vocabulary. Raises KeyError if there is none."""
        preset = load_vocabulary().preset(name)
        protocol = PROTOCOLS[preset.protocol]
        findings = tuple(prompt.finding for prompt in preset.prompts)
        return cls(
            anatomies=preset.anatomies,
            findings=findings,
            preprocess=protocol.preprocess,
            shape=protocol.image_shape,
        )

    @classmethod
    def of_release(cls, config: ReleaseConfig, findings: tuple[str, ...]) -> Self:
        """What a release reads: its grid, its anatomies, the findings it is asked."""
        return cls(
            anatomies=config.model.anatomies,
            findings=findings,
            preprocess=config.preprocess,
            shape=config.model.image_shape,
        )

    @property
    def voxel_digest(self) -> str:
        """SHA-256, hex, of what decides the voxels: anatomies, spacing, margin, antialiasing."""
        settings = self.preprocess
        return _digest([list(self.anatomies), settings.spacing, settings.margin, settings.antialias])


def vocabulary_digest(vocabulary: Vocabulary) -> str:
    """SHA-256, hex, of what a vocabulary decides in a shard: classes and guards of anatomies, keys of findings."""
    anatomies = [
        [a.name, a.totalsegmentator, a.part_of, a.mean_hu, a.volume_ml, a.most_pieces, a.may_be_cut]
        for a in sorted(vocabulary.anatomies, key=lambda a: a.name)
    ]
    return _digest([anatomies, sorted(finding.key for finding in vocabulary.findings)])


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, separators=(",", ":")).encode()).hexdigest()
