"""What a training gives, ready to be written as a release."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from fvlm.checkpoint import save_release
from fvlm.config import FindingConfig, ReleaseConfig
from fvlm.model import FVLM

if TYPE_CHECKING:
    from transformers import BertTokenizer


@dataclass(frozen=True)
class Product:
    """All of a release but its card."""

    model: FVLM
    config: ReleaseConfig
    findings: tuple[FindingConfig, ...]
    tokenizer: "BertTokenizer"

    def write(self, folder: Path, card: str) -> str:
        """Write the release, matrices as float16; its digest. The same product and card give the same digest.

        Raises ReleaseError if the folder exists or the parts do not fit together.
        """
        return save_release(folder, self.model, self.config, self.findings, self.tokenizer, card, half=True)
