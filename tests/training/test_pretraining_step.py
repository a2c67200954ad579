"""One step: the gradient in several passes is that of one, also with dropout, recomputed blocks and bfloat16."""

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.training.toy_archive import ToyArchive, toy_model, without_text_dropout
from training.pretraining.batches import Batch, Order
from training.pretraining.config import CorrectionConfig
from training.pretraining.step import Pass, backward
from training.pretraining.student import decay_groups, recompute_blocks
from training.pretraining.trainees import (
    ClipTrainee,
    Features,
    FVLMTrainee,
    Losses,
    SupervisedTrainee,
    Trainee,
    like_lengths,
)

ARCHIVE = ToyArchive()
PLAIN = Pass()
SEEDS = [11, 12, 13, 14]


def _trainee(kind: type[Trainee] = FVLMTrainee, dropout: float = 0.0) -> Trainee:
    torch.manual_seed(0)
    tokenizer = ARCHIVE.tokenizer()
    config = toy_model(len(tokenizer), dropout)
    if kind is SupervisedTrainee:
        return SupervisedTrainee(config, ARCHIVE.findings).train()
    assert kind in (FVLMTrainee, ClipTrainee)
    trainee = kind(config, tokenizer)  # type: ignore[call-arg]
    nn.init.normal_(trainee.model.query_tokens, std=0.1)
    if not dropout:
        without_text_dropout(trainee)
    return trainee.train()


def _batches(micro: int) -> list[Batch]:
    return [ARCHIVE.batch(chosen, (0, 0)) for chosen in Order(len(ARCHIVE), 8, micro, 0).step(0, 0)]


def _gradients(trainee: Trainee, batches: Sequence[Batch], how: Pass = PLAIN) -> dict[str, Tensor]:
    trainee.zero_grad()
    backward(trainee, batches, SEEDS[: len(batches)], how)
    return {name: p.grad.clone() for name, p in trainee.named_parameters() if p.grad is not None}


def _at_once(trainee: Trainee, batches: Sequence[Batch]) -> dict[str, Tensor]:
    """The same with the graphs of all micro-batches in memory, by plain autograd."""
    trainee.zero_grad()
    passes = [PLAIN.features(trainee, batch, seed) for batch, seed in zip(batches, SEEDS, strict=False)]
    together = Features(
        {name: torch.cat([one.learned[name] for one in passes]) for name in passes[0].learned},
        {name: torch.cat([one.known[name] for one in passes]) for name in passes[0].known},
    )
    trainee.loss(together, None, 0.0).total.backward()
    return {name: p.grad.clone() for name, p in trainee.named_parameters() if p.grad is not None}


def _assert_equal(found: dict[str, Tensor], expected: dict[str, Tensor], within: float = 1e-6) -> None:
    assert found.keys() == expected.keys()
    assert max(float(gradient.abs().max()) for gradient in expected.values()) > 1e-3
    for name, gradient in expected.items():
        assert torch.allclose(found[name], gradient, rtol=1e-5, atol=within), name


@pytest.mark.parametrize("kind", [FVLMTrainee, ClipTrainee, SupervisedTrainee])
def test_accumulated_gradient_is_that_of_one_graph_with_the_same_dropout(kind: type[Trainee]) -> None:
    trainee, batches = _trainee(kind, dropout=0.3), _batches(2)
    assert len(batches) == 4
    _assert_equal(_gradients(trainee, batches), _at_once(trainee, batches))


def test_contrast_is_over_the_whole_batch_however_it_is_cut() -> None:
    trainee = _trainee()
    whole = _gradients(trainee, _batches(8))
    for micro in (4, 2):
        _assert_equal(_gradients(trainee, _batches(micro)), whole, within=5e-6)


def test_dropout_differs_between_micro_batches() -> None:
    trainee, batch = _trainee(dropout=0.3), _batches(2)[0]
    same, again, other = (PLAIN.features(trainee, batch, seed).learned["image"] for seed in (1, 1, 2))
    assert torch.equal(same, again)
    assert not torch.allclose(same, other)


def test_recomputed_blocks_change_nothing_but_memory() -> None:
    kept, again = _trainee(dropout=0.3), _trainee(dropout=0.3)
    recompute_blocks(again)
    assert kept.state_dict().keys() == again.state_dict().keys()
    counts = []
    for trainee in (kept, again):
        saved: list[int] = []
        with torch.autograd.graph.saved_tensors_hooks(lambda t, s=saved: (s.append(t.nbytes), t)[1], lambda t: t):
            PLAIN.features(trainee, _batches(8)[0], 1)
        counts.append(sum(saved))
    assert counts[1] < 0.7 * counts[0]
    _assert_equal(_gradients(again, _batches(4)), _gradients(kept, _batches(4)))


def test_bfloat16_is_near_and_leaves_features_and_weights_in_float32() -> None:
    trainee, batches = _trainee(), _batches(8)
    features = Pass(precision="bfloat16").features(trainee, batches[0], 1)
    exact = PLAIN.features(trainee, batches[0], 1)
    assert {rows.dtype for rows in features.learned.values()} == {torch.float32}
    for name, rows in exact.learned.items():
        assert 0 < float((features.learned[name] - rows).detach().abs().max()) < 0.05
    low, high = _gradients(trainee, batches, Pass(precision="bfloat16")), _gradients(trainee, batches)
    flat = [torch.cat([found[name].flatten() for name in high]) for found in (low, high)]
    assert float(torch.cosine_similarity(*flat, dim=0)) > 0.98


