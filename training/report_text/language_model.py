"""The other engine: a local language model decomposes reports; its answers are checked, the rules stand behind it."""

import hashlib
import os
import re
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from pydantic import BaseModel, ConfigDict, RootModel, ValidationError

from config import Vocabulary
from training.report_text.rules import decompose
from training.report_text.texts import AnatomyText

_WORD = re.compile(r"[a-z0-9]+")
_FAITHFUL = 0.9
"""Least share of an answer's words that the report must hold."""
_PROMPT = """\
You are a professional radiologist. Below is a CT report. For each of these anatomies that it speaks of, copy what it \
says about that anatomy, and nothing about others: {anatomies}.
Rules: sub-structures belong to their anatomy (aortic arch: aorta; jejunum: small_intestine; cecum, appendix, rectum: \
colon; splenic vein: portal_vein); pleural effusion belongs to lung; left and right of a paired organ are one entry; \
history and comparison are no findings; leave out anatomies that are not mentioned.
Answer with one JSON object only. Keys are anatomies; each value is {{"findings": text of the Findings or "", \
"impression": text of the Impression or "", "normal": true or false}}.

Report:
{report}
"""
_AGAIN = "\nYour last answer could not be used: {why}. Answer with the JSON object only.\n"


class Generator(Protocol):
    """Completes prompts; always the same way."""

    @property
    def identity(self) -> str:
        """Changes whenever the answers could: part of the key of the cache."""
        ...

    def generate(self, prompts: Sequence[str]) -> list[str]:
        """One answer a prompt, without the prompt."""
        ...


