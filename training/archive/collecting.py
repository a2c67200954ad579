"""The order of it all: find, read the drops, and then study by study: report, series, images, collection.

Each step of a study may end the process without harm: images on their way lie in the private folder and are thrown
away at the next start, a pair is in the collection whole or not at all, and the ledger is told after that.
"""

import csv
import io
import logging
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import TypeVar

from pydicom import Dataset
from tenacity import Retrying, retry_if_exception_type, stop_after_attempt, wait_random_exponential

from config import Reason
from ct import Unfit, load_volume, scan_folder, vet
from ct.volume import Volume
from training.archive import choice, deidentify, feedback
from training.archive.entries import Archive, ArchiveAwayError, CollectError, SeriesEntry, StudyEntry, word
from training.archive.identifiers import known, of_dataset
from training.archive.ledger import Ledger, State
from training.archive.pace import Pace
from training.archive.pairing import Unpaired, fits, identifier
from training.archive.pairing import choose as choose_report
from training.archive.private import TemporaryRoom, keep_the_same, open_private
from training.archive.reports import FoundReport, Unread, of_archive, of_drop
from training.archive.scrub import Scrubber
from training.archive.settings import CollectSettings
from training.collection import Collection, Pair, ReportSection, merged

_REPORT_MODALITIES = frozenset({"SR", "DOC"})
_ATTEMPTS = 3
"""Requests before an archive is taken for away."""
_REFUSALS = 3
"""Studies in a row that an archive may refuse to give before it is taken for away."""
_LANGUAGE_CHARACTERS = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ-0123456789")

_log = logging.getLogger(__name__)

T = TypeVar("T")
Update = Callable[[str, int, int | None], None]
"""Called with (step, done, total or None)."""


class _DroppedError(Exception):
    """The study is not taken."""

    def __init__(self, reason: Reason, detail: str = "") -> None:
        super().__init__(reason)
        self.reason = reason
        self.detail = detail


@dataclass(frozen=True)
class Summary:
    """What a run leaves behind, over all runs of the collection."""

    kept: int
    studies: dict[str, int]
    """Studies that were not taken, by reason."""
    reports: dict[str, int]
    """Dropped reports, by what became of them: a reason, or empty for those that fitted a study."""
    feedback: tuple[int, int]
    """Verdicts beside pairs, and such without one."""
    rows: Path
    """CSV of everything that was not taken."""
    stopped: str = ""
    """Why the run ended before everything was done; empty: it did not."""


