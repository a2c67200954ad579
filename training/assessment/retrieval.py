"""Finding the report of an image and the image of a report, anatomy by anatomy."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import gammaln

from fvlm.model import FVLM
from fvlm.text_cache import text_features
from training.assessment.examined import Examined, Floats

KS = (1, 5, 10)


@dataclass(frozen=True)
class Retrieval:
    """One anatomy. Images with the same caption are equally right, so captions are counted once."""

    anatomy: str
    images: int
    captions: int
    """Different ones."""
    image_to_text: dict[int, float]
    """k -> share of the images whose caption is among the k nearest."""
    text_to_image: dict[int, float]
    """k -> share of the captions of which an image is among the k nearest."""
    image_to_text_by_chance: dict[int, float]
    text_to_image_by_chance: dict[int, float]


def retrieval(model: FVLM, examined: Examined) -> tuple[Retrieval, ...]:
    """Of each anatomy with at least two captions; images whose report does not mention it are left out."""
    found = []
    for index, anatomy in enumerate(examined.anatomies):
        features = examined.features[:, index]
        said = np.array([texts[index].mentioned for texts in examined.texts], dtype=bool)
        keep = np.flatnonzero(said & ~np.isnan(features).any(-1))
        captions = [examined.texts[row][index].caption() for row in keep]
        distinct = sorted(set(captions))
        if len(distinct) < 2:
            continue
        own = np.array([distinct.index(caption) for caption in captions])
        similarity = features[keep] @ text_features(model, distinct, None).double().cpu().numpy().T
        found.append(_rate(anatomy, similarity, own))
    return tuple(found)


def _rate(anatomy: str, similarity: Floats, own: np.ndarray[tuple[int], np.dtype[np.int64]]) -> Retrieval:
    """Similarity [images, captions]; `own` is the caption of each image."""
    images, captions = similarity.shape
    right = np.arange(captions) == own[:, None]
    held = right.sum(0)
    return Retrieval(
        anatomy,
        images,
        captions,
        {k: _hits(similarity, right, k) for k in KS},
        {k: _hits(similarity.T, right.T, k) for k in KS},
        {k: min(1.0, k / captions) for k in KS},
        {k: float(np.mean([_chance(images, int(count), k) for count in held])) for k in KS},
    )


def _hits(similarity: Floats, right: np.ndarray[tuple[int, int], np.dtype[np.bool_]], k: int) -> float:
    """Share of the rows with something right among the k most similar; equals count in the worst order."""
    best = np.where(right, similarity, -np.inf).max(1, keepdims=True)
    before = ((similarity >= best) & ~right).sum(1)
    return float((before < k).mean())


def _chance(total: int, right: int, k: int) -> float:
    """That one of `right` is among k drawn of `total`."""
    if total - right < k:
        return 1.0

    def choose(n: int) -> float:
        return float(gammaln(n + 1) - gammaln(k + 1) - gammaln(n - k + 1))

    return 1.0 - float(np.exp(choose(total - right) - choose(total)))


def mean(rows: Sequence[Retrieval], of: str, k: int) -> float:
    """Over the anatomies, of `image_to_text` or another; NaN without any."""
    return float(np.mean([getattr(row, of)[k] for row in rows])) if rows else float("nan")
