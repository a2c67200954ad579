"""A small WordPiece vocabulary from the texts of a training set: whole words, with letters to spell any other."""

import string
from collections.abc import Iterable

from transformers import BertTokenizer

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


def build_tokenizer(texts: Iterable[str]) -> BertTokenizer:
    """A lower-casing `BertTokenizer` that knows every word of `texts` and can spell the rest."""
    splitter = BertTokenizer(vocab={word: index for index, word in enumerate(SPECIAL)}).backend_tokenizer
    words: set[str] = set()
    for text in texts:
        normal = splitter.normalizer.normalize_str(text)
        words.update(word for word, _ in splitter.pre_tokenizer.pre_tokenize_str(normal))
    letters = [*string.ascii_lowercase, *string.digits]
    pieces = [*letters, *(f"##{letter}" for letter in letters)]
    vocabulary = [*SPECIAL, *pieces, *sorted(words - set(pieces))]
    return BertTokenizer(vocab={word: index for index, word in enumerate(vocabulary)})
