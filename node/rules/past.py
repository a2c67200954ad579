"""What rules would say of series that are in the database already. Nothing is changed."""

import re
from collections.abc import Callable, Iterator, MutableMapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

from sqlalchemy import ColumnElement, Select, func, select
from sqlalchemy.orm import Session

from config import Reason, Settings
from config.expressions import FACTS, Values
from config.reasons import BY_RULES
from config.rule_parts import Rule
from config.rules import Rules, Said, decisive
from ct.part10 import Unfit
from node.database import Records
from node.errors import CommandError
from node.records import Embedding, Job, Series, now
from node.rules.facts import Facts, facts_of
from node.rules.judge import rank_of
from node.series_status import newest_first
from node.states import State

_RANGE = re.compile(r"(\d{4}-\d{2}-\d{2})?\.\.(\d{4}-\d{2}-\d{2})?", re.ASCII)


@dataclass(frozen=True)
class Judged:
    """What rules say of one past series. Descriptions among its values may hold names: not for logs."""

    series_id: int
    series_instance_uid: str
    study_instance_uid: str
    last_at: datetime
    values: Values
    said: tuple[Said, ...]
    """Rule by rule up to the one that fits; empty if `unfit`."""
    later: tuple[Said, ...] | None = ()
    """The same of those for after the segmentation, if it is read so far; None: it never was segmented."""
    patient: str = ""
    """As in `Facts`."""
    unfit: str = ""
    """Why it cannot be judged."""
    rank: list[float] | None = None
    better: int | None = None
    """Series of the same study, among those that were judged, that would be read instead."""
    was: str = ""
    """What became of it in truth."""

    @property
    def rule(self) -> Rule | None:
        """The rule that decides; None if none fits."""
        return decisive(self.said)

    @property
    def outcome(self) -> str:
        """What would become of it, for a person."""
        if self.unfit:
            return f"cannot be judged: {self.unfit}"
        if self.rule is None:
            return f"not read: no rule fits ({Reason.NO_RULE})"
        if self.better is not None:
            return f"not read: series {self.better} of its study is better ({Reason.NOT_BEST_SERIES})"
        if self.later is None:
            return f"{self.rule.action}; what follows the segmentation is not known, as it was never segmented"
        then = decisive(self.later)
        return self.rule.action + (f"; once segmented, rule `{then.name}`: {then.action}" if then else "")

    @property
    def described(self) -> str:
        """Its description, as far as there is one."""
        value = self.values.get("series_description")
        return ", ".join(value) if isinstance(value, tuple) else ""


@dataclass(frozen=True)
class Past:
    """The series that `on` names."""

    query: Select[Series]
    text: str


def past(on: str, at: datetime | None = None) -> Past:
    """`last-week`, `all`, DATE..DATE (either may be missing) or a series: its number or Series Instance UID.

    Raises CommandError.
    """
    moment = at or now()
    if on == "all":
        return Past(_vetted(), "every series")
    if on == "last-week":
        return Past(_vetted(Series.last_at >= moment - timedelta(days=7)), "the last seven days")
    if found := _RANGE.fullmatch(on):
        first, last = (_day(part) for part in found.groups())
        limits = [Series.last_at >= first] if first else []
        limits += [Series.last_at < last + timedelta(days=1)] if last else []
        return Past(_vetted(*limits), on)
    if re.fullmatch(r"[0-9]{1,9}", on, re.ASCII):
        return Past(_vetted(Series.id == int(on)), f"series {on}")
    if re.fullmatch(r"[0-9.]{1,64}", on, re.ASCII):
        return Past(_vetted(Series.series_instance_uid == on), f"series {on}")
    raise CommandError(
        f"--on {on[:80]!r} is not understood.", "Write last-week, all, 2026-11-01..2026-11-07, or a series."
    )


def judge_past(
    records: Records,
    settings: Settings,
    rules: Rules,
    which: Past,
    progress: Callable[[int, int], None] = lambda *_: None,
    known: MutableMapping[int, Facts] | None = None,
) -> list[Judged]:
    """What the rules say of each series, newest first; of each the newest generation that passed vetting.

    Of `best_of_study`, only series among them compete. `progress(done, total)` is called after each. `known` holds the
    facts of series (by id) that need not be read again, and gets those that were read. Raises
    sqlalchemy.exc.SQLAlchemyError.
    """
    known = {} if known is None else known
    with records.reading() as session:
        rows = session.scalars(which.query).all()
        judged = []
        for done, row in enumerate(rows, start=1):
            judged.append(_judged(session, settings, rules, row, known))
            progress(done, len(rows))
    return list(_compared(judged))


