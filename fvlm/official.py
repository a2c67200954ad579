"""Import of the authors' public checkpoint (`model.pth`) as a release.

The file is a dict whose entry "model" holds tensors under the names that `FVLM` uses. Nothing is skipped silently:
entries that carry no function are known by name, any other difference is an error that lists them.
"""

import hashlib
import pickle
import zipfile
from collections.abc import Collection, Mapping
from pathlib import Path

import torch
from torch import Tensor

from config import Preset, load_vocabulary
from config.vocabulary import VocabularyError, read_preset
from fvlm.checkpoint import save_release
from fvlm.config import FindingConfig, ModelConfig, ReleaseConfig
from fvlm.model import FVLM
from fvlm.preprocess import PROTOCOLS
from fvlm.release import ReleaseError
from fvlm.tokenizer import TokenizerError, load_tokenizer

WITHOUT_FUNCTION = frozenset(
    {
        "image_queue",
        "text_queue",
        "queue_ptr",
        "text_encoder.embeddings.position_ids",
        "text_encoder.cls.predictions.bias",
        "text_encoder.cls.predictions.decoder.weight",
        "text_encoder.cls.predictions.decoder.bias",
        "text_encoder.cls.predictions.transform.dense.weight",
        "text_encoder.cls.predictions.transform.dense.bias",
        "text_encoder.cls.predictions.transform.LayerNorm.weight",
        "text_encoder.cls.predictions.transform.LayerNorm.bias",
    }
)
"""Entries that may be there and change no feature: queues of an older trainer, the unused MLM head, a counter."""

_CARD = """# {name} {version}

Imported from `{file}` (SHA-256 {digest}).

- Source: public checkpoint of "Large-scale and fine-grained vision-language pre-training for enhanced CT image
  understanding" (arXiv 2501.14548, ICLR 2025), trained by its authors on CT-RATE.
- Anatomies: {anatomies}. Findings: {findings}, zero-shot, without operating points.
- Metrics on your scanner: unknown until you measure them.
- Licence: the authors state none for the weights. CT-RATE is CC BY-NC-SA: clear the rights before any clinical or
  commercial use.
"""


def import_official(checkpoint: Path, tokenizer_dir: Path, out: Path, preset: str | Path = "ct-rate") -> str:
    """Turn the authors' `model.pth` and the folder of its CXR-BERT tokenizer into a release; returns its digest.

    `preset` names anatomies, prompts and preprocessing: one of the vocabulary's, or a YAML file with one entry of
    the same form. Its anatomies must be those of the checkpoint in their order (the file does not name them).
    Raises ReleaseError listing every entry that does not fit.
    """
    family = _preset(preset)
    protocol = PROTOCOLS[family.protocol]
    try:
        tokenizer = load_tokenizer(tokenizer_dir)
    except TokenizerError as error:
        raise ReleaseError(str(error)) from error
    config = ModelConfig(anatomies=family.anatomies, image_shape=protocol.image_shape)
    if len(tokenizer) != config.text.vocab_size:
        raise ReleaseError(
            f"{tokenizer_dir}: {len(tokenizer)} tokens instead of {config.text.vocab_size}; "
            "give the folder of microsoft/BiomedVLP-CXR-BERT-specialized"
        )
    state = official_state(_load(checkpoint), config, checkpoint)
    with checkpoint.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    release = ReleaseConfig(
        name="fVLM",
        version=f"{family.name}-{digest[:8]}",
        manufacturer="Alibaba DAMO Academy",
        model=config,
        preprocess=protocol.preprocess,
    )
    with torch.device("meta"):
        model = FVLM(config)
    model.load_state_dict(state, assign=True)
    card = _CARD.format(
        name=release.name,
        version=release.version,
        file=checkpoint.name,
        digest=digest,
        anatomies=", ".join(family.anatomies),
        findings=len(family.prompts),
    )
    return save_release(out, model, release, map(FindingConfig.of, family.prompts), tokenizer, card)


def _preset(preset: str | Path) -> Preset:
    """Raises ReleaseError."""
    try:
        if str(preset).endswith((".yaml", ".yml")):
            return read_preset(Path(preset))
        return load_vocabulary().preset(str(preset))
    except KeyError as error:
        raise ReleaseError(f"{error.args[0]}; choose one of them, or name a YAML file with your own") from error
    except VocabularyError as error:
        raise ReleaseError(str(error)) from error


def official_state(loaded: object, config: ModelConfig, source: Path) -> dict[str, Tensor]:
    """The state dict of `FVLM(config)` out of a loaded checkpoint, float32. Raises ReleaseError naming `source`."""
    state = loaded.get("model") if isinstance(loaded, Mapping) else None
    if not isinstance(state, Mapping):
        raise ReleaseError(f'{source}: no entry "model"; give the authors\' model.pth')
    with torch.device("meta"):
        expected = FVLM(config).state_dict()
    queries = state.get("query_tokens")
    if isinstance(queries, Tensor) and queries.ndim == 2 and len(queries) != len(config.anatomies):
        raise ReleaseError(
            f"{source}: the checkpoint has {len(queries)} anatomies, the preset {len(config.anatomies)} "
            f"({', '.join(config.anatomies)}); choose or write a preset with its anatomies in its order"
        )
    taken, problems = fitted(state, expected, WITHOUT_FUNCTION)
    if problems:
        raise ReleaseError(f"{source}: not the public fVLM layout: {'; '.join(problems)}; download it again")
    return taken


def _load(checkpoint: Path) -> object:
    """`torch.load` of tensors and plain containers only; no code of the file runs."""
    try:
        mapped = zipfile.is_zipfile(checkpoint)
        return torch.load(checkpoint, map_location="cpu", weights_only=True, mmap=mapped)
    except FileNotFoundError as error:
        raise ReleaseError(f"{checkpoint}: no such file; give the authors' model.pth") from error
    except pickle.UnpicklingError as error:
        reason = str(error).splitlines()[0] if str(error) else "damaged"
        raise ReleaseError(
            f"{checkpoint}: holds more than weights, or is damaged ({reason}); it was not opened. Download it again"
        ) from error
    except (OSError, EOFError, RuntimeError, ValueError, KeyError) as error:
        raise ReleaseError(f"{checkpoint}: not a PyTorch checkpoint ({error}); download it again") from error


def fitted(
    given: Mapping[str, object], expected: Mapping[str, Tensor], ignored: Collection[str] = ()
) -> tuple[dict[str, Tensor], list[str]]:
    """Of given weights what fits the expected names and shapes, as float32, and what does not fit, a phrase each.

    Names in `ignored` may be there without being expected.
    """
    problems = []
    if missing := sorted(expected.keys() - given.keys()):
        problems.append(f"missing: {', '.join(missing)}")
    if unknown := sorted(str(key) for key in given.keys() - expected.keys() - set(ignored)):
        problems.append(f"unknown: {', '.join(unknown)}")
    taken: dict[str, Tensor] = {}
    for name in sorted(expected.keys() & given.keys()):
        tensor, want = given[name], tuple(expected[name].shape)
        if not isinstance(tensor, Tensor) or tuple(tensor.shape) != want:
            found = tuple(tensor.shape) if isinstance(tensor, Tensor) else type(tensor).__name__
            problems.append(f"{name} is {found}, expected {want}")
        elif not torch.isfinite(tensor).all():
            problems.append(f"{name} has values that are not finite")
        else:
            taken[name] = tensor.float()
    return taken, problems
