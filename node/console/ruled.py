"""What the routing rules of the node say of the series of the last week, for the console.

Descriptions are shown, which may hold names; there is no JSON of it, so that they go nowhere else.
"""

from collections import OrderedDict
from dataclasses import dataclass
from threading import Lock

from config import Settings
from config.rules import Rules, RulesError
from node.database import Records
from node.rules.book import open_rulebook
from node.rules.facts import Facts
from node.rules.past import Judged, Past, judge_past, past

_ROWS = 10
"""Series of a page: for each all headers are read, the first time."""
_REMEMBERED = 200
"""Series whose facts are kept in memory."""


@dataclass(frozen=True)
class RuledPage:
    """One page of series, the newest first."""

    rows: list[Judged]
    page: int
    more: bool


class Ruled:
    """The rules that the node runs with, and the facts of series that were looked at. From any thread."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._known: OrderedDict[int, Facts] = OrderedDict()
        self._reading = Lock()
        self.rules: Rules | None = None
        self.problem = ""
        """Why there are none, though the settings name a file."""
        try:
            book = open_rulebook(settings)
        except RulesError as error:
            self.problem = str(error)
        else:
            self.rules = None if book is None else book.rules

    def page(self, records: Records, page: int) -> RuledPage:
        """Raises sqlalchemy.exc.SQLAlchemyError."""
        if self.rules is None:
            return RuledPage([], page, False)
        week = past("last-week")
        asked = Past(week.query.offset((page - 1) * _ROWS).limit(_ROWS + 1), week.text)
        with self._reading:
            found = judge_past(records, self._settings, self.rules, asked, known=self._known)
            while len(self._known) > _REMEMBERED:
                self._known.popitem(last=False)
        return RuledPage(found[:_ROWS], page, len(found) > _ROWS)