class _Entry(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    findings: str = ""
    impression: str = ""
    normal: bool


class _Answer(RootModel[dict[str, _Entry]]):
    pass


class AnswerError(ValueError):
    """The model's answer cannot be used. The text says why, in words that the model may be told."""


@dataclass(frozen=True)
class Decomposed:
    """What came out for N reports, and how."""

    texts: tuple[dict[str, AnatomyText], ...]
    """[N], as `decompose` gives them."""
    from_cache: int
    asked_again: int
    fell_back: int
    """Reports that the rules decomposed, since neither answer could be used."""


class LanguageModelEngine:
    """Decomposes reports with a generator."""

    def __init__(self, generator: Generator, vocabulary: Vocabulary, cache: Path | None = None, batch: int = 8) -> None:
        """Usable answers are kept in the folder `cache`, and hold text of the reports."""
        self._generator, self._vocabulary, self._cache, self._batch = generator, vocabulary, cache, batch
        self._names = tuple(anatomy.name for anatomy in vocabulary.anatomies)

    def decompose(self, reports: Sequence[str]) -> Decomposed:
        """Each report once; one whose answer cannot be used is asked again once, then left to the rules."""
        prompts = [_PROMPT.format(anatomies=", ".join(self._names), report=report) for report in reports]
        found: dict[int, dict[str, AnatomyText]] = {}
        for index, prompt in enumerate(prompts):
            with suppress(AnswerError, OSError, UnicodeDecodeError):  # not there, or damaged: it is asked again
                found[index] = self._read(self._kept(prompt), reports[index])
        from_cache = len(found)
        problems = self._ask({i: p for i, p in enumerate(prompts) if i not in found}, prompts, reports, found)
        again = {index: prompts[index] + _AGAIN.format(why=why) for index, why in problems.items()}
        problems = self._ask(again, prompts, reports, found)
        texts = tuple(
            found[index] if index in found else decompose(report, self._vocabulary)
            for index, report in enumerate(reports)
        )
        return Decomposed(texts, from_cache, len(again), len(problems))

    def _ask(
        self,
        wording: dict[int, str],
        prompts: Sequence[str],
        reports: Sequence[str],
        found: dict[int, dict[str, AnatomyText]],
    ) -> dict[int, str]:
        """Put usable answers into `found`; report -> why its answer cannot be used."""
        problems: dict[int, str] = {}
        for chosen in _batches(sorted(wording, key=lambda index: len(wording[index])), self._batch):
            answers = self._generator.generate([wording[index] for index in chosen])
            for index, answer in zip(chosen, answers, strict=True):
                try:
                    found[index] = self._read(answer, reports[index])
                except AnswerError as error:
                    problems[index] = str(error)
                else:
                    self._keep(prompts[index], answer)
        return problems

    def _read(self, answer: str, report: str) -> dict[str, AnatomyText]:
        """Raises AnswerError unless it is JSON by the schema, of known anatomies, in words of the report."""
        start, end = answer.find("{"), answer.rfind("}")
        try:
            entries = _Answer.model_validate_json(answer[start : end + 1]).root
        except ValidationError as error:
            raise AnswerError(f"not the JSON that was asked for ({error.errors()[0]['msg']})") from error
        if unknown := sorted(entries.keys() - set(self._names)):
            raise AnswerError(f"no such anatomy: {unknown[0]}")
        known = set(_WORD.findall(report.lower()))
        for name, entry in entries.items():
            words = _WORD.findall(f"{entry.findings} {entry.impression}".lower())
            if not words:
                raise AnswerError(f"{name} has neither findings nor impression; leave it out")
            if sum(word in known for word in words) < _FAITHFUL * len(words):
                raise AnswerError(f"the text of {name} does not stand in the report")
        return {name: _text(name, entries.get(name)) for name in self._names}

    def _file(self, prompt: str) -> Path | None:
        key = hashlib.sha256(f"{self._generator.identity}\n{prompt}".encode()).hexdigest()
        return self._cache / key[:2] / f"{key}.json" if self._cache else None

    def _kept(self, prompt: str) -> str:
        """The answer of an earlier run; "" without a cache. Raises OSError, UnicodeDecodeError."""
        file = self._file(prompt)
        return file.read_text(encoding="utf-8") if file else ""

    def _keep(self, prompt: str, answer: str) -> None:
        """Whole or not at all."""
        if file := self._file(prompt):
            file.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile("w", encoding="utf-8", dir=file.parent, delete=False) as partial:
                partial.write(answer)
            os.replace(partial.name, file)  # noqa: PTH105


def _text(name: str, entry: _Entry | None) -> AnatomyText:
    if entry is None:
        return AnatomyText(name, "", "", True)
    return AnatomyText(name, entry.findings.strip(), entry.impression.strip(), entry.normal)


def _batches(items: Sequence[int], size: int) -> Iterator[Sequence[int]]:
    return (items[first : first + size] for first in range(0, len(items), size))


class TransformersGenerator:
    """A causal language model in a local folder, greedy; nothing is downloaded and no code of the folder runs."""

    def __init__(self, folder: Path, device: str = "cpu", max_new_tokens: int = 1024) -> None:
        """Raises ValueError if there is no such model; weights must be safetensors."""
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer

        try:
            self._tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, padding_side="left")
            self._model = AutoModelForCausalLM.from_pretrained(
                folder, local_files_only=True, use_safetensors=True, dtype="auto"
            )
        except (OSError, ValueError, KeyError) as error:
            raise ValueError(
                f"{folder}: no causal language model with safetensors weights and a tokenizer ({error})"
            ) from error
        self._torch, self._max_new_tokens = torch, max_new_tokens
        self._model.to(device).eval()
        if self._tokenizer.pad_token is None:
            self._tokenizer.pad_token = self._tokenizer.eos_token
        self._context = getattr(self._model.config, "max_position_embeddings", None) or sys.maxsize
        self._identity = f"{_digest(folder)} {max_new_tokens}"

    @property
    def identity(self) -> str:
        return self._identity

    def generate(self, prompts: Sequence[str]) -> list[str]:
        """Answers; "" to a prompt that leaves no room for one in the model's context."""
        texts = [self._as_chat(prompt) for prompt in prompts]
        lengths = [len(tokens) for tokens in self._tokenizer(texts)["input_ids"]]
        fitting = [index for index, length in enumerate(lengths) if length + self._max_new_tokens <= self._context]
        answers = [""] * len(texts)
        for index, answer in zip(fitting, self._complete([texts[index] for index in fitting]), strict=True):
            answers[index] = answer
        return answers

    def _complete(self, texts: Sequence[str]) -> list[str]:
        if not texts:
            return []
        batch = self._tokenizer(list(texts), padding=True, return_tensors="pt").to(self._model.device)
        with self._torch.inference_mode():
            out = self._model.generate(
                input_ids=batch["input_ids"],
                attention_mask=batch["attention_mask"],
                do_sample=False,
                max_new_tokens=self._max_new_tokens,
                pad_token_id=self._tokenizer.pad_token_id,
            )
        new = out[:, batch["input_ids"].shape[1] :]
        return list(self._tokenizer.batch_decode(new, skip_special_tokens=True))

    def _as_chat(self, prompt: str) -> str:
        if self._tokenizer.chat_template is None:
            return prompt
        turn = [{"role": "user", "content": prompt}]
        return str(self._tokenizer.apply_chat_template(turn, tokenize=False, add_generation_prompt=True))


def _digest(folder: Path) -> str:
    """SHA-256 over names and contents of the files of a folder."""
    total = hashlib.sha256()
    for path in sorted(path for path in folder.iterdir() if path.is_file()):
        with path.open("rb") as file:
            total.update(f"{path.name} {hashlib.file_digest(file, 'sha256').hexdigest()}\n".encode())
    return total.hexdigest()
