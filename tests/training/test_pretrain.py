"""The loop: deterministic, resumable bit for bit, and it learns."""

from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score
from transformers import BertTokenizer

from fvlm.config import CellsConfig, FindingConfig, ModelConfig, TextConfig
from fvlm.model import FVLM
from fvlm.tokenizer import tokenize
from training.calibrate import OperatingPoints
from training.card import Operating
from training.cells import CellLesson
from training.evaluate import evaluate, macro_auc, probabilities, truth
from training.features import FeatureSet, encode_set
from training.learner import Learner, build, pool_set
from training.phantom_data import Ball, Caption, Patient, PhantomSet, touches_border
from training.pretrain import Recipe, Trainee, fit, learning_rate
from training.queries import QueryLesson
from training.standardise import Standardise
from training.supervise import Supervised, lesion_places
from training.vocabulary_text import build_tokenizer

SHAPE = (24, 24, 24)


def _data(patients: int = 24) -> tuple[PhantomSet, BertTokenizer]:
    """Two anatomies; a bright spot in the first one is its disease."""
    generator = np.random.default_rng(0)
    images = generator.integers(80, 120, (patients, *SHAPE), dtype=np.uint8)
    labels = np.zeros((patients, *SHAPE), dtype=np.uint8)
    labels[:, 4:11, 4:20, 4:20], labels[:, 13:20, 4:20, 4:20] = 1, 2
    people, balls = [], []
    for index in range(patients):
        ill = index % 2 == 0
        if ill:
            at = generator.integers(5, 8)
            images[index, at : at + 3, at : at + 5, 6:11] = 240
        centre = (float(at) + 1.5, float(at) + 2.5, 8.5) if ill else (0.0, 0.0, 0.0)
        balls.append((Ball("lung.nodule", centre, 2.0),) if ill else ())
        captions = (Caption("Nodule." if ill else "No nodule.", not ill), Caption("Normal heart.", True))
        diseases = ("lung.nodule",) if ill else ()
        people.append(Patient(index, diseases, captions[0].text, captions))
    tokenizer = build_tokenizer(c.text for p in people for c in p.captions)
    return PhantomSet(images, labels, tuple(people), tuple(balls), (1.0, 1.0, 1.0)), tokenizer


def _config(vocabulary: int) -> ModelConfig:
    return ModelConfig(
        anatomies=("lung", "heart"),
        image_shape=SHAPE,
        patch=(4, 4, 4),
        width=32,
        depth=2,
        heads=2,
        levels=(0,),
        attention_heads=2,
        embedding=16,
        dropout=0.0,
        stem="conv",
        stem_channels=(8,),
        cells=CellsConfig(windows=((0.0, 1.0), (0.2, 0.6)), channels=(8,), strides=((2, 2, 2),), blocks=1),
        text=TextConfig(vocab_size=vocabulary, width=32, depth=1, heads=2, max_positions=32, max_tokens=32),
    )


def _encoded(model: FVLM, data: PhantomSet, folder: Path) -> FeatureSet:
    return encode_set(model, data, ["lung.nodule"], folder / "features", lambda *_: None)


def _trainee(kind: str, data: PhantomSet, tokenizer: BertTokenizer, folder: Path) -> Trainee:
    """One of the things the loop trains, fresh."""
    torch.manual_seed(0)
    config = _config(len(tokenizer))
    if kind == "cells":
        return CellLesson(config, ["lung.nodule"], data, crop=(12, 12, 12))
    if kind in ("stem", "trunk"):
        supervised = Supervised(config, ["lung.nodule"], data)
        supervised.lesson = "stem" if kind == "stem" else "trunk"
        return supervised
    trunk = FVLM(config).eval()
    encoded = _encoded(trunk, data, folder)
    if kind == "queries":
        return QueryLesson(trunk, ["lung.nodule"], ["lung.nodule"], encoded)
    return build(trunk, tokenizer, pool_set(trunk, encoded, lambda *_: None), "clip" if kind == "clip" else "fvlm", 0)


