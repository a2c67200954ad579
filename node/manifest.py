"""The node says to itself which images a series has that it is about to fetch, as an archive does by IAN.

So the series is closed as soon as all of them are indexed, and not before, however long fetching takes; a crash in
between changes nothing.
"""

import hashlib
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from node.announced import Named, RefusedError
from node.announced_files import AnnouncementFiles


def announce(spool_dir: Path, source: str, calling_ae: str, series_uid: str, images: Iterable[str]) -> None:
    """Durably, before anything is fetched. `images`: SOP Instance UIDs. The same list again is told once.

    Raises OSError.
    """
    uids = tuple(sorted(set(images)))
    digest = hashlib.sha256("\n".join((source, series_uid, *uids)).encode()).hexdigest()
    with suppress(RefusedError):  # it was told before
        AnnouncementFiles(spool_dir).create_notification(digest, calling_ae, {series_uid: Named(uids)})
