"""A model release on disk: a folder that is complete, checked, and known by one SHA-256.

    model.safetensors   weights, float32 or float16
    config.json         `ReleaseConfig`
    findings.json       list of `FindingConfig`
    tokenizer.json, …   the tokenizer (`fvlm.tokenizer.FILES`)
    card.md             data, metrics, intended use, licence
    SHA256SUMS          one line a file, sorted by name, as `sha256sum` writes it; its own SHA-256 is the digest

So `sha256sum -c SHA256SUMS` verifies a release and `sha256sum SHA256SUMS` prints its digest.
"""

import hashlib
import json
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import safetensors
import torch
from pydantic import TypeAdapter, ValidationError
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import BertTokenizer

from ct.anatomy import AlgorithmIdentity
from fvlm.config import FindingConfig, ReleaseConfig
from fvlm.model import FVLM
from fvlm.tokenizer import FILES as TOKENIZER_FILES
from fvlm.tokenizer import TokenizerError, load_tokenizer, save_tokenizer, tokenize

WEIGHTS, CONFIG, FINDINGS, CARD, SUMS = "model.safetensors", "config.json", "findings.json", "card.md", "SHA256SUMS"
_FINDINGS: TypeAdapter[tuple[FindingConfig, ...]] = TypeAdapter(tuple[FindingConfig, ...])


class ReleaseError(ValueError):
    """A release or checkpoint cannot be used. The text names the file, what is wrong and the cure."""


