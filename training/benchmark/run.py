"""The whole benchmark: patients, stem, every method with every seed, figures. What is done is not done again."""

import json
import platform
from dataclasses import asdict
from pathlib import Path

import torch
from transformers import BertTokenizer

from fvlm.cells import Cells
from training.benchmark.data import Done, Scans, prepare
from training.benchmark.encode import Encoded, encode
from training.benchmark.figures import Figures, figures
from training.benchmark.learn import Answers, Ground, Stages, Update, answers
from training.benchmark.sections import SectionLesson
from training.benchmark.size import TEST_SEED, TRAIN_SEED, VALIDATION_SEED, Size
from training.benchmark.stem import StemLesson
from training.benchmark.trainees import METHODS, State
from training.pretrain import Recipe
from training.pretrain import fit as teach
from training.vocabulary_text import build_tokenizer


def run(out: Path, size: Size, processes: int, stages: Stages, device: torch.device) -> Figures:
    """Compute what is missing in `out` and give the figures. Raises ValueError if `out` belongs to another size."""
    ground = prepared(out, size, processes, stages, device)
    found: dict[str, list[Answers]] = {method: [] for method in METHODS}
    for seed in size.seeds:
        for method in METHODS:
            with stages(f"{method}, seed {seed}") as update:
                found[method].append(answers(ground, out / "runs", method, seed, update))
    return figures(
        {method: [each.test for each in rows] for method, rows in found.items()},
        {method: [each.validation for each in rows] for method, rows in found.items()},
        ground.test.scans.truth,
        ground.validation.scans.truth,
        {method: [each.seconds for each in rows] for method, rows in found.items()},
    )


def prepared(out: Path, size: Size, processes: int, stages: Stages, device: torch.device) -> Ground:
    """Patients, stem and text side, from `out` as far as they are there. Raises ValueError as `run`."""
    out.mkdir(parents=True, exist_ok=True)
    _claim(out / "size.json", size)
    sets = {
        "train": range(TRAIN_SEED, TRAIN_SEED + size.patients),
        "validation": range(VALIDATION_SEED, VALIDATION_SEED + size.validation),
        "test": range(TEST_SEED, TEST_SEED + size.test),
    }
    scans: dict[str, Scans] = {}
    for name, seeds in sets.items():
        with stages(f"patients: {name}") as update:
            scans[name] = prepare(out / "data" / name, seeds, processes, _counted(update))
    tokenizer = build_tokenizer(text for case in scans["train"].cases for text in (*case.captions, case.report))
    stem = _stem(out / "stem", size, scans["train"], len(tokenizer), stages)
    texts = _texts(out / "text", size, scans["train"], tokenizer, stages)
    encoded: dict[str, Encoded] = {}
    for name, data in scans.items():
        with stages(f"stem: {name}") as update:
            encoded[name] = encode(
                stem,
                size.model(len(tokenizer)),
                data,
                out / "data" / name,
                _counted(update),
            )
    return Ground(size, **encoded, tokenizer=tokenizer, texts=texts, device=device)


def _counted(update: Update) -> Done:
    """For work that has no loss."""
    return lambda done, total: update(done, total, None)


def _claim(file: Path, size: Size) -> None:
    """The folder belongs to one size; seeds may be added to it."""
    wanted = {name: value for name, value in json.loads(json.dumps(asdict(size))).items() if name != "seeds"}
    if not file.is_file():
        file.write_text(json.dumps(wanted, indent=1), encoding="utf-8")
        return
    found = json.loads(file.read_text(encoding="utf-8"))
    if other := [f"{name} {found.get(name)}" for name in wanted if found.get(name) != wanted[name]]:
        raise ValueError(f"{file.parent} belongs to a run of another size ({', '.join(other)}); choose another --out")


def _stem(folder: Path, size: Size, data: Scans, words: int, stages: Stages) -> Cells:
    torch.manual_seed(0)
    lesson = StemLesson(size.model(words), data)
    with stages("stem") as update:
        recipe = Recipe("stem", size.stem_steps, batch=8, peak_lr=4e-3, seed=0)
        done = teach(lesson, len(data), recipe, folder, lambda step, loss: update(step, size.stem_steps, loss))
    return done.cells


def _texts(folder: Path, size: Size, data: Scans, tokenizer: BertTokenizer, stages: Stages) -> State:
    """The text side's weights."""
    torch.manual_seed(0)
    lesson = SectionLesson(size.model(len(tokenizer)), tokenizer, data.cases)
    with stages("text") as update:
        recipe = Recipe("text", size.text_steps, batch=min(64, len(data)), peak_lr=4e-3, seed=0)
        teach(lesson, len(data), recipe, folder, lambda step, loss: update(step, size.text_steps, loss))
    return {name: rows for name, rows in lesson.model.state_dict().items() if name.startswith("text_")}


def machine() -> str:
    """Where the figures were computed, for the page."""
    return f"{platform.machine()}, {torch.get_num_threads()} thread(s), PyTorch {torch.__version__}"
