"""Decomposition by a language model: good answers, bad ones, the cache; and a real, tiny one that knows nothing."""

import json
import string
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from typer.testing import CliRunner, Result

from config import load_vocabulary
from training.cli import app
from training.report_text import decompose
from training.report_text.language_model import LanguageModelEngine, TransformersGenerator

VOCABULARY = load_vocabulary()
REPORTS = (
    "Findings: Emphysema. No pleural effusion.\nImpression: Emphysema.",
    "Findings: The liver is unremarkable. Gallstones.\nImpression: Cholelithiasis.",
)
ANSWERS = (
    {"lung": {"findings": "Emphysema. No pleural effusion.", "impression": "Emphysema.", "normal": False}},
    {
        "liver": {"findings": "The liver is unremarkable.", "impression": "", "normal": True},
        "gallbladder": {"findings": "Gallstones.", "impression": "Cholelithiasis.", "normal": False},
    },
)


class Scripted:
    """Answers each report with the next of its answers."""

    def __init__(self, *answers: Sequence[object], identity: str = "scripted") -> None:
        self.identity = identity
        self.asked: list[str] = []
        self._answers = [list(entry) for entry in answers]

    def generate(self, prompts: Sequence[str]) -> list[str]:
        self.asked += prompts
        found = []
        for prompt in prompts:
            index = next(index for index, report in enumerate(REPORTS) if report in prompt)
            answer = self._answers[index].pop(0)
            found.append(answer if isinstance(answer, str) else f"Sure:\n```json\n{json.dumps(answer)}\n```")
        return found


def test_good_answers(tmp_path: Path) -> None:
    engine = LanguageModelEngine(Scripted([ANSWERS[0]], [ANSWERS[1]]), VOCABULARY, tmp_path)
    done = engine.decompose(REPORTS)
    assert (done.from_cache, done.asked_again, done.fell_back) == (0, 0, 0)
    assert list(done.texts[0]) == [anatomy.name for anatomy in VOCABULARY.anatomies]
    for report, texts in zip(REPORTS, done.texts, strict=True):
        assert texts == decompose(report, VOCABULARY)


def test_answers_are_kept_by_prompt_and_model(tmp_path: Path) -> None:
    first = LanguageModelEngine(Scripted([ANSWERS[0]], [ANSWERS[1]]), VOCABULARY, tmp_path).decompose(REPORTS)
    silent = Scripted([], [])
    again = LanguageModelEngine(silent, VOCABULARY, tmp_path).decompose(REPORTS)
    assert again.texts == first.texts
    assert (again.from_cache, silent.asked) == (2, [])
    other = Scripted([ANSWERS[0]], [ANSWERS[1]], identity="another model")
    assert LanguageModelEngine(other, VOCABULARY, tmp_path).decompose(REPORTS).from_cache == 0
    assert len(other.asked) == 2


def test_a_damaged_file_of_the_cache_is_asked_again(tmp_path: Path) -> None:
    LanguageModelEngine(Scripted([ANSWERS[0]], []), VOCABULARY, tmp_path).decompose(REPORTS[:1])
    (file,) = tmp_path.rglob("*.json")
    for damage in (b"{", b"\xff\xfe"):
        file.write_bytes(damage)
        done = LanguageModelEngine(Scripted([ANSWERS[0]], []), VOCABULARY, tmp_path).decompose(REPORTS[:1])
        assert (done.from_cache, done.fell_back) == (0, 0)
        assert file.read_bytes() != damage


def entry(findings: str, **more: object) -> dict[str, object]:
    return {"findings": findings, "impression": "", "normal": True} | more