@pytest.mark.parametrize("kind", ["stem", "trunk", "cells", "queries", "fvlm", "clip"])
def test_interrupted_run_equals_uninterrupted_bit_for_bit(tmp_path: Path, kind: str) -> None:
    torch.set_num_threads(1)
    data, tokenizer = _data()
    recipe = Recipe(kind, steps=52, batch=4, warmup=2)
    whole = fit(_trainee(kind, data, tokenizer, tmp_path), 24, recipe, tmp_path / "whole", lambda *_: None)

    class Cut(Exception):  # noqa: N818
        pass

    def cut(step: int, _: float) -> None:
        if step == 51:
            raise Cut

    with pytest.raises(Cut):
        fit(_trainee(kind, data, tokenizer, tmp_path), 24, recipe, tmp_path / "cut", cut)
    seen: list[int] = []
    resumed = fit(
        _trainee(kind, data, tokenizer, tmp_path), 24, recipe, tmp_path / "cut", lambda step, _: seen.append(step)
    )
    assert seen == [51, 52]
    for name, tensor in whole.state_dict().items():
        assert torch.equal(tensor, resumed.state_dict()[name]), name


def test_schooled_trunk_and_alignment_tell_ill_from_healthy_by_prompt(tmp_path: Path) -> None:
    data, tokenizer = _data(48)
    torch.manual_seed(0)
    supervised = Supervised(_config(len(tokenizer)), ["lung.nodule"], data)
    supervised.lesson = "trunk"
    losses: list[float] = []
    recipe = Recipe("trunk", steps=80, batch=8, warmup=5, peak_lr=3e-3)
    fit(supervised, 48, recipe, tmp_path / "trunk", lambda _, loss: losses.append(loss))
    assert np.mean(losses[-10:]) < 0.5 * np.mean(losses[:10])
    encoded = _encoded(supervised.model.eval(), data, tmp_path)
    queries = QueryLesson(supervised.model, ["lung.nodule"], ["lung.nodule"], encoded)
    fit(
        queries,
        48,
        Recipe("queries", steps=60, batch=16, warmup=5, peak_lr=3e-3),
        tmp_path / "queries",
        lambda *_: None,
    )
    pooled = pool_set(supervised.model, encoded, lambda *_: None)
    learner = build(supervised.model, tokenizer, pooled, "fvlm", 0)
    fit(learner, 48, Recipe("fvlm", steps=80, batch=16, warmup=5), tmp_path / "fvlm", lambda *_: None)
    finding = FindingConfig(finding="lung.nodule", negative="No nodule.", positive="Nodule.")
    row = evaluate(truth(pooled, [finding]), probabilities(learner, pooled, [finding]), [finding])[0]
    assert row.auc > 0.95


def test_lesions_are_sought_where_they_were_drawn() -> None:
    """Boxes of 10 x 5 x 5 mm: a ball of 4 mm astride some, another inside one, a third of another kind."""
    balls = [
        Ball("lung.nodule", (15.0, 2.5, 5.0), 4.0),
        Ball("lung.nodule", (5.0, 12.5, 17.5), 1.0),
        Ball("liver.cyst", (5.0, 2.5, 2.5), 1.0),
    ]
    found = lesion_places(balls, ["lung.nodule", "liver.cyst"], (2, 3, 4), np.array([10.0, 5.0, 5.0]))
    places = found.view(2, 2, 3, 4).nonzero().tolist()
    assert places == [[0, 0, 2, 3], [0, 1, 0, 0], [0, 1, 0, 1], [0, 1, 1, 0], [0, 1, 1, 1], [1, 0, 0, 0]]