@dataclass(frozen=True)
class Release:
    """Everything of a release but the weights."""

    path: Path
    config: ReleaseConfig
    findings: tuple[FindingConfig, ...]
    tokenizer: BertTokenizer
    card: str
    digest: str
    """SHA-256 of SHA256SUMS, hex: the identity of the release."""

    @property
    def identity(self) -> AlgorithmIdentity:
        """How the release is named in every object written."""
        config = self.config
        return AlgorithmIdentity(config.name, config.version, self.digest, config.manufacturer, config.test_only)

    def tokenize(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Texts -> ids and attention mask, int64 [N, T]."""
        return tokenize(self.tokenizer, texts, self.config.model.text.max_tokens)


def save_release(
    folder: Path,
    model: FVLM,
    config: ReleaseConfig,
    findings: Iterable[FindingConfig],
    tokenizer: BertTokenizer,
    card: str,
    half: bool = False,
) -> str:
    """Write a release into a new folder and return its digest. It appears whole or not at all.

    `half` stores matrices as float16: half the size, features differ by about 1e-3.
    Raises ReleaseError if the folder exists or the parts do not fit together.
    """
    table = tuple(findings)
    _check_fit(folder, config, table, len(tokenizer))
    if model.config != config.model:
        raise ReleaseError(f"{folder}: the model was built with another configuration than config.model; pass its own")
    with _new_folder(folder) as partial:
        state = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
        if half:
            state = {name: tensor.half() if tensor.ndim > 1 else tensor for name, tensor in state.items()}
        save_file(state, partial / WEIGHTS)
        (partial / WEIGHTS).chmod(0o644)
        (partial / CONFIG).write_text(config.model_dump_json(indent=2) + "\n", encoding="utf-8")
        (partial / FINDINGS).write_bytes(_FINDINGS.dump_json(table, indent=2) + b"\n")
        (partial / CARD).write_text(card, encoding="utf-8")
        save_tokenizer(tokenizer, partial)
        return seal(partial)


def derive_release(release: Release, findings: Iterable[FindingConfig], card: str, folder: Path) -> str:
    """Write a release into a new folder with other findings and another card; returns its digest, which differs.

    Raises ReleaseError if the folder exists or the findings do not fit.
    """
    table = tuple(findings)
    _check_fit(folder, release.config, table, len(release.tokenizer))
    with _new_folder(folder) as partial:
        for file in release.path.iterdir():
            if file.name not in (FINDINGS, CARD, SUMS):
                shutil.copyfile(file, partial / file.name)
        (partial / FINDINGS).write_bytes(_FINDINGS.dump_json(table, indent=2) + b"\n")
        (partial / CARD).write_text(card, encoding="utf-8")
        return seal(partial)


@contextmanager
def _new_folder(folder: Path) -> Iterator[Path]:
    """A hidden folder that becomes `folder` at the end, or vanishes. Raises ReleaseError if there is one already."""
    if folder.exists():
        raise ReleaseError(f"{folder}: exists already; remove it or choose another folder")
    folder.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        partial.chmod(0o755)
        yield partial
        partial.rename(folder)
    except BaseException:  # an interrupt too must not leave half a release behind; it is raised again
        shutil.rmtree(partial, ignore_errors=True)
        raise


def seal(folder: Path) -> str:
    """Write SHA256SUMS over the files as they are now and return the new digest.

    Needed after a deliberate change of a release, such as new thresholds: it is another release then.
    Raises ReleaseError for missing or unknown files.
    """
    sums = _sums(folder)
    (folder / SUMS).write_text(sums, encoding="ascii")
    return hashlib.sha256(sums.encode("ascii")).hexdigest()


def read_release(path: Path) -> Release:
    """Verify a release and read all but its weights. Raises ReleaseError."""
    sums = _sums(path)
    try:
        sealed = (path / SUMS).read_text(encoding="ascii")
    except (OSError, UnicodeDecodeError) as error:
        raise ReleaseError(f"{path / SUMS}: cannot be read ({error}); copy the release again") from error
    if sealed != sums:
        changed = sorted(line.split("  ")[-1] for line in set(sealed.splitlines()) ^ set(sums.splitlines()))
        raise ReleaseError(
            f"{path}: changed since it was sealed: {', '.join(dict.fromkeys(changed)) or SUMS}; copy the release again"
        )
    try:
        config = ReleaseConfig.model_validate_json((path / CONFIG).read_bytes())
        findings = _FINDINGS.validate_json((path / FINDINGS).read_bytes())
        tokenizer = load_tokenizer(path)
        card = (path / CARD).read_text(encoding="utf-8")
    except ValidationError as error:
        lines = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
        raise ReleaseError(f"{path}: {error.title} is wrong: {lines}; mend the file and seal it again") from error
    except (OSError, UnicodeDecodeError, json.JSONDecodeError, TokenizerError) as error:
        raise ReleaseError(f"{path}: {error}") from error
    _check_fit(path, config, findings, len(tokenizer))
    return Release(path, config, findings, tokenizer, card, hashlib.sha256(sums.encode("ascii")).hexdigest())


def load_release(path: Path | str, device: str | torch.device = "cpu") -> FVLM:
    """The model of a release in eval mode, with `.release` set. On the CPU, float32 weights stay in the mapped file.

    Raises ReleaseError if a file is missing, unknown or damaged, or if parts do not fit together.
    """
    path = Path(path)
    release = read_release(path)
    try:
        state = load_file(path / WEIGHTS, device=str(device))
    except (OSError, safetensors.SafetensorError) as error:
        raise ReleaseError(f"{path / WEIGHTS}: cannot be read ({error}); copy the release again") from error
    with torch.device("meta"):
        model = FVLM(release.config.model)
    expected = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    found = {name: tuple(tensor.shape) for name, tensor in state.items()}
    if wrong := sorted(name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name)):
        raise ReleaseError(f"{path / WEIGHTS}: does not fit config.json: {', '.join(wrong)}; copy the release again")
    model.load_state_dict({name: t.float() if t.is_floating_point() else t for name, t in state.items()}, assign=True)
    model.text_encoder.make_buffers(torch.device(device))
    model.release = release
    return model.eval()


def _check_fit(path: Path, config: ReleaseConfig, findings: tuple[FindingConfig, ...], vocabulary: int) -> None:
    """ReleaseError unless findings ask known anatomies, once each, and every token has an embedding."""
    keys = [finding.finding for finding in findings]
    if twice := sorted({key for key in keys if keys.count(key) > 1}):
        raise ReleaseError(f"{path / FINDINGS}: {', '.join(twice)} stands twice; remove one")
    if unknown := sorted({f.finding for f in findings if f.anatomy not in config.model.anatomies}):
        raise ReleaseError(f"{path / FINDINGS}: {', '.join(unknown)}: no such anatomy in config.json; add or remove it")
    if vocabulary > config.model.text.vocab_size:
        raise ReleaseError(
            f"{path}: the tokenizer has {vocabulary} tokens, the model {config.model.text.vocab_size}; "
            "use the tokenizer the model was trained with"
        )


def _sums(folder: Path) -> str:
    """What SHA256SUMS must say: sorted by name, `<hex>  <name>\\n`. Raises ReleaseError."""
    if not folder.is_dir():
        raise ReleaseError(f"{folder}: no such folder; give the folder of a release")
    names = {entry.name for entry in folder.iterdir()} - {SUMS}
    required = {WEIGHTS, CONFIG, FINDINGS, CARD}
    if missing := sorted(required - names):
        raise ReleaseError(f"{folder}: not a whole release, {', '.join(missing)} missing; copy the release again")
    if unknown := sorted(names - required - set(TOKENIZER_FILES)):
        raise ReleaseError(f"{folder}: {', '.join(unknown)}: not part of a release; remove it")
    lines = []
    for name in sorted(names):
        try:
            with (folder / name).open("rb") as file:
                lines.append(f"{hashlib.file_digest(file, 'sha256').hexdigest()}  {name}\n")
        except OSError as error:
            raise ReleaseError(f"{folder / name}: cannot be read ({error}); copy the release again") from error
    return "".join(lines)
