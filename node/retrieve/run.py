"""Fetches one study for a person: which way, with a progress bar, and known errors as one line."""

from rich.console import Console
from sqlalchemy.exc import DBAPIError

from config import Settings
from config.settings import Source
from ct.part10 import is_uid
from node.database import Records
from node.errors import CommandError
from node.folder_scan import progress_bar
from node.node_lock import node_runs
from node.retrieve.plan import Retrieved, RetrieveError
from node.status import open_existing


def pull_study(settings: Settings, study: str, name: str) -> Retrieved:
    """Fetch the CT series of a study from a source of the settings. Raises CommandError."""
    source = settings.sources.get(name)
    if source is None or not (source.dicomweb_url or source.host):
        raise CommandError(
            f"{name} is no source with an address.", "Give it `dicomweb_url`, or `host` and `port`, under `sources`."
        )
    if not is_uid(study):
        raise CommandError(f"{study} is no UID.", "Give the Study Instance UID.")
    records = open_existing(settings)
    if not source.dicomweb_url and source.retrieve == "c-move" and not node_runs(settings.data_dir):
        raise CommandError(
            "The node does not run, so nobody takes what C-MOVE sends.", "Start it (fvlm-node serve), or use c-get."
        )
    return _pull(settings, records, name, source, study)


def _pull(settings: Settings, records: Records, name: str, source: Source, study: str) -> Retrieved:
    """Raises CommandError."""
    if source.dicomweb_url:
        from node.retrieve.dicomweb import pull as fetch
    else:
        from node.retrieve.dimse import pull as fetch
    console = Console(stderr=True)
    try:
        with progress_bar(console) as bar:
            task = bar.add_task("images", total=None)
            return fetch(
                settings, records, name, source, study, lambda done, all: bar.update(task, completed=done, total=all)
            )
    except RetrieveError as error:
        raise CommandError(
            f"{name}: {error}.", "Mend it, and give the command again: it goes on where it was."
        ) from error
    except DBAPIError as error:
        raise CommandError(
            f"The database does not answer ({type(error.orig).__name__}).", "Check database_url, then try again."
        ) from error
    except OSError as error:
        raise CommandError(
            f"The spool cannot be written: {error.strerror or type(error).__name__}.", "Free its disk, then try again."
        ) from error
