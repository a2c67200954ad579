"""How far an engine agrees with what is known: on phantoms' reports, and on sentences that somebody annotated."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import yaml
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from config import Vocabulary
from ct.phantom import PhantomPatient, write_report
from ct.phantom.diseases import DISEASES
from ct.phantom.report import Report
from training.report_text.rules import label
from training.report_text.texts import AnatomyText, Mention

Decompose = Callable[[Sequence[str]], Sequence[Mapping[str, AnatomyText]]]
"""Reports in, what they say of each anatomy out."""
_LAYOUTS = (
    "FINDINGS:\n{findings}\n\nIMPRESSION:\n{impression}\n",
    "Findings: {findings}\nImpression: {impression}",
    "CT FINDINGS\n{findings}\nCONCLUSION\n{impression}",
    "INDICATION: Known liver tumor, rule out splenomegaly.\nTECHNIQUE: Portal venous phase.\nCOMPARISON: None.\n\n"
    "**Findings:** {findings}\n\n**Opinion:** {impression}",
    "Findings: {findings} Summary: {impression}",
    "{findings}\n\nImpression\n{impression}",
)
"""How reports are laid out; what stands in the sections that are no findings must not be taken for one."""

_AT_ONCE = 32
"""Reports that an engine is given together."""


class SentencesError(ValueError):
    """The file of annotated sentences cannot be used. The text names the file and what is wrong."""


@dataclass(frozen=True)
class Share:
    """How many of how many."""

    right: int
    total: int

    @property
    def value(self) -> float:
        return self.right / self.total if self.total else float("nan")

    def __add__(self, other: "Share") -> "Share":
        return Share(self.right + other.right, self.total + other.total)


Agreement = dict[str, Share]
"""What was compared -> share that agrees."""


def phantom_report(report: Report, layout: int) -> str:
    """A phantom's report as one text, in one of the layouts."""
    return _LAYOUTS[layout % len(_LAYOUTS)].format(findings=report.findings, impression=report.impression)


def on_phantoms(
    decompose: Decompose, vocabulary: Vocabulary, seeds: Iterable[int], progress: Callable[[int], None]
) -> Agreement:
    """Agreement with what was drawn and written; the report of each seed comes in the next layout.

    `anatomies`: findings and impression of an anatomy of the vocabulary are those that were written for it, word for
    word. `labels` are by the rules, whatever `decompose` is: a phantom's disease counts as found where it is present;
    uncertain counts as not found.
    """
    anatomies = reports = normal = found = rightly = Share(0, 0)
    for patient, written, text, said in _decomposed(decompose, seeds):
        labels, exact = label(text, vocabulary), []
        for name, one in said.items():
            truth = written.by_anatomy.get(name)
            wanted = (truth.findings, truth.impression) if truth else ("", "")
            exact.append((one.findings, one.impression) == wanted)
            normal += Share(one.normal == (truth is None or truth.normal), 1)
        anatomies += Share(sum(exact), len(exact))
        reports += Share(all(exact), 1)
        present = {key for key in DISEASES if labels[key] == Mention.PRESENT}
        found += Share(len(present & patient.keys), len(patient.keys))
        rightly += Share(len(present & patient.keys), len(present))
        progress(reports.total)
    return {
        "anatomies, text exact": anatomies,
        "reports, all anatomies exact": reports,
        "anatomies, normality": normal,
        "drawn diseases that are labelled present": found,
        "present labels that were drawn": rightly,
    }


def _decomposed(
    decompose: Decompose, seeds: Iterable[int]
) -> Iterator[tuple[PhantomPatient, Report, str, Mapping[str, AnatomyText]]]:
    """Patient, what was written of them, the whole report, and what an engine makes of it."""
    waiting = iter(seeds)
    while some := list(islice(waiting, _AT_ONCE)):
        patients = [PhantomPatient.draw(seed) for seed in some]
        written = [write_report(patient) for patient in patients]
        texts = [phantom_report(report, seed) for report, seed in zip(written, some, strict=True)]
        yield from zip(patients, written, texts, decompose(texts), strict=True)


class Annotated(BaseModel):
    """A sentence, or a few, and what they say."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    text: str = Field(min_length=1)
    normal: tuple[str, ...] = ()
    """Anatomies that are mentioned, and normal."""
    abnormal: tuple[str, ...] = ()
    present: tuple[str, ...] = ()
    absent: tuple[str, ...] = ()
    uncertain: tuple[str, ...] = ()
    """Findings by what is said of them."""


def read_sentences(path: Path, vocabulary: Vocabulary) -> tuple[Annotated, ...]:
    """A YAML list of `Annotated`. Raises SentencesError."""
    try:
        sentences = TypeAdapter(tuple[Annotated, ...]).validate_python(yaml.safe_load(path.read_text(encoding="utf-8")))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise SentencesError(f"{path}: cannot be read ({error})") from error
    except ValidationError as error:
        first = error.errors()[0]
        raise SentencesError(f"{path}: {'.'.join(map(str, first['loc']))}: {first['msg']}") from error
    anatomies, findings = {a.name for a in vocabulary.anatomies}, {f.key for f in vocabulary.findings}
    for one in sentences:
        unknown = {*one.normal, *one.abnormal} - anatomies | {*one.present, *one.absent, *one.uncertain} - findings
        if unknown:
            raise SentencesError(f"{path}: {one.text!r}: not in the vocabulary: {', '.join(sorted(unknown))}")
    return sentences


def on_sentences(decompose: Decompose, vocabulary: Vocabulary, sentences: Sequence[Annotated]) -> Agreement:
    """Agreement with annotations, each taken as a report. Findings that are not annotated are not compared."""
    anatomies = normal = labels = Share(0, 0)
    for one, said in zip(sentences, decompose([one.text for one in sentences]), strict=True):
        mentioned = {name for name, text in said.items() if text.mentioned}
        anatomies += Share(mentioned == {*one.normal, *one.abnormal}, 1)
        wanted = dict.fromkeys(one.normal, True) | dict.fromkeys(one.abnormal, False)
        normal += Share(sum(said[name].normal == value for name, value in wanted.items()), len(wanted))
        found = label(one.text, vocabulary)
        told = [(one.present, Mention.PRESENT), (one.absent, Mention.ABSENT), (one.uncertain, Mention.UNCERTAIN)]
        for keys, mention in told:
            labels += Share(sum(found[key] == mention for key in keys), len(keys))
    return {"sentences, anatomies exact": anatomies, "anatomies, normality": normal, "findings, label": labels}


def disagreements(vocabulary: Vocabulary, decompose: Decompose, sentences: Sequence[Annotated]) -> list[str]:
    """The texts that do not wholly agree."""
    return [
        one.text
        for one in sentences
        if any(share.right < share.total for share in on_sentences(decompose, vocabulary, [one]).values())
    ]
