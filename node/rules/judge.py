"""What the rules make of the series that wait for a job: read, skip, or wait for the rest of their study.

Nothing is written here. What was decided stands in the database before the next pass, so that a decision that a crash
cut short is simply made again.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime

import structlog
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from config import Priority, Reason, Settings
from config.expressions import Values, evaluate
from config.rule_parts import Rule
from ct.part10 import Unfit
from node.orders import Orders
from node.pseudonyms import Pseudonyms
from node.records import Job, Series
from node.rules.book import Rulebook
from node.rules.facts import facts_of
from node.states import State

_log = structlog.get_logger(__name__)

_AT_ONCE = 32
"""Series whose images are read in one pass; the others have their turn in the next."""


@dataclass(frozen=True)
class Decision:
    """What becomes of one VETTED series."""

    series_id: int
    to: State = State.QUEUED
    """QUEUED: it is read. REJECTED, SUPERSEDED. VETTED: it waits for the rest of its study."""
    reason: Reason | None = None
    detail: str = ""
    rule: str = ""
    """Name of the rule that decided; empty: none."""
    version: str = ""
    digest: str = ""
    """Of the rules file."""
    priority: Priority | None = None
    """None: what the settings say of its sender."""
    orders: Orders = field(default_factory=Orders)
    release_digest: str = ""
    """Of a release that the rule names."""
    rank: list[float] | None = None
    patient: str = ""
    """Keyed hash: a study is one patient's, whatever a sender that re-uses UIDs makes of it."""
    together: frozenset[int] = frozenset()
    """Series that were decided about at once: if one of them is no longer what it was, nothing of it holds."""
    beaten: tuple[int, ...] = ()
    """Jobs of worse series of the study; those that still wait are not worked on any more."""


@dataclass(frozen=True)
class _Ruling:
    """What the rules say of one series for itself."""

    rule: Rule | None
    rank: list[float] | None = None
    patient: str = ""
    """Keyed hash, where only the best series of a study is wanted."""
    unfit: Unfit | None = None


def rank_of(rule: Rule, values: Values) -> list[float] | None:
    """How good a series is where the rule wants the best of a study, smallest first; None: it wants all.

    What `prefer` says, then the thinnest slices, then the most.
    """
    if rule.prefer is None:
        return None
    preferred = {True: 0.0, None: 1.0, False: 2.0}[evaluate(rule.prefer, values).truth]
    thickness = values.get("slice_thickness") or values.get("spacing")
    slices = values.get("slices")
    return [
        preferred,
        thickness if isinstance(thickness, float) else float("1e9"),
        -slices if isinstance(slices, float) else 0.0,
    ]


