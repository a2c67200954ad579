"""One training step: ours against the naive loop over organs and patients, in one run, in pairs, from the same weights.

The model has the layout of the public fVLM (ViT-B on 112 x 256 x 352 voxels, BERT-base, captions of at most 384
tokens), with the 15 anatomies that the paper evaluates, and again with the 4 of its public code. On a CPU both encoders
have half of their 12 blocks, so that it ends in minutes. Weights, images and captions are made up and dropout is 0, so
that both ways must find the same loss and gradient: the figures are about speed and agreement only. With a GPU also the
paper's batch, in bfloat16, with its share of the card's ceiling and its memory. What each figure means:
docs/researcher/pretraining.md.
"""

import argparse
import os
import random
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from bench_naive_training import NaiveLoss
from bench_result import Result
from bench_training_parts import step_parts
from torch import Tensor, nn

from config import load_vocabulary
from fvlm.config import ModelConfig, TextConfig
from training.pretraining.batches import Batch
from training.pretraining.config import BatchConfig, RecipeConfig
from training.pretraining.cost import counted_flops, step_flops
from training.pretraining.distributed import World
from training.pretraining.step import Pass, backward
from training.pretraining.student import decay_groups, recompute_blocks
from training.pretraining.trainees import FVLMTrainee
from training.vocabulary_text import build_tokenizer

AGREEMENT = 1e-4
"""Greatest difference of the loss, and of a gradient as a part of the largest one, between the two ways."""
PUBLIC_ANATOMIES = ("lung", "heart", "esophagus", "aorta")
PAPER_ANATOMIES = load_vocabulary().preset("phantom").anatomies
"""15, as many as the paper evaluates."""
PAPER_BATCH, PAPER_MICRO = 56, 14
PAPER_STEPS = 20 * 377
"""Steps of the 20-epoch recipe on CT-RATE's training scans (about 21,100)."""
CEILINGS = {"A100": 312e12, "H100": 989e12, "H200": 989e12}
"""Dense bfloat16 operations per second, from the maker's data sheets."""
ASSUMED_SHARE = 0.4
"""Of the ceiling, for the cost in GPU-hours where no GPU was at hand."""

_TEMPLATE = "{} shows no significant abnormalities."
_SAID = (
    "A solid nodule of 7 mm lies in the posterior basal segment of the right lower lobe.",
    "Mild centrilobular emphysema is seen in both upper lobes.",
    "Linear atelectasis in the lingula and in the middle lobe, sequela of an earlier infection.",
    "Ground glass opacities with a peripheral distribution in both lungs, more marked at the bases.",
    "The left atrium is slightly enlarged.",
    "Calcified plaques in the left anterior descending coronary artery and in the circumflex artery.",
    "A small pericardial effusion measures 9 mm at its thickest part.",
    "Sliding type hiatal hernia at the lower end.",
    "The wall is thickened over 3 cm in the distal third.",
    "Calcified atheromatous plaques of the arch and the descending part; the ascending part measures 42 mm.",
    "Its calibre is normal and no pathological increase in wall thickness was observed.",
    "No mass, active infiltration or other nodular lesion was detected on this side.",
)


@dataclass
class Timed:
    """Samples of one way."""

    wall: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    loss: float = 0.0
    gradient: dict[str, Tensor] = field(default_factory=dict)

    def run(self, step: Callable[[], float], model: nn.Module) -> None:
        _wait()
        wall, cpu = time.perf_counter(), time.process_time()
        self.loss = step()
        _wait()
        self.wall.append(time.perf_counter() - wall)
        self.cpu.append(time.process_time() - cpu)
        self.gradient = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--studies", type=int, default=2, help="of a step on the CPU")
    parser.add_argument("--depth", type=int, default=6, help="blocks of both encoders on the CPU; the paper's have 12")
    parser.add_argument("--repeats", type=int, default=2, help="pairs of ours and naive")
    given = parser.parse_args()
    threads = len(os.sched_getaffinity(0))
    torch.set_num_threads(threads)
    result = Result("train_step", ("torch", "transformers"))
    result.conditions |= {
        "threads": threads,
        "repeats": given.repeats,
        "studies": given.studies,
        "depth": given.depth,
        "precision": "float32",
    }
    errors = []
    for name, anatomies in (("", PAPER_ANATOMIES), ("_4_anatomies", PUBLIC_ANATOMIES)):
        captions = made_captions(anatomies, given.studies)
        trainee = public_trainee(captions, anatomies, given.depth)
        batch = made_batch(captions, trainee.model.config)
        errors.append(compare(result, name, trainee, batch, given.repeats))
    captions = made_captions(PUBLIC_ANATOMIES, PAPER_BATCH)
    public = public_trainee(captions, PUBLIC_ANATOMIES, 12)
    if torch.cuda.is_available():
        measure_gpu(result, public, captions, given.repeats)
    tell_cost(result, public, trainee, given.studies)
    result.finish()
    if max(errors) >= AGREEMENT:
        sys.exit(f"The two ways differ by {max(errors)}, more than {AGREEMENT}.")


