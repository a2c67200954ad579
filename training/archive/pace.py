"""An archive has its own work by day: images are fetched slowly, and only at night if so asked."""

import time as clock
from collections.abc import Callable
from datetime import datetime, time, timedelta

from training.archive.settings import PaceSettings


def _now() -> datetime:
    return datetime.now().astimezone()


class Pace:
    """Holds back who fetches. The first images go at once; what they cost is waited for before the next ones."""

    def __init__(
        self,
        settings: PaceSettings,
        now: Callable[[], datetime] = _now,
        sleep: Callable[[float], None] = clock.sleep,
        waiting: Callable[[datetime], None] = lambda _: None,
    ) -> None:
        """`waiting` is told until when the night is waited for."""
        self._settings, self._now, self._sleep, self._waiting = settings, now, sleep, waiting
        self._next = now()

    def wait(self) -> None:
        """Until something may be fetched."""
        moment = self._now()
        opens = self.opens(moment)
        if opens > moment:
            self._waiting(opens)
        while (moment := self._now()) < max(opens, self._next):
            self._sleep(min(60.0, (max(opens, self._next) - moment).total_seconds()))

    def fetched(self, images: int) -> None:
        """So many images have come."""
        if self._settings.images_per_second is not None:
            cost = timedelta(seconds=images / self._settings.images_per_second)
            self._next = max(self._next, self._now()) + cost

    def opens(self, moment: datetime) -> datetime:
        """When images may be fetched next: `moment` itself if it is night or there is no night."""
        first, last = self._settings.night_from, self._settings.night_to
        if first is None or last is None or _within(moment.time(), first, last):
            return moment
        opens = moment.replace(hour=first.hour, minute=first.minute, second=first.second, microsecond=0)
        return opens if opens > moment else opens + timedelta(days=1)


def _within(at: time, first: time, last: time) -> bool:
    return first <= at < last if first < last else at >= first or at < last