class Collector:
    """One collection and one archive, for one run."""

    def __init__(self, settings: CollectSettings, archive: Archive, pace: Pace, update: Update) -> None:
        """Raises CollectError, CollectionError, OSError."""
        self._settings, self._archive, self._pace, self._update = settings, archive, pace, update
        self._private = settings.private_folder
        self._collection = Collection(settings.out)
        self._secret, self._ledger = open_private(self._private, settings.out)
        self._strangers = 0

    def run(self) -> Summary:
        """Go on until everything is done, or the archive is away: what is done stays, and the next run goes on.

        Raises CollectError, CollectionError, OSError.
        """
        stopped = ""
        try:
            with self._collection.writing():
                keep_the_same(self._settings, self._secret)
                self._ledger.recall(self._collection.__contains__)
                self._read_drops()
                try:
                    self._find()
                    self._collect()
                except ArchiveAwayError as away:
                    stopped = str(away)
                return self._finish(stopped)
        finally:
            self._ledger.close()

    def _read_drops(self) -> None:
        done = 0
        for where in self._settings.reports:
            for report in of_drop(where, self._settings.columns, self._ledger.has):
                done += 1
                if isinstance(report, Unread) and report.reason is Reason.NOT_A_REPORT:
                    self._strangers += 1  # images beside the reports, for example: no row each
                else:
                    self._ledger.took(report, self._secret.report(report.key))
                self._update("reading reports", done, None)

    def _find(self) -> None:
        def find() -> None:
            for done, entry in enumerate(self._archive.studies(self._settings.days), 1):
                self._ledger.found(entry, self._secret.study(entry.study_uid))
                self._update("finding studies", done, None)

        self._patiently(find)

    def _collect(self) -> None:
        studies, refused = self._ledger.open_studies(), 0
        for done, study in enumerate(studies):
            self._update("studies", done, len(studies))
            try:
                self._one(study)
                refused = 0
            except ArchiveAwayError as away:
                refused += 1
                if away.reason is not Reason.ARCHIVE_REFUSED or refused == _REFUSALS:
                    raise
                self._ledger.dropped(study.study_uid, away.reason, away.detail)
            except _DroppedError as dropped:
                self._ledger.dropped(study.study_uid, dropped.reason, dropped.detail)
            except (OSError, CollectError):
                raise
            except Exception as error:  # one study must not stop the others, and its error may name the patient
                _log.error("a study failed: %s", type(error).__name__)
                self._ledger.dropped(study.study_uid, Reason.INTERNAL, type(error).__name__)
        self._update("studies", len(studies), len(studies))

    def _one(self, study: StudyEntry) -> None:
        """Raises _DroppedError, ArchiveAwayError."""
        listed = self._patiently(lambda: self._archive.series(study.study_uid))
        report = self._report(study, [one for one in listed if one.modality in _REPORT_MODALITIES])
        if not identifier(study.patient_id):
            raise _DroppedError(Reason.NO_PATIENT_ID)
        unfit: Unfit | None = None
        for candidate in self._candidates([one for one in listed if one.modality == "CT"]):
            pair_id = self._secret.pair(candidate.entry.series_uid)
            if pair_id not in self._collection:
                try:
                    self._take(study, candidate, report, pair_id)
                except Unfit as error:
                    unfit = unfit or error
                    continue
            self._ledger.kept(study.study_uid, candidate.entry.series_uid, pair_id)
            return
        raise _DroppedError(unfit.reason if unfit else Reason.INTERNAL, unfit.detail if unfit else "")

    def _report(self, study: StudyEntry, listed: list[SeriesEntry]) -> FoundReport:
        """The one report of the study. Raises _DroppedError."""
        found, unread = list[FoundReport](), list[Reason]()
        within = timedelta(days=self._settings.issued_within_days)
        for series in listed:
            with TemporaryRoom(self._private / "incoming") as folder:
                self._fetch(series, folder, least=0)  # dose reports beside it may be refused
                read = [of_archive(file) for file in sorted(folder.iterdir())]
            found += [one for one in read if isinstance(one, FoundReport) and one.study_uid == study.study_uid]
            unread += [one.reason for one in read if isinstance(one, Unread) and one.reason is not Reason.NOT_A_REPORT]
        dropped = [one for one in self._ledger.candidates(study) if fits(one, study, within)]
        self._ledger.used(study.study_uid, [one.key for one in dropped])
        namesakes = self._ledger.namesakes(study)
        for one in dropped:
            if not one.study_uid and sum(fits(one, other, within) for other in namesakes) > 1:
                raise _DroppedError(Reason.STUDY_AMBIGUOUS)
        report = choose_report(study, [*found, *dropped], self._settings.unverified)
        if isinstance(report, Unpaired):
            nothing = report.reason is Reason.NO_REPORT and unread
            raise _DroppedError(unread[0] if nothing else report.reason)
        return report

    def _candidates(self, listed: list[SeriesEntry]) -> tuple[choice.Candidate, ...]:
        looked = list[tuple[SeriesEntry, Dataset | None]]()
        for series in listed:
            if series.instances is not None and series.instances < self._settings.min_slices:
                continue
            self._pace.wait()
            looked.append((series, self._patiently(partial(self._archive.peek, series))))
            self._pace.fetched(1)
        if listed and not looked:
            raise _DroppedError(Reason.TOO_FEW_SLICES)
        chosen = choice.choose(looked, self._settings.min_slices)
        if not chosen.candidates:
            raise _DroppedError(chosen.reason)
        return chosen.candidates

    def _take(self, study: StudyEntry, candidate: choice.Candidate, report: FoundReport, pair_id: str) -> None:
        """Fetch, de-identify, keep. Raises _DroppedError; Unfit if the series is no volume: another one may be."""
        header = candidate.header
        if identifier(word(header.get("PatientID"))) != identifier(study.patient_id):
            raise _DroppedError(Reason.MIXED_PATIENT, "the archive lists another Patient ID than the images have")
        people = report.known | of_dataset(header) | known((), (study.patient_id, study.accession))
        scrubber = Scrubber(people)
        sections = _scrubbed(report, scrubber)
        patient = identifier(study.patient_id)
        subject = deidentify.Subject(patient, self._secret, scrubber, study.day)
        with TemporaryRoom(self._private / "incoming") as folder:
            self._fetch(candidate.entry, folder, least=candidate.entry.instances or 1)
            volume = self._volume(folder)
            slices = deidentify.write(volume, header, subject, self._collection.draft(pair_id))
        split = self._secret.split(patient, self._settings.validate_share, self._settings.test_share)
        pair = Pair(
            pair_id,
            self._secret.subject(patient),
            split,
            slices,
            tuple(one.heading for one in sections),
            report.language if set(report.language) <= _LANGUAGE_CHARACTERS and len(report.language) < 16 else "",
            report.source,
            deidentify.provenance(header, subject),
        )
        self._collection.add(pair, sections)

    def _volume(self, folder: Path) -> Volume:
        """Raises Unfit."""
        scan = scan_folder(folder)
        if scan.problems:
            raise Unfit(scan.problems[0].reason, f"{len(scan.problems)} images cannot be read")
        if len(scan.series) != 1:
            raise Unfit(Reason.NOT_CT, "not one series")
        if any(choice.burned_in(file) for file in folder.iterdir()):
            raise Unfit(Reason.BURNED_IN, "not only in the image that was looked at first")
        return load_volume(vet(scan.series[0], self._settings.min_slices))

    def _fetch(self, series: SeriesEntry, folder: Path, least: int) -> None:
        """Raises _DroppedError: INCOMPLETE_FETCH."""

        def fetch() -> int:
            shutil.rmtree(folder)
            folder.mkdir()
            return self._archive.fetch(series, folder)

        self._pace.wait()
        came = self._patiently(fetch)
        self._pace.fetched(came)
        if came < least:
            raise _DroppedError(Reason.INCOMPLETE_FETCH, f"{came} of {least} images")

    def _patiently(self, request: Callable[[], T]) -> T:
        """What the archive answers, asked up to three times."""
        return Retrying(
            retry=retry_if_exception_type(ArchiveAwayError),
            stop=stop_after_attempt(_ATTEMPTS),
            wait=wait_random_exponential(multiplier=0.5, max=20),
            reraise=True,
        )(request)

    def _finish(self, stopped: str) -> Summary:
        """Feedback, rows to look at, counts."""
        within = timedelta(days=self._settings.issued_within_days)
        for report, study in self._ledger.unused():
            if fits(report, study, within):
                self._ledger.used(study.study_uid, [report.key])
        out, settings = self._settings.out, self._settings
        verdicts = (0, 0)
        if settings.feedback is not None:
            verdicts = feedback.join(settings.feedback, self._ledger, self._secret, out / "feedback.jsonl")
        rows, studies = out / "dropped.csv", dict[str, int]()
        _write_rows(rows, self._ledger)
        counts = self._ledger.counts()
        for (state, reason), count in counts.items():
            if state is not State.KEPT:
                studies[reason or "not yet done"] = count
        kept = sum(count for (state, _), count in counts.items() if state is State.KEPT)
        reports = self._ledger.report_counts()
        if self._strangers:
            reports[Reason.NOT_A_REPORT.value] = self._strangers
        return Summary(kept, studies, reports, verdicts, rows, stopped)


def _scrubbed(report: FoundReport, scrubber: Scrubber) -> tuple[ReportSection, ...]:
    """Raises _DroppedError."""
    try:
        clean = [(scrubber.scrub(title).text, scrubber.scrub(text).text) for title, text in report.sections]
    except ValueError as error:
        raise _DroppedError(Reason.REPORT_NOT_SCRUBBED, str(error)) from error
    sections = merged(clean)
    if any(scrubber.remains(f"{one.heading}\n{one.text}") for one in sections):
        raise _DroppedError(Reason.REPORT_NOT_SCRUBBED)
    if not sections:
        raise _DroppedError(Reason.REPORT_NO_TEXT)
    return sections


def _write_rows(file: Path, ledger: Ledger) -> None:
    """Without details: some quote values of headers. They are in the ledger."""
    table = io.StringIO(newline="")
    writer = csv.writer(table)
    writer.writerow(("what", "pseudonym", "reason", "meaning", "cure"))
    for one in ledger.outcomes():
        writer.writerow((one.what, one.pseudonym, one.reason.value, one.reason.meaning, one.reason.cure))
    part = file.with_suffix(".part")
    part.write_text(table.getvalue(), encoding="utf-8")
    part.replace(file)
