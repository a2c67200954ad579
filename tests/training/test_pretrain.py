"""The loop: deterministic, resumable bit for bit, and it learns."""

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import BertTokenizer

from fvlm.config import ModelConfig, TextConfig
from training.evaluate import evaluate, macro_auc, operating_point
from training.phantom_data import Caption, Patient, PhantomSet, touches_border
from training.pretrain import Method, Recipe, learning_rate, pretrain
from training.vocabulary_text import build_tokenizer

SHAPE = (16, 16, 16)


def _data(patients: int = 24) -> tuple[PhantomSet, BertTokenizer]:
    """Two anatomies; a bright spot in the first one is its disease."""
    generator = np.random.default_rng(0)
    images = generator.integers(80, 120, (patients, *SHAPE), dtype=np.uint8)
    labels = np.zeros((patients, *SHAPE), dtype=np.uint8)
    labels[:, 1:8, 1:15, 1:15], labels[:, 9:15, 1:15, 1:15] = 1, 2
    people = []
    for index in range(patients):
        ill = index % 2 == 0
        if ill:
            at = generator.integers(2, 5)
            images[index, at : at + 3, at : at + 5, 4:9] = 240
        captions = (Caption("Nodule." if ill else "No nodule.", not ill), Caption("Normal heart.", True))
        diseases = ("lung.nodule",) if ill else ()
        people.append(Patient(index, diseases, captions[0].text, captions))
    tokenizer = build_tokenizer(c.text for p in people for c in p.captions)
    return PhantomSet(images, labels, tuple(people)), tokenizer


def _config(vocabulary: int) -> ModelConfig:
    return ModelConfig(
        anatomies=("lung", "heart"), image_shape=SHAPE, patch=(4, 4, 4), width=32, depth=2, heads=2, levels=(0,),
        attention_heads=2, embedding=16, dropout=0.0, stem="conv", stem_channels=(8,),
        text=TextConfig(vocab_size=vocabulary, width=32, depth=1, heads=2, max_positions=32, max_tokens=32),
    )


@pytest.mark.parametrize("method", ["fvlm", "clip"])
def test_interrupted_run_equals_uninterrupted_bit_for_bit(tmp_path: Path, method: Method) -> None:
    torch.set_num_threads(1)
    data, tokenizer = _data()
    recipe = Recipe(method, steps=52, batch=4, warmup=2)
    whole = pretrain(data, tokenizer, _config(len(tokenizer)), recipe, tmp_path / "whole", lambda *_: None)

    class Cut(Exception):  # noqa: N818
        pass

    def cut(step: int, _: float) -> None:
        if step == 51:
            raise Cut

    with pytest.raises(Cut):
        pretrain(data, tokenizer, _config(len(tokenizer)), recipe, tmp_path / "cut", cut)
    seen: list[int] = []
    resumed = pretrain(
        data, tokenizer, _config(len(tokenizer)), recipe, tmp_path / "cut", lambda step, _: seen.append(step)
    )
    assert seen == [51, 52]
    for name, tensor in whole.state_dict().items():
        assert torch.equal(tensor, resumed.state_dict()[name]), name


def test_it_learns_to_see_the_spot(tmp_path: Path) -> None:
    data, tokenizer = _data()
    losses: list[float] = []
    recipe = Recipe("fvlm", steps=60, batch=8, warmup=5, peak_lr=3e-3)
    pretrain(data, tokenizer, _config(len(tokenizer)), recipe, tmp_path, lambda _, loss: losses.append(loss))
    assert np.mean(losses[-10:]) < 0.8 * np.mean(losses[:10])


def test_checkpoint_of_another_recipe_is_refused(tmp_path: Path) -> None:
    data, tokenizer = _data()
    pretrain(data, tokenizer, _config(len(tokenizer)), Recipe("fvlm", 1, 4), tmp_path, lambda *_: None)
    with pytest.raises(ValueError, match="another recipe"):
        pretrain(data, tokenizer, _config(len(tokenizer)), Recipe("fvlm", 2, 4), tmp_path, lambda *_: None)


def test_learning_rate_rises_then_falls_to_zero() -> None:
    recipe = Recipe("fvlm", steps=100, warmup=10, peak_lr=1.0)
    rates = [learning_rate(recipe, step) for step in range(100)]
    assert rates[0] == pytest.approx(0.1)
    assert max(rates) == 1.0
    assert rates[-1] < 0.001
    assert rates[10:] == sorted(rates[10:], reverse=True)


def test_anatomy_on_a_face_of_the_window_is_not_intact() -> None:
    labels = torch.zeros(1, 4, 4, 4, dtype=torch.uint8)
    labels[0, 1:3, 1:3, 1:3] = 1
    labels[0, 2, 2, 3] = 2
    assert touches_border(labels, 3).tolist() == [[False, True, False]]


def test_metrics_of_known_scores() -> None:
    positive = np.array([[True], [True], [False], [False], [False]])
    probability = np.array([[0.9], [0.4], [0.5], [0.1], [np.nan]])
    threshold = operating_point(positive[:, 0], probability[:, 0])
    from fvlm.config import FindingConfig

    rows = evaluate(positive, probability, [FindingConfig(finding="lung.nodule", negative="a", positive="b")], [threshold])
    assert rows[0].patients == 4
    assert rows[0].positives == 2
    assert rows[0].auc == pytest.approx(0.75)
    assert macro_auc(rows) == pytest.approx(0.75)
    assert threshold == pytest.approx(0.4) or threshold == pytest.approx(0.9)