def test_a_batch_that_teaches_nothing_has_a_zero_gradient_for_every_parameter() -> None:
    """All normal: the reference left the step out, and its processes fell apart."""
    trainee, batch = _trainee(), ARCHIVE.batch([1, 3, 7, 9], (0, 0))
    gradients = _gradients(trainee, [batch])
    assert gradients.keys() == {name for name, p in trainee.named_parameters() if p.requires_grad}
    assert all(not gradient.any() for gradient in gradients.values())


def test_unknown_findings_and_cut_anatomies_teach_the_supervised_nothing() -> None:
    trainee = _trainee(SupervisedTrainee)
    truth = torch.tensor([[1.0, float("nan")], [0.0, 1.0]])
    usable = torch.tensor([[True, True], [True, False]])
    logits = torch.tensor([[0.3, 5.0], [0.2, 5.0]], requires_grad=True)
    losses: Losses = trainee.loss(Features({"logits": logits}, {"truth": truth, "usable": usable}), None, 0.0)
    losses.total.backward()
    expected = (torch.sigmoid(torch.tensor([0.3, 0.2])) - torch.tensor([1.0, 0.0])) / 2
    assert logits.grad is not None
    assert torch.allclose(logits.grad[:, 0], expected)
    assert not logits.grad[:, 1].any()


def test_a_caption_of_an_anatomy_that_is_cut_is_not_encoded() -> None:
    trainee, batch = _trainee(), ARCHIVE.batch([0, 1], (0, 0))
    text = trainee(batch).learned["text"]
    assert batch.usable.tolist() == [[True, False], [True, True]]
    assert not text[0, 1].any()
    assert torch.allclose(text[0, 0].norm(), torch.tensor(1.0))


def test_only_what_multiplies_decays() -> None:
    trainee = _trainee()
    decayed, plain = decay_groups(trainee, 0.1)
    assert (decayed["weight_decay"], plain["weight_decay"]) == (0.1, 0.0)
    names = {id(p): name for name, p in trainee.named_parameters()}
    without = {names[id(p)] for p in plain["params"]}
    assert {name for name in names.values() if name.endswith("bias") or "norm" in name.lower()} <= without
    assert {
        "model.temp",
        "model.query_tokens",
        "model.visual_encoder.patch_embedding.position_embeddings",
        "model.text_encoder.embeddings.word_embeddings.weight",
        "model.text_encoder.embeddings.position_embeddings.weight",
    } <= without
    assert "model.visual_encoder.patch_embedding.patch_embeddings.weight" in {names[id(p)] for p in decayed["params"]}
    assert len(decayed["params"]) + len(plain["params"]) == len(names)


def test_texts_are_grouped_by_length() -> None:
    lengths = [100, 5, 12, 90, 6, 13, 14]
    groups = like_lengths(lengths)
    assert sorted(index for group in groups for index in group) == list(range(7))
    assert [[lengths[index] for index in group] for group in groups] == [[5, 6, 12, 13, 14], [90, 100]]
    assert [len(group) for group in like_lengths([7] * 130)] == [64, 64, 2]


def test_texts_come_back_in_their_order() -> None:
    trainee = _trainee()
    batch = ARCHIVE.batch([0, 1, 2, 5], (0, 0))
    together = trainee(batch).learned["text"]
    for row, study in enumerate([0, 1, 2, 5]):
        alone = trainee(ARCHIVE.batch([study], (0, 0))).learned["text"][0]
        assert torch.allclose(together[row], alone, atol=1e-5)


@pytest.mark.parametrize("abnormal", ["co-teaching", "momentum", "jaccard"])
def test_each_correction_grows_with_the_ramp(abnormal: Any) -> None:
    plain = _trainee()
    assert isinstance(plain, FVLMTrainee)
    config, tokenizer = plain.model.config, plain.tokenizer
    corrected = FVLMTrainee(config, tokenizer, CorrectionConfig(abnormal=abnormal), ARCHIVE.findings)
    with torch.no_grad():
        known = corrected(_batches(8)[0]).known
    generator = torch.Generator().manual_seed(4)
    mine, its = (
        Features({name: nn.functional.normalize(torch.randn(8, 2, 16, generator=generator), dim=-1)
                  for name in ("image", "text")}, known)
        for _ in range(2)
    )  # fmt: skip
    with torch.no_grad():
        for trainee in (plain, corrected):
            trainee.model.temp.fill_(0.5)  # so that random texts are a little alike
        expected = float(plain.loss(mine, None, 1.0).total)
        assert float(corrected.loss(mine, its, 0.0).total) == pytest.approx(expected, abs=1e-5)
        none, half, whole = (corrected._targets(mine, its, ramp).texts for ramp in (0.0, 0.5, 1.0))
    assert float((whole - none).abs().max()) > float((half - none).abs().max()) > 1e-3
    assert torch.allclose(whole.sum(-1), none.sum(-1))


def test_a_correction_without_its_teacher_is_an_error() -> None:
    plain = _trainee()
    assert isinstance(plain, FVLMTrainee)
    corrected = FVLMTrainee(plain.model.config, plain.tokenizer, CorrectionConfig(abnormal="momentum"))
    with pytest.raises(ValueError, match="teacher"):
        backward(corrected, _batches(8), SEEDS[:1], PLAIN)
