"""`fvlm-node clean`: deletes what every destination keeps; `--dry-run` says what would go, and why the rest stays."""

from collections.abc import Iterator, Sequence
from datetime import timedelta

from config import Settings
from node import retention
from node.database import Records
from node.records import now
from node.result_retention import Candidate, asked_by, old_results, remove_results


def clean(records: Records, settings: Settings, older_than: int | None = None) -> Iterator[str]:
    """Delete; a line for people on each kind. `older_than`: days, None takes those of the settings.

    Raises OSError, sqlalchemy.exc.DBAPIError.
    """
    images, results = _ages(settings, older_than)
    segments = retention.release_segments(records, settings.spool_dir, now() - images, asked_by(settings))
    yield f"{len(segments)} spool segments deleted"
    removed = remove_results(records, settings, now() - results)
    yield f"results of {len(removed)} jobs deleted ({_size(removed)})"


def dry_run(records: Records, settings: Settings, older_than: int | None = None) -> Iterator[str]:
    """What `clean` would delete and what not, each with bytes and reason; nothing is changed."""
    images, results = _ages(settings, older_than)
    with records.reading() as session:
        segments = retention.segment_candidates(session, settings.spool_dir, now() - images, asked_by(settings))
        files = [candidate for _, candidate in old_results(session, settings, now() - results)]
    for candidate in [*segments, *files]:
        verdict = f"stays: {candidate.why}" if candidate.why else "would go"
        yield f"{candidate.what}  {candidate.bytes:,} bytes  {verdict}"
    for kind, candidates in (("spool segments", segments), ("jobs' results", files)):
        going = [candidate for candidate in candidates if not candidate.why]
        staying = [candidate for candidate in candidates if candidate.why]
        yield f"{kind}: {len(going)} would go ({_size(going)}), {len(staying)} stay ({_size(staying)})"


def _ages(settings: Settings, older_than: int | None) -> tuple[timedelta, timedelta]:
    kept = settings.retention
    images, results = (kept.images_days, kept.results_days) if older_than is None else (older_than, older_than)
    return timedelta(days=images), timedelta(days=results)


def _size(candidates: Sequence[Candidate]) -> str:
    return f"{sum(candidate.bytes for candidate in candidates):,} bytes"
