"""Any prompt against stored anatomy features: the zero-shot probability of section 3.4, without the pixels."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch

from fvlm.model import FVLM
from fvlm.release import Release, ReleaseError


def score(model: FVLM, features: npt.NDArray[np.float32], negative: str, positive: str) -> npt.NDArray[np.float32]:
    """Uncalibrated probability [N] of the positive prompt for anatomy features [N, E] of this very release.

    Raises ReleaseError for a model that belongs to no release.
    """
    if model.release is None:
        raise ReleaseError("the model belongs to no release; load it with fvlm.load_release")
    device = model.temp.device
    with torch.inference_mode():
        ids, mask = model.release.tokenize([negative, positive])
        texts = model.text_features(ids.to(device), mask.to(device))
        found = model.probabilities(torch.from_numpy(features).to(device), texts[0], texts[1])
        return found.float().cpu().numpy()


def unknown_words(release: Release, texts: Sequence[str]) -> tuple[str, ...]:
    """Words that the release's tokenizer never learned: it spells them letter by letter, or not at all."""
    unknown = []
    for text in texts:
        for word, _ in release.tokenizer.backend_tokenizer.pre_tokenizer.pre_tokenize_str(text.lower()):
            pieces = release.tokenizer.tokenize(word)
            spelled = len(word) > 1 and all(len(piece.removeprefix("##")) == 1 for piece in pieces)
            if word.isalpha() and (spelled or release.tokenizer.unk_token in pieces):
                unknown.append(word)
    return tuple(dict.fromkeys(unknown))
