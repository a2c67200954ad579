"""A model release with random weights and a segmenter by threshold: real code, small enough for every test.

Also a worker process with both: `python tiny_release.py SETTINGS WORKER`.
"""

import sys
from pathlib import Path

import numpy as np
import torch

from config import Settings
from ct.anatomy import AlgorithmIdentity, AnatomyMap
from ct.measure import measure
from ct.volume import Volume
from fvlm import FVLM, Reader, load_release, save_release
from fvlm.config import FindingConfig, ModelConfig, PreprocessConfig, ReleaseConfig, TextConfig
from fvlm.tokenizer import load_tokenizer
from node.pipeline import Pipeline

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "no", "nodule", "emphysema", "heart", "large", "."]
FINDINGS = (
    FindingConfig(finding="lung.nodule", negative="No nodule.", positive="Nodule.", threshold=0.0),
    FindingConfig(
        finding="lung.emphysema",
        negative="No emphysema.",
        positive="Emphysema.",
        threshold=1.0,
        absent_below=1.0,
    ),
    FindingConfig(finding="heart.cardiomegaly", negative="No large heart.", positive="Large heart."),
)


def make_release(folder: Path) -> str:
    """Write the release, and beside it the features of its prompts; its digest."""
    words = folder.with_name("words")
    words.mkdir(parents=True)
    (words / "vocab.txt").write_text("\n".join(WORDS) + "\n", encoding="utf-8")
    model = ModelConfig(
        anatomies=("lung", "heart", "aorta"),
        image_shape=(16, 32, 32),
        patch=(4, 8, 8),
        width=48,
        depth=3,
        heads=3,
        levels=(0, 1),
        attention_heads=3,
        embedding=16,
        text=TextConfig(vocab_size=len(WORDS), width=24, depth=1, heads=2, max_positions=32, max_tokens=16),
    )
    config = ReleaseConfig(
        name="tiny",
        version="0.1",
        test_only=True,
        model=model,
        preprocess=PreprocessConfig(spacing=(38.0, 13.0, 13.0), window=(16, 32, 32), windows="whole"),
    )
    torch.manual_seed(0)
    digest = save_release(folder, FVLM(model).eval(), config, FINDINGS, load_tokenizer(words), "# Tiny\nRandom.\n")
    Reader(load_release(folder), text_cache(folder))
    return digest


def text_cache(release: Path) -> Path:
    """Where the features of the release's prompts are kept, so that a worker need not encode them."""
    return release.with_name("text-cache")


class ThresholdSegmenter:
    """`lung` is what has the HU of lungs, away from the border; everything else is absent."""

    identity = AlgorithmIdentity("threshold", "1", "0" * 64, test_only=True)

    def segment(self, volume: Volume, anatomies: tuple[str, ...]) -> AnatomyMap:
        lung = (volume.hu > -900) & (volume.hu < -600)
        inner = np.zeros_like(lung)
        inner[2:-2, 8:-8, 8:-8] = True
        labels = np.where(lung & inner, anatomies.index("lung") + 1, 0).astype(np.uint8)
        return AnatomyMap(labels, volume.grid, anatomies, self.identity, measure(volume, labels, anatomies))


def load_pipeline(settings: Settings) -> Pipeline:
    """The real pipeline of the settings' release, with the segmenter above."""
    torch.set_num_threads(1)
    release = Path(settings.model.release)
    return Pipeline(Reader(load_release(release), text_cache(release)), ThresholdSegmenter, settings)


if __name__ == "__main__":
    from node.logs import configure_logs
    from node.worker import read_settings, run_analyze

    configure_logs()
    sys.exit(run_analyze(read_settings(Path(sys.argv[1])), sys.argv[2], load_pipeline))
