"""The same numbers as the authors' code, at full size (ViT-B and BERT-base), through the public API.

`golden/fvlm_parity.json` holds what the reference computed on the tensors of `golden/deterministic.py`. Here those
weights are written as a file of the public layout, imported, loaded and run. Each mistake that is easy to make in
the architecture must fall out of the tolerance, or the fixture would prove nothing.
"""

import importlib.util
import json
import subprocess
import sys
import zlib
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from fvlm import FVLM, load_release
from fvlm.config import ModelConfig
from fvlm.model import tokens_of_anatomies
from training.objective import AnatomyPairs, anatomy_losses
from training.phantom_data import touches_border

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]  # about 25 s of CPU; a busy machine takes long

GOLDEN = Path(__file__).parent / "golden"
TOLERANCE = 1e-5
"""Of features, probabilities and losses; measured 4e-7. The mistakes below are off by 6e-4 and more."""
ANATOMIES = ("lung", "heart", "esophagus", "aorta")


def _deterministic() -> ModuleType:
    spec = importlib.util.spec_from_file_location("deterministic", GOLDEN / "deterministic.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@dataclass
class Case:
    """One image of the fixture with the tokens of every block, computed once."""

    expected: dict[str, Any]
    image: Tensor
    labels: Tensor
    blocks: list[Tensor]
    final: Tensor
    features: Tensor
    """[A, E] of the public `anatomy_features`."""
    present: Tensor


@dataclass
class Parity:
    model: FVLM
    golden: dict[str, Any]
    cases: list[Case]
    text: dict[str, Tensor]
    """Finding -> features [2, E] of its negative and positive prompt."""

    def features(self, case: Case, levels: tuple[int, ...] = (3, 6, 9)) -> Tensor:
        tokens = [case.blocks[level] for level in levels] + [case.final]
        return self.model.pool_anatomies(tokens, case.labels)[0][0]

    def error(self, case: Case, features: Tensor) -> float:
        """Greatest difference of an anatomy feature from the reference."""
        expected = case.expected["anatomy_features"]
        return max(
            float((features[ANATOMIES.index(name)] - torch.tensor(row)).abs().max()) for name, row in expected.items()
        )

    def probability_error(self, case: Case, features: Tensor) -> float:
        expected = case.expected["probabilities"]
        errors = []
        for anatomy, finding, _, _ in self.golden["prompts"]:
            if finding in expected:
                p = self.model.probabilities(features[ANATOMIES.index(anatomy)], *self.text[finding])
                errors.append(abs(float(p.detach()) - expected[finding]))
        assert len(errors) == len(expected)
        return max(errors)


@pytest.fixture(scope="module")
def parity(tmp_path_factory: pytest.TempPathFactory) -> Parity:
    deterministic, folder = _deterministic(), tmp_path_factory.mktemp("parity")
    golden = json.loads((GOLDEN / "fvlm_parity.json").read_text(encoding="utf-8"))
    seed = golden["seed"]
    with torch.device("meta"):
        shapes = {name: tuple(t.shape) for name, t in FVLM(ModelConfig(anatomies=ANATOMIES)).state_dict().items()}
    state = {name: torch.from_numpy(deterministic.parameter(name, shape, seed)) for name, shape in shapes.items()}
    state["temp"] = state["temp"].reshape(())
    state |= {"image_queue": torch.zeros(256, 0), "text_queue": torch.zeros(256, 0), "queue_ptr": torch.zeros(1)}
    state["text_encoder.cls.predictions.decoder.weight"] = state["text_encoder.embeddings.word_embeddings.weight"]
    state["text_encoder.cls.predictions.decoder.bias"] = torch.zeros(30522)
    state["text_encoder.embeddings.position_ids"] = torch.arange(512)[None]
    torch.save({"model": state, "epoch": 19, "config": {"run": {"seed": 42}}}, folder / "model.pth")
    del state
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *(f"w{n}" for n in range(5, 30522))]
    (folder / "vocab.txt").write_text("\n".join(words) + "\n", encoding="utf-8")
    command = [sys.executable, "-m", "node", "model", "import", folder / "model.pth"]
    done = subprocess.run(
        [*command, "--tokenizer", folder, "--out", folder / "release"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    (folder / "model.pth").unlink()
    model = load_release(folder / "release")
    for file in (folder / "release").iterdir():  # the mapped weights live until the model goes
        file.unlink()
    assert model.release is not None
    assert f"digest {model.release.digest}" in done.stdout
    assert len(model.release.findings) == 16

    recorded: list[Tensor] = []
    hooks = [
        block.register_forward_hook(lambda _module, _input, out: recorded.append(out))
        for block in model.visual_encoder.blocks
    ]
    cases, text = [], {}
    with torch.inference_mode():
        for expected in golden["cases"]:
            recorded.clear()
            shape = tuple(expected["shape"])
            image = torch.from_numpy(deterministic.image("image", shape, seed))[None, None]
            boxes = {int(label): box for label, box in expected["ellipsoids"].items()}
            labels = torch.from_numpy(deterministic.ellipsoids(shape, boxes))[None]
            features, present = model.anatomy_features(image, labels)
            model.visual_encoder.blocks[-1](recorded[-1])  # whole: above it was asked for the organs' tokens only
            final = model.visual_encoder.norm(recorded[-1])
            cases.append(Case(expected, image, labels, list(recorded), final, features[0], present[0]))
        for _, finding, *prompts in golden["prompts"]:
            rows = []
            for prompt in prompts:
                ids = torch.tensor([golden["token_ids"][prompt]])
                rows.append(model.text_features(ids, torch.ones_like(ids))[0])
            text[finding] = torch.stack(rows)
    for hook in hooks:
        hook.remove()
    return Parity(model, golden, cases, text)


def test_image_side(parity: Parity) -> None:
    """Both window sizes: the trained grid, and one whose positions are interpolated and that lacks an organ."""
    for case in parity.cases:
        present = [name for name, found in zip(ANATOMIES, case.present, strict=True) if found]
        assert present == list(case.expected["anatomy_features"])
        assert parity.error(case, case.features) < TOLERANCE
        assert parity.probability_error(case, case.features) < TOLERANCE
    assert [case.image.shape[3] for case in parity.cases] == [256, 288]


def test_tokens(parity: Parity) -> None:
    for case in parity.cases:
        probe = case.expected["final_tokens_probe"]
        torch.testing.assert_close(case.final[0, 0, :8], torch.tensor(probe["first"]), atol=TOLERANCE, rtol=0)
        torch.testing.assert_close(case.final[0, -1, -8:], torch.tensor(probe["last"]), atol=TOLERANCE, rtol=0)
        levels = [case.blocks[level] for level in (3, 6, 9)] + [case.final]
        for level, (mean, std, *_) in zip(levels, case.expected["level_probe"], strict=True):
            assert float(level.mean()) == pytest.approx(mean, abs=TOLERANCE)
            assert float(level.std()) == pytest.approx(std, abs=TOLERANCE)


def test_text_side(parity: Parity) -> None:
    for finding, rows in parity.golden["text_features"].items():
        torch.testing.assert_close(parity.text[finding], torch.tensor(rows), atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("levels", [(3, 6), (6, 9), (2, 5, 8), (4, 7, 10)])
def test_wrong_levels_are_seen(parity: Parity, levels: tuple[int, ...]) -> None:
    with torch.inference_mode():
        for case in parity.cases:
            assert parity.error(case, parity.features(case)) < TOLERANCE
            assert parity.error(case, parity.features(case, levels)) > 10 * TOLERANCE


def test_a_raw_last_level_is_seen(parity: Parity) -> None:
    case = parity.cases[0]
    tokens = [case.blocks[level] for level in (3, 6, 9, 11)]
    with torch.inference_mode():
        assert parity.error(case, parity.model.pool_anatomies(tokens, case.labels)[0][0]) > 10 * TOLERANCE


def test_mean_pooling_is_seen(parity: Parity) -> None:
    """Averaging the organ's tokens instead of attending to them."""
    case, model = parity.cases[0], parity.model
    with torch.inference_mode():
        chosen = tokens_of_anatomies(case.labels, model.config.patch, 4).repeat(1, 1, 4)[0]
        tokens = torch.cat([*(case.blocks[level] for level in (3, 6, 9)), case.final], 1)[0]
        width = model.config.width
        weight, bias = model.attention.in_proj_weight[-width:], model.attention.in_proj_bias[-width:]
        rows = []
        for organ in range(4):
            value = weight @ tokens[chosen[organ]].mean(0) + bias
            feature = model.vision_projs[organ](model.attention.out_proj(value))
            rows.append(feature / feature.norm())
    assert parity.error(case, torch.stack(rows)) > 10 * TOLERANCE


def test_a_mask_pooled_by_mean_is_seen(parity: Parity) -> None:
    """A token of an organ only where the organ fills half of it, instead of any voxel."""
    case, model = parity.cases[0], parity.model
    patch = model.config.patch
    with torch.inference_mode():
        masks = torch.stack([(case.labels == organ + 1).float() for organ in range(4)], 1)
        selected = F.avg_pool3d(masks, patch, patch).flatten(2) > 0.5
        tokens = torch.cat([*(case.blocks[level] for level in (3, 6, 9)), case.final], 1)
        pooled = model.attention(model.query_tokens, tokens, selected.repeat(1, 1, 4))[0]
        rows = [F.normalize(project(row), dim=-1) for project, row in zip(model.vision_projs, pooled, strict=True)]
    assert parity.error(case, torch.stack(rows)) > 10 * TOLERANCE


def test_swapped_queries_and_projections_are_seen(parity: Parity) -> None:
    case, model = parity.cases[0], parity.model
    right = model.query_tokens
    try:
        model.query_tokens = torch.nn.Parameter(right.detach()[[1, 0, 3, 2]])
        with torch.inference_mode():
            assert parity.error(case, parity.features(case)) > 10 * TOLERANCE
    finally:
        model.query_tokens = right
    with torch.inference_mode():
        assert parity.error(case, parity.features(case)[[1, 0, 3, 2]]) > 10 * TOLERANCE


def test_a_wrong_temperature_is_seen(parity: Parity) -> None:
    case, right = parity.cases[0], parity.model.temp
    try:
        parity.model.temp = torch.nn.Parameter(1 / right.detach(), requires_grad=False)
        assert parity.probability_error(case, case.features) > 10 * TOLERANCE
    finally:
        parity.model.temp = right


def test_token_types_would_be_seen(parity: Parity) -> None:
    """A BERT that adds a row of token types to every token (as the stock one does) is not this one."""
    words = parity.model.text_encoder.embeddings.word_embeddings
    finding = parity.golden["prompts"][0][1]
    ids = torch.tensor([parity.golden["token_ids"]["Emphysema."]])
    kind = torch.randn(768, generator=torch.Generator().manual_seed(0)) * 0.02
    hook = words.register_forward_hook(lambda _module, _ids, embedded: embedded + kind)
    try:
        with torch.inference_mode():
            row = parity.model.text_features(ids, torch.ones_like(ids))[0]
    finally:
        hook.remove()
    assert float((row - torch.tensor(parity.golden["text_features"][finding][1])).abs().max()) > 10 * TOLERANCE


def _token_ids(text: str) -> Tensor:
    """The fixture's stand-in for a tokenizer: words of the lower-cased text, each numbered by its CRC-32."""
    return torch.tensor([[2, *(1000 + zlib.crc32(word.encode()) % 28000 for word in text.lower().split()), 3]])


def test_training_losses(parity: Parity) -> None:
    """Three patients: an organ that touches the window's face, normal-normal pairs, equal captions, an organ that
    nobody has ill. The reference encodes what follows the normal template and still counts the sample as normal."""
    for text, ids in parity.golden["token_ids"].items():
        assert _token_ids(text).tolist() == [ids]
    deterministic, golden = _deterministic(), parity.golden["objective"]
    shape, seed = tuple(parity.golden["cases"][0]["shape"]), parity.golden["seed"]
    features, usable, texts, normal = [], [], [], []
    with torch.inference_mode():
        for patient, boxes in enumerate(golden["ellipsoids"]):
            image = torch.from_numpy(deterministic.image(f"train{patient}", shape, seed))[None, None]
            boxes = {int(label): box for label, box in boxes.items()}
            labels = torch.from_numpy(deterministic.ellipsoids(shape, boxes))[None]
            features.append(parity.model.anatomy_features(image, labels)[0][0])
            usable.append(~touches_border(labels, len(ANATOMIES))[0])
            for organ in ANATOMIES:
                template = f"{organ} shows no significant abnormalities."
                caption = golden["captions"][organ][patient]
                said = caption.removeprefix(template) or template
                ids = _token_ids(said)
                texts.append(parity.model.text_features(ids, torch.ones_like(ids))[0])
                normal.append(caption.startswith(template))
    captions = [golden["captions"][organ][patient] for patient in range(3) for organ in ANATOMIES]
    number = torch.tensor([captions.index(caption) for caption in captions]).view(3, 4)
    pairs = AnatomyPairs(
        torch.stack(features),
        torch.stack(texts).view(3, 4, -1),
        torch.stack(usable),
        torch.tensor(normal).view(3, 4),
        number,
    )
    losses = anatomy_losses(pairs, parity.model.temp)
    found = {f"{ANATOMIES[k]}_itc": float(losses.each[k].detach()) for k in range(4) if losses.counted[k]}
    assert found == pytest.approx(golden["losses"], abs=TOLERANCE)
    assert float(losses.total.detach()) == pytest.approx(golden["total"], abs=TOLERANCE)
    for wrong in (
        replace(pairs, usable=torch.ones_like(pairs.usable)),
        replace(pairs, normal=torch.zeros_like(pairs.normal)),
    ):
        total = float(anatomy_losses(wrong, parity.model.temp).total.detach())
        assert abs(total - golden["total"]) > 10 * TOLERANCE