@pytest.mark.parametrize(
    ("bad", "why"),
    [
        ("I am sorry.", "not the JSON"),
        ('{"lung": {"findings": "Emphysema."', "not the JSON"),
        ({"lung": {"findings": "Emphysema."}}, "Field required"),
        ({"lung": entry("Emphysema.", normal="yes")}, "valid boolean"),
        ({"lung": entry("Emphysema.", laterality="left")}, "Extra inputs"),
        ({"hand": entry("Emphysema.")}, "no such anatomy: hand"),
        ({"lung": entry("A large mass of the left upper lobe.")}, "does not stand in the report"),
        ({"lung": entry("")}, "leave it out"),
    ],
)
def test_a_bad_answer_is_asked_again_once_then_left_to_the_rules(bad: object, why: str, tmp_path: Path) -> None:
    script = Scripted([bad, ANSWERS[0]], [ANSWERS[1]])
    done = LanguageModelEngine(script, VOCABULARY, tmp_path).decompose(REPORTS)
    assert (done.asked_again, done.fell_back) == (1, 0)
    assert why in script.asked[-1]
    assert done.texts[0]["lung"].findings == "Emphysema. No pleural effusion."

    stubborn = Scripted([bad, bad], [ANSWERS[1]], identity="stubborn")
    done = LanguageModelEngine(stubborn, VOCABULARY, tmp_path).decompose(REPORTS)
    assert (done.asked_again, done.fell_back, len(stubborn.asked)) == (1, 1, 3)
    assert done.texts[0] == decompose(REPORTS[0], VOCABULARY)
    assert done.texts[1]["gallbladder"].impression == "Cholelithiasis."


@pytest.fixture
def tiny_model(tmp_path: Path) -> Path:
    """A causal language model of random weights that spells letters."""
    letters = ["<end>", "<unknown>", *string.printable]
    tokenizer = Tokenizer(models.WordLevel({letter: i for i, letter in enumerate(letters)}, "<unknown>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    wrapped = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<end>", unk_token="<unknown>")
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(letters), hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=2, max_position_embeddings=4096, eos_token_id=0, bos_token_id=0,
    )  # fmt: skip
    folder = tmp_path / "model"
    LlamaForCausalLM(config).save_pretrained(folder)
    wrapped.save_pretrained(folder)
    return folder


def test_a_real_model_that_knows_nothing(tiny_model: Path) -> None:
    generator = TransformersGenerator(tiny_model, max_new_tokens=8)
    done = LanguageModelEngine(generator, VOCABULARY, batch=2).decompose(REPORTS)
    assert (done.asked_again, done.fell_back) == (2, 2)
    assert list(done.texts) == [decompose(report, VOCABULARY) for report in REPORTS]


def test_generation_is_batched_and_always_the_same(tiny_model: Path) -> None:
    generator = TransformersGenerator(tiny_model, max_new_tokens=8)
    prompts = ["The lungs are clear.", "No."]
    together = generator.generate(prompts)
    assert together == [generator.generate([prompt])[0] for prompt in prompts]
    assert all(together)
    assert generator.identity == TransformersGenerator(tiny_model, max_new_tokens=8).identity
    assert generator.identity != TransformersGenerator(tiny_model, max_new_tokens=9).identity


def test_a_report_longer_than_the_context_is_left_to_the_rules(tiny_model: Path) -> None:
    generator = TransformersGenerator(tiny_model, max_new_tokens=8)
    long = "Emphysema. " * 500
    done = LanguageModelEngine(generator, VOCABULARY).decompose([long])
    assert done.fell_back == 1
    assert done.texts[0] == decompose(long, VOCABULARY)
    assert generator.generate(["No.", long])[1] == ""


def test_agreement_from_the_command_line(tiny_model: Path, tmp_path: Path) -> None:
    def run(*arguments: str) -> Result:
        return CliRunner().invoke(app, ["text-agreement", *arguments], env={"COLUMNS": "120"})

    done = run("--reports", "4", "--first", "7")
    assert done.exit_code == 0
    assert "reports, all anatomies exact" in done.output
    assert "4 of 4" in done.output
    mine = tmp_path / "mine.yaml"
    mine.write_text('- {text: "Emphysema.", abnormal: [lung], present: [lung.emphysema]}')
    done = run("--sentences", str(mine), "--model", str(tiny_model), "--cache", str(tmp_path / "cache"))
    assert done.exit_code == 0, done.output
    assert "1 of 1" in done.output
    assert done.output.split("reports left to the rules")[1].split()[0] == "1"
    for wrong in (("--sentences", str(tmp_path / "none.yaml")), ("--model", str(tmp_path))):
        assert run(*wrong, "--reports", "1").exit_code == 2


def test_no_model(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no causal language model"):
        TransformersGenerator(tmp_path)