def test_stem_learns_where_lesions_lie(tmp_path: Path) -> None:
    data, tokenizer = _data(48)
    torch.manual_seed(0)
    supervised = Supervised(_config(len(tokenizer)), ["lung.nodule"], data)
    fit(supervised, 48, Recipe("stem", steps=60, batch=8, warmup=5, peak_lr=5e-3), tmp_path / "stem", lambda *_: None)
    batch = data.batch(range(16))
    with torch.no_grad():
        cells = supervised.model.visual_encoder.patch_embedding.stem(batch.image)
        found = supervised.places(cells.flatten(2).transpose(1, 2))[..., 2]
    stride = supervised.model.config.stem_stride
    shape = [size // step for size, step in zip(SHAPE, stride, strict=True)]
    size = np.array(stride, dtype=np.float64)
    drawn = torch.cat([lesion_places(balls, ["lung.nodule"], shape, size) for balls in batch.balls])
    assert roc_auc_score(drawn.flatten(), found.flatten()) > 0.95


def test_batch_moves_image_labels_and_lesions_alike() -> None:
    data, _ = _data(2)
    batch = data.batch([0] * 8, np.random.default_rng(0))
    for image, labels, (ball,) in zip(batch.image[:, 0], batch.labels, batch.balls, strict=True):
        z, y, x = (int(v) for v in ball.centre_mm)
        assert image[z, y, x] == pytest.approx(240 / 255)
        assert labels[z, y, x] == 1
    assert len({balls[0].centre_mm for balls in batch.balls}) > 1


def test_pooled_and_whole_model_give_the_same_anatomy_features(tmp_path: Path) -> None:
    data, tokenizer = _data(4)
    learner = _trainee("fvlm", data, tokenizer, tmp_path)
    assert isinstance(learner, Learner)
    learner.finish()
    pooled = learner.pooled
    with torch.no_grad():
        batch = data.batch(range(4))
        features, _ = learner.model.anatomy_features(batch.image, batch.labels)
        for k, projection in enumerate(learner.model.vision_projs):
            alone = torch.nn.functional.normalize(projection(pooled.anatomies[:, k]), dim=-1)
            assert torch.allclose(alone, features[:, k], atol=2e-3)  # features are stored as float16


def test_checkpoint_of_another_recipe_is_refused(tmp_path: Path) -> None:
    data, tokenizer = _data()
    fit(_trainee("fvlm", data, tokenizer, tmp_path), 24, Recipe("fvlm", 1, 4), tmp_path, lambda *_: None)
    with pytest.raises(ValueError, match="another recipe"):
        fit(_trainee("fvlm", data, tokenizer, tmp_path), 24, Recipe("fvlm", 2, 4), tmp_path, lambda *_: None)


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
    finding = FindingConfig(finding="lung.nodule", negative="a", positive="b")
    row = evaluate(positive, probability, [finding])[0]
    assert (row.patients, row.positives) == (4, 2)
    assert row.auc == pytest.approx(0.75)
    assert macro_auc([row]) == pytest.approx(0.75)


def test_verdicts_are_counted_at_their_operating_points() -> None:
    positive = np.array([True, True, True, True, False, False, False, False, True])
    probability = np.array([0.9, 0.8, 0.5, 0.1, 0.9, 0.5, 0.2, 0.1, np.nan])
    counted = Operating.of(OperatingPoints(absent_below=0.3, present_from=0.7), positive, probability)
    assert (counted.present, counted.missed, counted.false, counted.cleared) == (0.5, 0.25, 0.25, 0.5)
    assert np.isnan(Operating.of(None, positive, probability).present)


def test_folded_projections_give_the_same_features() -> None:
    torch.manual_seed(0)
    projections = [torch.nn.Linear(6, 4) for _ in range(2)]
    standard = Standardise(2, 4)
    x = 5.0 + 3.0 * torch.randn(64, 2, 6)

    def outputs() -> torch.Tensor:
        return torch.stack([projection(x[:, k]) for k, projection in enumerate(projections)], 1)

    for _ in range(200):
        standard(outputs())
    standard.eval()
    before = standard(outputs())
    assert before.mean(0).abs().max() < 0.01
    standard.fold_into(*projections)
    assert torch.allclose(outputs(), before, atol=2e-3)  # features are stored as float16
    assert torch.allclose(standard(outputs()), before, atol=2e-3)  # features are stored as float16


@pytest.mark.parametrize("kind", ["fvlm", "clip"])
def test_finished_model_alone_gives_the_learners_text_features(tmp_path: Path, kind: str) -> None:
    data, tokenizer = _data()
    learner = _trainee(kind, data, tokenizer, tmp_path)
    assert isinstance(learner, Learner)
    learner.train()
    learner.loss(range(8), np.random.default_rng(0))
    learner.finish()
    with torch.no_grad():
        texts = ["Nodule.", "No nodule."]
        alone = learner.model.text_features(*tokenize(tokenizer, texts, 32))
        assert torch.allclose(learner.texts(texts), alone, atol=2e-3)  # features are stored as float16