class Judge:
    """Applies one rulebook, pass after pass. One thread."""

    def __init__(self, book: Rulebook, settings: Settings, clock: Callable[[], float] = time.monotonic) -> None:
        """`clock`: seconds, never goes back; a study's quiet is counted on it from when this judge saw it."""
        self._book, self._settings, self._clock = book, settings, clock
        self._known: dict[int, _Ruling] = {}
        """Of series that wait: their images are read once."""
        self._seen: dict[str, tuple[datetime, float]] = {}
        """Study -> when its last image came, and when that was seen first by the clock."""

    def decisions(self, session: Session, waiting: Sequence[Series]) -> list[Decision]:
        """A decision for each series of `waiting` (VETTED, without a job) whose turn it is."""
        self._known = {row.id: self._known[row.id] for row in waiting if row.id in self._known}
        for row in [row for row in waiting if row.id not in self._known][:_AT_ONCE]:
            self._known[row.id] = self._ruling(session, row)
        unread = {row.study_instance_uid for row in waiting if row.id not in self._known}
        made: list[Decision] = []
        studies: dict[tuple[str, str, str], list[Series]] = {}
        for row in waiting:
            if row.id not in self._known:
                continue
            ruling = self._known[row.id]
            if ruling.rule is not None and ruling.rule.best is not None:
                key = (row.study_instance_uid, ruling.patient, ruling.rule.name)
                studies.setdefault(key, []).append(row)
            else:
                made.append(self._alone(row))
        self._seen = {uid: seen for uid, seen in self._seen.items() if uid in {study for study, _, _ in studies}}
        for (study, _, _), rows in studies.items():
            made += self._of_study(session, rows, study in unread)
        return made

    def _ruling(self, session: Session, series: Series) -> _Ruling:
        try:
            facts = facts_of(session, series, self._settings.spool_dir, self._settings.routing)
            rule = self._book.rules.decide(facts.values)
            if rule is None or rule.best is None:
                return _Ruling(rule)
            patient = Pseudonyms(self._settings.data_dir).of(facts.patient)
            return _Ruling(rule, rank_of(rule, facts.values), patient)
        except Unfit as unfit:
            return _Ruling(None, unfit=unfit)
        except Exception as error:  # one series must not stop the only coordinator
            _log.exception("unexpected_error", series=series.id)
            return _Ruling(None, unfit=Unfit(Reason.INTERNAL, f"its facts cannot be read ({type(error).__name__})"))

    def _alone(self, series: Series) -> Decision:
        ruling = self._known[series.id]
        rules, rule = self._book.rules, ruling.rule
        made = Decision(series.id, version=rules.version, digest=rules.digest, together=frozenset({series.id}))
        if ruling.unfit is not None:
            return replace(made, to=State.REJECTED, reason=ruling.unfit.reason, detail=ruling.unfit.detail)
        if rule is None:
            detail = f"none of the {len(rules.rules)} rules fits (version {rules.version})"
            return replace(made, to=State.REJECTED, reason=Reason.NO_RULE, detail=detail)
        made = replace(made, rule=rule.name, rank=ruling.rank, patient=ruling.patient)
        if rule.read is None:
            detail = f"rule `{rule.name}`: {rule.skip}"
            return replace(made, to=State.REJECTED, reason=Reason.SKIPPED_BY_RULE, detail=detail)
        read = rule.order
        return replace(
            made,
            priority=Priority.named(read.priority) if read.priority else None,
            orders=replace(Orders().changed(read), release=read.release),
            release_digest=self._book.digests.get(read.release, ""),
        )

    def _of_study(self, session: Session, rows: list[Series], unread: bool) -> Iterator[Decision]:
        """The decisions on the series of one study that one rule wants only the best of.

        `unread`: the images of another one of its series have not been looked at yet.
        """
        study, ruling = rows[0].study_instance_uid, self._known[rows[0].id]
        rule = ruling.rule
        assert rule is not None
        assert rule.best is not None
        made = {row.id: self._alone(row) for row in rows}
        if self._is_open(session, study, rule.best.wait_s) or unread:
            yield from (replace(one, to=State.VETTED, together=frozenset()) for one in made.values())
            return
        newest: dict[str, Series] = {}
        for row in sorted(rows, key=lambda row: row.generation):
            newest[row.series_instance_uid] = row
        together = frozenset(made)
        for row in rows:
            if newest[row.series_instance_uid] is not row:
                detail = "a newer generation came before the study was complete"
                yield replace(made[row.id], to=State.SUPERSEDED, detail=detail, together=together)
        chosen = _chosen(session, study, ruling.patient, rule.name, newest)
        ranks = {row.id: self._known[row.id].rank or [] for row in newest.values()}
        ranks |= {series.id: series.rank or [] for series, _ in chosen}
        best = min(ranks, key=lambda series_id: (ranks[series_id], series_id))
        detail = f"rule `{rule.name}`: series {best} of the study is read ({_described(ranks[best])})"
        for row in newest.values():
            if row.id == best:
                beaten = tuple(job.id for _, job in chosen)
                yield replace(made[row.id], together=together, beaten=beaten)
            else:
                reason = Reason.NOT_BEST_SERIES
                yield replace(made[row.id], to=State.REJECTED, reason=reason, detail=detail, together=together)

    def _is_open(self, session: Session, study: str, wait_s: float) -> bool:
        """Whether images of a study may still come: a series of it is not closed, or it was not quiet for so long."""
        of_study = Series.study_instance_uid == study
        coming = select(Series.id).where(of_study, Series.state.in_((State.RECEIVING, State.COMPLETE))).limit(1)
        last_at = session.scalar(select(func.max(Series.last_at)).where(of_study))
        moment = self._clock()
        seen = self._seen.get(study)
        if seen is None or seen[0] != last_at:
            assert last_at is not None
            seen = self._seen[study] = (last_at, moment)
        return session.scalar(coming) is not None or moment - seen[1] < wait_s


def _chosen(session: Session, study: str, patient: str, rule: str, pending: Iterable[str]) -> list[tuple[Series, Job]]:
    """Series of a patient's study that were chosen by a rule before, with their jobs; none of those that come again, or
    that a person has read against the rule."""
    query = (
        select(Series, Job)
        .join(Job)
        .where(Series.study_instance_uid == study, Series.rule == rule, Job.state != State.SUPERSEDED)
        .where(Series.patient == patient, Series.series_instance_uid.not_in(list(pending)), Job.forced_by == "")
    )
    return [(series, job) for series, job in session.execute(query).tuples() if series.rank is not None]


def _described(rank: list[float]) -> str:
    """Why a series is the best, for a person."""
    preferred, thickness, slices = rank
    told = {0.0: "preferred", 1.0: "not known whether preferred"}.get(preferred, "not preferred")
    return f"{told}, {thickness:g} mm, {-slices:g} slices"
