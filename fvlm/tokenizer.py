"""WordPiece tokens of prompts and reports: `vocab.txt` or `tokenizer.json` in, id tensors out."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import BertTokenizer  # over a second, and only needed where text is encoded

FILES = ("vocab.txt", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")
"""Files a tokenizer may have; one of the first two is needed."""


class TokenizerError(ValueError):
    """The tokenizer's files are missing or damaged. The text names the cure."""


def vocabulary_size(folder: Path) -> int:
    """How many tokens the tokenizer of a folder knows, without loading it. Raises TokenizerError."""
    source = _source(folder)
    try:
        if source.name == "vocab.txt":
            return len(set(source.read_text(encoding="utf-8").splitlines()))
        content = json.loads(source.read_bytes())
        return len(content["model"]["vocab"].keys() | {token["content"] for token in content["added_tokens"]})
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise _damaged(source, error) from error


def load_tokenizer(folder: Path) -> "BertTokenizer":
    """The lower-casing WordPiece tokenizer of a folder. Nothing is downloaded and no code of the folder runs.

    Raises TokenizerError.
    """
    from transformers import BertTokenizer

    source = _source(folder)
    try:
        if source.name == "vocab.txt":
            words = source.read_text(encoding="utf-8").splitlines()
            return BertTokenizer(vocab={word: index for index, word in enumerate(words)})
        return BertTokenizer.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise _damaged(source, error) from error


def _source(folder: Path) -> Path:
    """The file that holds the vocabulary. Raises TokenizerError."""
    for name in FILES[:2]:
        if (folder / name).is_file():
            return folder / name
    raise TokenizerError(f"{folder}: neither vocab.txt nor tokenizer.json; copy the tokenizer's files there")


def _damaged(source: Path, error: Exception) -> TokenizerError:
    return TokenizerError(f"{source}: not a tokenizer ({error}); copy the file again")


def save_tokenizer(tokenizer: "BertTokenizer", folder: Path) -> None:
    """Write `tokenizer.json` and `tokenizer_config.json`, the same bytes whatever was tokenized before."""
    tokenizer.backend_tokenizer.no_padding()
    tokenizer.backend_tokenizer.no_truncation()
    tokenizer.save_pretrained(folder)


def tokenize(tokenizer: "BertTokenizer", texts: Sequence[str], max_tokens: int) -> "tuple[Tensor, Tensor]":
    """Texts -> ids and attention mask, int64 [N, T], padded at the end to the longest, cut at `max_tokens`."""
    batch = tokenizer(list(texts), padding=True, truncation=True, max_length=max_tokens, return_tensors="pt")
    return batch["input_ids"], batch["attention_mask"]
