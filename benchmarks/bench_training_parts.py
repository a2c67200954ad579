"""Where the time of a training step goes: each part alone, forth and back, ours and naively."""

import time
from collections.abc import Callable

import torch
from bench_naive_training import NaiveLoss
from torch import Tensor

from training.pretraining.batches import Batch
from training.pretraining.trainees import FVLMTrainee, texts_of_pairs


def step_parts(trainee: FVLMTrainee, batch: Batch) -> dict[str, float]:
    """CPU seconds by part; the trunk is the image encoder, on which both ways spend the same multiplications."""
    model, naive = trainee.model, NaiveLoss(trainee.model, trainee.tokenizer)
    organs = range(len(model.config.anatomies))
    with torch.no_grad():
        selected = model.select(batch.labels, model.levels)
    wanted = selected[-1].any(1)
    tokens = [level.detach().requires_grad_() for level in model.encode_tokens(batch.image, wanted)]
    parts: dict[str, Callable[[], list[Tensor]]] = {
        "ours_trunk": lambda: model.encode_tokens(batch.image, wanted),
        "ours_text": lambda: [texts_of_pairs(model, trainee.tokenizer, batch.captions, batch.usable)],
        "ours_select": lambda: model.select(batch.labels, model.levels),
        "ours_anatomies": lambda: [model.pool_tokens(tokens, selected)[0]],
        "naive_trunk": lambda: naive.tokens(batch.image),
        "naive_text": lambda: [naive.texts([row[organ] for row in batch.captions]) for organ in organs],
    }
    found = {}
    for name, part in parts.items():
        trainee.zero_grad(set_to_none=True)
        began = time.process_time()
        if results := [one for one in part() if one.requires_grad]:
            torch.autograd.backward(results, [torch.ones_like(one) for one in results])
        found[name] = time.process_time() - began
    return found
