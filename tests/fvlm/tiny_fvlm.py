"""Vocabulary and weights of the tests' small model."""

import torch

from fvlm import FVLM
from fvlm.config import ModelConfig

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "no", "nodule", "##s", "emphysema", "large", "heart", "."]


def make_model(config: ModelConfig, seed: int = 0) -> FVLM:
    """Random weights, the queries too (they start at zero, which hides mistakes)."""
    torch.manual_seed(seed)
    model = FVLM(config).eval()
    with torch.no_grad():
        model.query_tokens.normal_()
        model.attention.in_proj_bias.normal_()
        for projection in model.vision_projs:
            projection.weight.normal_()
    return model
