"""`fvlm-node findings try` and `fvlm-node search`: a sentence against stored anatomy features, without the pixels."""

from dataclasses import dataclass

import numpy as np
from rich.table import Table
from sqlalchemy.orm import Session

from config import Settings
from fvlm.checkpoint import load_release
from fvlm.open_vocabulary import score, unknown_words
from fvlm.prompts import negative_of, sentence
from fvlm.release import Release, ReleaseError
from node.embeddings import Stored, load, releases_of
from node.errors import CommandError
from node.release import release_folder
from node.releases.registry import path_in_force
from node.status import open_existing


@dataclass(frozen=True)
class Question:
    """What is asked of which anatomy."""

    text: str
    """The positive prompt, as a person types it."""
    anatomy: str
    negative: str | None = None
    """None: made as the release's own prompts are (`fvlm.prompts.negative_of`)."""


@dataclass(frozen=True)
class Scored:
    """One series and the probability of the positive prompt, uncalibrated."""

    study: str
    series: str
    probability: float


@dataclass(frozen=True)
class Answer:
    """The stored series, the likeliest first, and how they were asked."""

    release: Release
    anatomy: str
    negative: str
    positive: str
    rows: tuple[Scored, ...]
    unknown: tuple[str, ...]
    """Words of the prompts that the release never learned."""


def try_finding(settings: Settings, question: Question, study: str) -> Answer:
    """Score a prompt on every series of one study. Raises CommandError."""
    return _ask(settings, question, study)


def search(settings: Settings, question: Question) -> Answer:
    """Score a prompt on everything read with the release in force, the likeliest series of each study.

    Raises CommandError.
    """
    answer = _ask(settings, question, None)
    best: dict[str, Scored] = {}
    for row in answer.rows:
        best.setdefault(row.study, row)
    return Answer(
        answer.release, answer.anatomy, answer.negative, answer.positive, tuple(best.values()), answer.unknown
    )


def answer_table(answer: Answer, top: int | None = None) -> Table:
    """The rows, at most `top`."""
    table = Table()
    for column, side in (("", "right"), ("Study", "left"), ("Series", "left"), ("Probability", "right")):
        table.add_column(column, justify="right" if side == "right" else "left", overflow="fold")
    for rank, row in enumerate(answer.rows[:top], start=1):
        table.add_row(str(rank), row.study, row.series, f"{100 * row.probability:.1f} %")
    return table


def how_asked(answer: Answer) -> list[str]:
    """What was asked of what, and what the answer is worth: lines to show above the rows."""
    config = answer.release.config
    lines = [
        f"{answer.anatomy}: {answer.positive!r} against {answer.negative!r}",
        f"by {config.name} {config.version} ({answer.release.digest[:12]}), not calibrated, no operating point"
        + (": TEST MODEL - NOT FOR CLINICAL USE" if config.test_only else ""),
    ]
    if answer.unknown:
        lines.append(f"The release never learned: {', '.join(answer.unknown)}. The score says nothing about that.")
    return lines


def _ask(settings: Settings, question: Question, study: str | None) -> Answer:
    records = open_existing(settings)
    with records.reading() as session:
        path = path_in_force(session, settings.model.release)
    try:
        model = load_release(release_folder(path))
    except ReleaseError as error:
        raise CommandError(str(error), "Name the node's configuration with --config.") from error
    release = model.release
    assert release is not None  # load_release sets it
    positive = sentence(question.text)
    negative = sentence(question.negative or "") or negative_of(positive, release.findings)
    _check(release, question.anatomy, positive)
    with records.reading() as session:
        stored = load(session, release.digest, question.anatomy, study)
        if not stored.series:
            raise _nothing(session, release, question.anatomy, study)
    probabilities = score(model, stored.features, negative, positive)
    rows = _ranked(stored, probabilities)
    return Answer(release, question.anatomy, negative, positive, rows, unknown_words(release, (positive, negative)))


def _check(release: Release, anatomy: str, positive: str) -> None:
    """Raises CommandError for an anatomy that the release does not read, and for a prompt without words."""
    names = release.config.model.anatomies
    if anatomy not in names:
        raise CommandError(f"The release reads no {anatomy!r}.", f"Choose one of: {', '.join(names)}")
    if not positive.strip(".!? "):
        raise CommandError("The prompt is empty.", 'For example: fvlm-node findings try "Pleural effusion."')


def _nothing(session: Session, release: Release, anatomy: str, study: str | None) -> CommandError:
    """Why there is nothing to score."""
    name = f"the release {release.config.name} {release.config.version} ({release.digest[:12]})"
    if study is None:
        return CommandError(
            f"No {anatomy} that {name} has read is stored.",
            "Send studies to the node; if they were read with another release, it is the one in force that is asked.",
        )
    found = releases_of(session, study)
    if found is None:
        return CommandError(f"The node knows no study {study}.", "fvlm-node search lists the studies that it has read.")
    if release.digest in found:
        return CommandError(
            f"The {anatomy} of this study was not assessed.", "Its Structured Report says why; ask another anatomy."
        )
    if found:
        others = ", ".join(digest[:12] for digest in sorted(found))
        return CommandError(
            f"This study was read with another release ({others}), not with {name}: their features do not compare.",
            "Have it read with this one: fvlm-node rerun; or send the study again.",
        )
    return CommandError(
        "Nothing is stored of this study: it was not read, or before the node kept features.",
        "See fvlm-node status; send the study again to have it read.",
    )


def _ranked(stored: Stored, probabilities: np.ndarray[tuple[int, ...], np.dtype[np.float32]]) -> tuple[Scored, ...]:
    order = np.argsort(-probabilities, kind="stable")
    rows = ((stored.series[row], float(probabilities[row])) for row in order.tolist())
    return tuple(Scored(study, series, probability) for (study, series), probability in rows)
