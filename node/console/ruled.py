"""What routing rules say of the series of the last week, for the console: those in force, or others beside them.

Descriptions are shown, which may hold names; there is no JSON of it, so that they go nowhere else.
"""

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from threading import Lock

from config import Settings
from config.rules import Rules, RulesError
from node.database import Records
from node.rules.book import RulesInForce
from node.rules.facts import Facts
from node.rules.past import Judged, Past, judge_past, past
from node.rules.versions import RuleVersions, Version

_ROWS = 10
"""Series of a page: for each all headers are read, the first time."""
_REMEMBERED = 200
"""Series whose facts are kept in memory."""
_VERSIONS = 20
"""Older rules that are listed."""
_FIRST = """\
version: "1"
rules:
  - name: everything
    read:
"""
"""What an editor begins with where there are no rules: as if there were none."""


@dataclass(frozen=True)
class RuledPage:
    """One page of series, the newest first."""

    rows: list[Judged]
    page: int
    more: bool
    others: dict[int, str]
    """Series by number -> what the rules in force say, where that is something else."""


class Ruled:
    """The rules in force, and the facts of series that were looked at. From any thread."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._known: OrderedDict[int, Facts] = OrderedDict()
        self._reading = Lock()
        self._in_force = RulesInForce(settings)
        self._versions = RuleVersions(settings.data_dir)
        self.problem = ""
        """Why the newest ones are not in force."""

    @property
    def rules(self) -> Rules | None:
        """Those in force, as they are now."""
        with self._reading:
            try:
                if self._in_force.look():
                    self.problem = ""
            except RulesError as error:
                self.problem = str(error)
            return None if self._in_force.book is None else self._in_force.book.rules

    def versions(self) -> Sequence[Version]:
        """The newest of those that were ever saved."""
        try:
            found = map(self._versions.get, islice(self._versions.numbers(), _VERSIONS))
            return [one for one in found if one is not None]
        except RulesError as error:
            self.problem = str(error)
            return []

    def text(self, number: int) -> tuple[str | None, int]:
        """The rules of that number (0: those in force) as they were written, None if there are none; and the number of
        the newest ones.
        """
        newest = 0
        try:
            newest = next(iter(self._versions.numbers()), 0)
            found = self._versions.get(number or newest)
            if found is not None:
                return found.text, newest
            file = self._settings.routing.rules
            if number:
                return None, newest
            return (_FIRST if file is None else file.read_text(encoding="utf-8")), newest
        except (RulesError, OSError, UnicodeDecodeError) as error:
            self.problem = str(error)
            return _FIRST, newest

    def page(self, records: Records, page: int, rules: Rules | None = None) -> RuledPage:
        """What rules say of past series; None: those in force. Raises sqlalchemy.exc.SQLAlchemyError."""
        in_force = self.rules
        rules = rules or in_force
        if rules is None:
            return RuledPage([], page, False, {})
        week = past("last-week")
        asked = Past(week.query.offset((page - 1) * _ROWS).limit(_ROWS + 1), week.text)
        with self._reading:
            found = judge_past(records, self._settings, rules, asked, known=self._known)
            others: dict[int, str] = {}
            if in_force is not None and in_force is not rules:
                now = judge_past(records, self._settings, in_force, asked, known=self._known)
                told = {one.series_id: one.outcome for one in found}
                others = {one.series_id: one.outcome for one in now if told.get(one.series_id) != one.outcome}
            while len(self._known) > _REMEMBERED:
                self._known.popitem(last=False)
        return RuledPage(found[:_ROWS], page, len(found) > _ROWS, others)