def _day(text: str | None) -> datetime | None:
    """Midnight UTC. Raises CommandError."""
    try:
        return datetime.fromisoformat(text).replace(tzinfo=UTC) if text else None
    except ValueError as error:
        raise CommandError(f"{text} is no date.", "Write it like 2026-11-30.") from error


def _vetted(*limits: ColumnElement[bool]) -> Select[Series]:
    """Series that came as far as the rules: whatever became of them then."""
    passed = (Series.state == State.VETTED) | Series.reason.in_(BY_RULES)
    newest = select(func.max(Series.id)).where(passed, *limits).group_by(Series.series_instance_uid)
    return newest_first().where(Series.id.in_(newest))


def _judged(
    session: Session, settings: Settings, rules: Rules, row: Series, known: MutableMapping[int, Facts]
) -> Judged:
    made = Judged(row.id, row.series_instance_uid, row.study_instance_uid, row.last_at, {}, (), was=_was(session, row))
    try:
        facts = known.get(row.id) or facts_of(session, row, settings.spool_dir, settings.routing)
    except Unfit as unfit:
        return replace(made, unfit=f"{unfit.reason}: {unfit.detail}")
    known[row.id] = facts
    anatomies = _segmented(session, row)
    values = facts.values if anatomies is None else {**facts.values, "anatomies": anatomies}
    made = replace(made, values=values, patient=facts.patient, said=tuple(rules.ask(values)))
    rule = made.rule
    if rule is None:
        return made
    if rule.read is not None and rules.after:
        made = replace(made, later=None if anatomies is None else tuple(rules.ask_after(values)))
    return replace(made, rank=rank_of(rule, values))


def _segmented(session: Session, row: Series) -> tuple[str, ...] | None:
    """What the last job on the series found whole; of one from before that was kept, what it read."""
    same = select(Job.id, Job.anatomies).join(Series).where(Series.series_instance_uid == row.series_instance_uid)
    for job_id, anatomies in session.execute(same.order_by(Job.id.desc())).tuples():
        read = select(Embedding.anatomy).where(Embedding.job_id == job_id).order_by(Embedding.anatomy)
        found = tuple(session.scalars(read)) if anatomies is None else tuple(anatomies)
        if found or anatomies is not None:
            return found
    return None


def _was(session: Session, row: Series) -> str:
    job = session.scalar(select(Job).where(Job.series_id == row.id).order_by(Job.id.desc()).limit(1))
    held = row if job is None else job
    return f"{held.state}" + (f" ({Reason(held.reason)})" if held.reason else "")


def _compared(judged: Sequence[Judged]) -> Iterator[Judged]:
    """With what is better in the same study, where a rule wants only the best."""
    best: dict[tuple[str, str, str], Judged] = {}
    for one in judged:
        if one.rank is not None and one.rule is not None:
            key = (one.study_instance_uid, one.patient, one.rule.name)
            former = best.setdefault(key, one)
            if (one.rank, one.series_id) < (former.rank or [], former.series_id):
                best[key] = one
    for one in judged:
        winner = one
        if one.rank is not None and one.rule is not None:
            winner = best[one.study_instance_uid, one.patient, one.rule.name]
        yield one if winner is one else replace(one, better=winner.series_id)


def as_json(one: Judged) -> dict[str, object]:
    """A judged series for `--json`."""
    return {
        "series": one.series_id,
        "series_instance_uid": one.series_instance_uid,
        "last_image": one.last_at.isoformat(),
        "outcome": one.outcome,
        "rule": one.rule.name if one.rule else None,
        "was": one.was,
        "facts": {name: FACTS[name].show(value) for name, value in one.values.items() if value is not None},
        "rules": [_told(said) for said in one.said],
        "after_segmentation": None if one.later is None else [_told(said) for said in one.later],
    }


def _told(said: Said) -> dict[str, object]:
    terms = [{"term": term.text, "value": term.value, "holds": term.truth} for term in said.trace.terms]
    return {"rule": said.rule.name, "fits": said.trace.truth, "terms": terms}
