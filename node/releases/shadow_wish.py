"""Whether a process that reads in shadow is wanted: looked up now and then by `node.serve`, which has no other use for
the database while it runs.
"""

import time

from sqlalchemy.exc import SQLAlchemyError

from config import Settings
from node.database import Records, open_database
from node.releases.registry import in_shadow

_EVERY_S = 2.0


class ShadowWish:
    """Remembers the last answer; while the database is away it holds."""

    def __init__(self, settings: Settings) -> None:
        self._url = settings.database
        self._wanted = False
        self._looked: float | None = None

    def is_wanted(self) -> bool:
        """A look at the database at most every two seconds, on a connection that is closed afterwards."""
        if self._looked is None or time.monotonic() - self._looked > _EVERY_S:
            engine = open_database(self._url)
            try:
                with Records(engine).reading() as session:
                    self._wanted = in_shadow(session) is not None
            except SQLAlchemyError:
                pass  # the answer stays; whoever needs the database says that it is away
            finally:
                engine.dispose()
            self._looked = time.monotonic()
        return self._wanted
