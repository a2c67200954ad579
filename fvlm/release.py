"""A model release on disk: a folder that is complete, checked, and known by one SHA-256. No torch.

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
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import TypeAdapter, ValidationError

from ct.anatomy import AlgorithmIdentity
from fvlm.config import FindingConfig, ReleaseConfig
from fvlm.tokenizer import FILES as TOKENIZER_FILES
from fvlm.tokenizer import TokenizerError, load_tokenizer, tokenize, vocabulary_size

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import BertTokenizer

WEIGHTS, CONFIG, FINDINGS, CARD, SUMS = "model.safetensors", "config.json", "findings.json", "card.md", "SHA256SUMS"
FINDING_TABLE: TypeAdapter[tuple[FindingConfig, ...]] = TypeAdapter(tuple[FindingConfig, ...])


class ReleaseError(ValueError):
    """A release or checkpoint cannot be used. The text names the file, what is wrong and the cure."""


@dataclass(frozen=True)
class Release:
    """Everything of a release but the weights."""

    path: Path
    config: ReleaseConfig
    findings: tuple[FindingConfig, ...]
    card: str
    digest: str
    """SHA-256 of SHA256SUMS, hex: the identity of the release."""

    @cached_property
    def tokenizer(self) -> "BertTokenizer":
        """Loaded on first use. Raises ReleaseError."""
        try:
            return load_tokenizer(self.path)
        except TokenizerError as error:
            raise ReleaseError(f"{self.path}: {error}") from error

    @property
    def identity(self) -> AlgorithmIdentity:
        """How the release is named in every object written."""
        config = self.config
        return AlgorithmIdentity(config.name, config.version, self.digest, config.manufacturer, config.test_only)

    def tokenize(self, texts: Sequence[str]) -> "tuple[Tensor, Tensor]":
        """Texts -> ids and attention mask, int64 [N, T]."""
        return tokenize(self.tokenizer, texts, self.config.model.text.max_tokens)


def derive_release(release: Release, findings: Iterable[FindingConfig], card: str, folder: Path) -> str:
    """Write a release into a new folder with other findings and another card; returns its digest, which differs.

    Raises ReleaseError if the folder exists or the findings do not fit.
    """
    table = tuple(findings)
    check_fit(folder, release.config, table, vocabulary_size(release.path))
    with new_folder(folder) as partial:
        for file in release.path.iterdir():
            if file.name not in (FINDINGS, CARD, SUMS):
                shutil.copyfile(file, partial / file.name)
        (partial / FINDINGS).write_bytes(FINDING_TABLE.dump_json(table, indent=2) + b"\n")
        (partial / CARD).write_text(card, encoding="utf-8")
        return seal(partial)


@contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
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
        findings = FINDING_TABLE.validate_json((path / FINDINGS).read_bytes())
        words = vocabulary_size(path)
        card = (path / CARD).read_text(encoding="utf-8")
    except ValidationError as error:
        lines = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
        raise ReleaseError(f"{path}: {error.title} is wrong: {lines}; mend the file and seal it again") from error
    except (OSError, UnicodeDecodeError, json.JSONDecodeError, TokenizerError) as error:
        raise ReleaseError(f"{path}: {error}") from error
    check_fit(path, config, findings, words)
    return Release(path, config, findings, card, hashlib.sha256(sums.encode("ascii")).hexdigest())


def check_fit(path: Path, config: ReleaseConfig, findings: tuple[FindingConfig, ...], vocabulary: int) -> None:
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