def public_trainee(captions: Sequence[Sequence[str]], anatomies: tuple[str, ...], depth: int) -> FVLMTrainee:
    """The public layout with random weights, dropout off; queries are not zero, else attention is trivial."""
    torch.manual_seed(0)
    tokenizer = build_tokenizer([*_SAID, *(text for row in captions for text in row)])
    config = ModelConfig(
        anatomies=anatomies,
        depth=depth,
        levels=(3, 6, 9) if depth == 12 else tuple(range(depth - 1))[:3],
        dropout=0.0,
        text=TextConfig(vocab_size=len(tokenizer), depth=depth),
    )
    trainee = FVLMTrainee(config, tokenizer).train()
    nn.init.normal_(trainee.model.query_tokens, std=0.05)
    for part in trainee.modules():
        if isinstance(part, nn.Dropout):
            part.p = 0.0
    return trainee


def made_captions(anatomies: Sequence[str], studies: int) -> list[tuple[str, ...]]:
    """For each study and anatomy the template, or some sentences: several for the lungs, fewer for the others."""
    drawn = random.Random(0)

    def caption(name: str) -> str:
        if drawn.random() >= (0.95 if name == "lung" else 0.5):
            return _TEMPLATE.format(name)
        return " ".join(drawn.sample(_SAID, drawn.randint(3, 7) if name == "lung" else drawn.randint(1, 3)))

    return [tuple(caption(name) for name in anatomies) for _ in range(studies)]


def made_batch(captions: Sequence[tuple[str, ...]], config: ModelConfig) -> Batch:
    """Noise with an ellipsoid for each organ, all of them whole; the first is as large as the lungs."""
    generator = np.random.default_rng(0)
    shape, studies = config.image_shape, len(captions)
    z, y, x = np.ogrid[-1 : 1 : shape[0] * 1j, -1 : 1 : shape[1] * 1j, -1 : 1 : shape[2] * 1j]
    labels = np.zeros(shape, np.uint8)
    for label in range(1, len(config.anatomies) + 1):
        size = np.array([0.8, 0.7, 0.8]) if label == 1 else generator.uniform(0.1, 0.3, 3)
        cz, cy, cx = generator.uniform(-1, 1, 3) * (0.95 - size)
        labels[((z - cz) / size[0]) ** 2 + ((y - cy) / size[1]) ** 2 + ((x - cx) / size[2]) ** 2 <= 1] = label
    normal = [
        [text == _TEMPLATE.format(name) for text, name in zip(row, config.anatomies, strict=True)] for row in captions
    ]
    return Batch(
        image=torch.from_numpy(generator.random((studies, 1, *shape), dtype=np.float32)),
        labels=torch.from_numpy(labels)[None].expand(studies, -1, -1, -1).contiguous(),
        captions=tuple(captions),
        reports=tuple(" ".join(row) for row in captions),
        normal=torch.tensor(normal),
        usable=torch.ones(studies, len(config.anatomies), dtype=torch.bool),
        findings=torch.zeros(studies, 0),
    )


def compare(result: Result, name: str, trainee: FVLMTrainee, batch: Batch, repeats: int) -> float:
    """Whole steps, gradient and AdamW with a rate of 0, in turn; figures with the suffix `name`.

    Returns the greater of the differences of loss and gradient.
    """
    naive_loss = NaiveLoss(trainee.model, trainee.tokenizer)
    optimizer = torch.optim.AdamW(decay_groups(trainee, 0.01), lr=0.0, fused=True)  # as the trainer's
    plain = torch.optim.AdamW(trainee.parameters(), lr=0.0)

    def ours() -> float:
        optimizer.zero_grad(set_to_none=True)
        loss = backward(trainee, [batch], [0], Pass()).total
        optimizer.step()
        return float(loss.detach())

    def naive() -> float:
        plain.zero_grad(set_to_none=True)
        loss = naive_loss(batch)
        loss.backward()
        plain.step()
        return float(loss.detach())

    result.figures[f"ours_step{name}_tflop"] = round(counted_flops(ours) / 1e12, 3)  # warms up, too
    one, other = Timed(), Timed()
    for _ in range(repeats):
        other.run(naive, trainee)
        one.run(ours, trainee)
    result.figures[f"loss{name}"] = round(one.loss, 5)
    differs = result.figures[f"loss_difference{name}"] = abs(one.loss - other.loss)
    greatest = max(float(gradient.abs().max()) for gradient in other.gradient.values())
    apart = max(float((g - other.gradient.get(key, 0.0)).abs().max()) for key, g in one.gradient.items())
    result.figures[f"gradient_difference{name}"] = apart
    result.figures[f"gradient_greatest{name}"] = round(greatest, 5)
    naive_s, ours_s = result.add(f"naive_step{name}_s", other.wall), result.add(f"ours_step{name}_s", one.wall)
    naive_cpu = result.add(f"naive_step{name}_cpu_s", other.cpu)
    ours_cpu = result.add(f"ours_step{name}_cpu_s", one.cpu)
    result.figures[f"ratio_vs_naive{name}"] = round(naive_s / ours_s, 2)
    result.figures[f"ratio_vs_naive{name}_cpu"] = round(naive_cpu / ours_cpu, 2)
    parts = step_parts(trainee, batch)
    result.figures |= {f"{part}{name}_cpu_s": round(seconds, 3) for part, seconds in parts.items()}
    result.figures[f"ratio_vs_naive{name}_if_only_trunk"] = round(naive_cpu / parts["ours_trunk"], 2)
    lengths = [len(ids) for ids in trainee.tokenizer([text for row in batch.captions for text in row])["input_ids"]]
    result.conditions[f"caption_tokens_mean{name}"] = round(float(np.mean(lengths)), 1)
    return max(differs, apart / greatest)


