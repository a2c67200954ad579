"""`fvlm-node train text-agreement`: an engine chosen, compared, shown."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from rich.table import Table

from config import load_vocabulary
from training.report_text.agreement import on_phantoms, on_sentences, read_sentences
from training.report_text.language_model import LanguageModelEngine, TransformersGenerator
from training.report_text.rules import decompose
from training.report_text.texts import AnatomyText


def table(
    seeds: range,
    sentences: Path | None,
    model: Path | None,
    cache: Path | None,
    device: str,
    progress: Callable[[int], None],
) -> Table:
    """The shares that agree: on annotated sentences if a file is given, else on the phantoms of `seeds`.

    Raises ValueError if the file or the model cannot be used.
    """
    vocabulary = load_vocabulary()
    annotated = read_sentences(sentences, vocabulary) if sentences else None
    engine = LanguageModelEngine(TransformersGenerator(model, device), vocabulary, cache) if model else None
    fell_back = 0

    def by_engine(reports: Sequence[str]) -> Sequence[Mapping[str, AnatomyText]]:
        nonlocal fell_back
        if engine is None:
            return [decompose(report, vocabulary) for report in reports]
        done = engine.decompose(reports)
        fell_back += done.fell_back
        return done.texts

    if annotated is not None:
        agreement = on_sentences(by_engine, vocabulary, annotated)
    else:
        agreement = on_phantoms(by_engine, vocabulary, seeds, progress)
    shown = Table(title=f"{sentences}" if sentences else f"{len(seeds)} phantom reports", box=None)
    shown.add_column("What")
    shown.add_column("Agree", justify="right")
    shown.add_column("%", justify="right")
    for what, share in agreement.items():
        shown.add_row(what, f"{share.right} of {share.total}", f"{100 * share.value:.2f}")
    if engine is not None:
        shown.add_row("reports left to the rules", str(fell_back), "")
    return shown