def measure_gpu(result: Result, trainee: FVLMTrainee, captions: Sequence[tuple[str, ...]], repeats: int) -> None:
    """The paper's batch on one card, in bfloat16, blocks recomputed, in micro-batches; and one micro-batch naively."""
    card = torch.device("cuda")
    trainee.to(card)
    whole = made_batch(captions[:PAPER_BATCH], trainee.model.config)
    micro = [_part(whole, first, PAPER_MICRO).to(card) for first in range(0, PAPER_BATCH, PAPER_MICRO)]
    naive_loss = NaiveLoss(trainee.model, trainee.tokenizer)
    optimizer = torch.optim.AdamW(decay_groups(trainee, 0.01), lr=0.0, fused=True)

    def naive() -> float:
        optimizer.zero_grad(set_to_none=True)
        loss = naive_loss(micro[0])
        loss.backward()
        optimizer.step()
        return float(loss.detach())

    def ours(parts: Sequence[Batch]) -> Callable[[], float]:
        def step() -> float:
            optimizer.zero_grad(set_to_none=True)
            loss = backward(trainee, parts, range(len(parts)), how).total
            optimizer.step()
            return float(loss.detach())

        return step

    how = Pass(World(device=card), "bfloat16")
    slow, fast, full = Timed(), Timed(), Timed()
    for turn in range(repeats + 1):  # the first is warm-up
        for timed, step in ((slow, naive), (fast, ours(micro[:1]))):
            timed.run(step, trainee)
            if turn == 0:
                timed.wall.clear()
    result.add("gpu_naive_micro_step_s", slow.wall)
    result.add("gpu_ours_micro_step_s", fast.wall)
    result.figures["gpu_ratio_vs_naive"] = round(
        result.figures["gpu_naive_micro_step_s"] / result.figures["gpu_ours_micro_step_s"], 2
    )
    useful = counted_flops(ours(micro[:1])) * len(micro)  # of one pass: what is computed twice is no use
    recompute_blocks(trainee)
    torch.cuda.reset_peak_memory_stats()
    for _ in range(repeats + 1):
        full.run(ours(micro), trainee)
    seconds = result.add("gpu_paper_step_s", full.wall[1:])
    result.figures["gpu_samples_per_s"] = round(PAPER_BATCH / seconds, 2)
    result.figures["gpu_paper_memory_gib"] = round(torch.cuda.max_memory_allocated() / 2**30, 2)
    ceiling = next((rate for name, rate in CEILINGS.items() if name in torch.cuda.get_device_name()), None)
    if ceiling is not None:
        result.figures["gpu_share_of_bf16_ceiling"] = round(useful / seconds / ceiling, 3)


def tell_cost(result: Result, public: FVLMTrainee, measured: FVLMTrainee, studies: int) -> None:
    """GPU-hours of the 20-epoch recipe: operations worked out, and put right by the measured step's."""
    counted = result.figures["ours_step_4_anatomies_tflop"] * 1e12
    correction = counted / step_flops(measured.model.config, _recipe(studies), 1)
    per_study = correction * step_flops(public.model.config, _recipe(PAPER_BATCH), 1) / PAPER_BATCH / 1e12
    total = per_study * PAPER_BATCH * PAPER_STEPS
    share = result.figures.get("gpu_share_of_bf16_ceiling")
    origin = "measured" if share is not None else "assumed: no GPU here"
    share = ASSUMED_SHARE if share is None else share
    result.figures["counted_by_worked_out_operations"] = round(correction, 3)
    result.figures["ct_rate_exaflop"] = round(total / 1e6, 3)
    for card in ("A100", "H100"):
        hours = total * 1e12 / (CEILINGS[card] * share) / 3600
        result.figures[f"ct_rate_{card.lower()}_hours_at_share"] = round(hours, 2)
    result.conditions["ct_rate_gpu_hours"] = (
        f"{per_study:.3f} TFLOP a study * {PAPER_BATCH} studies * {PAPER_STEPS} steps / (ceiling of the card * share "
        f"{share}, {origin}) / 3600; a third more for recompute, another for micro-batches"
    )


def _recipe(studies: int) -> RecipeConfig:
    return RecipeConfig(batch=BatchConfig(size=studies, micro=studies))


def _part(batch: Batch, first: int, count: int) -> Batch:
    at = slice(first, first + count)
    return Batch(
        batch.image[at], batch.labels[at], batch.captions[at], batch.reports[at], batch.normal[at], batch.usable[at],
        batch.findings[at],
    )  # fmt: skip


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


if __name__ == "__main__":
    main()
