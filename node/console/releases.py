"""Which release reads, which one reads in shadow, and what was done with them."""

from node.console.queries import Queries
from node.console.views import ReleaseDeed, Releases, ReleaseView
from node.releases.standing import history, standing

_DEEDS = 50


def releases(queries: Queries) -> Releases:
    """Raises sqlalchemy.exc.SQLAlchemyError."""
    with queries.records.reading() as session:
        found, deeds = standing(session, queries.settings), history(session, _DEEDS)
    return Releases(
        releases=[
            ReleaseView(
                digest=row.digest,
                name=row.name,
                test_only=row.test_only,
                state=row.state,
                since=row.since,
                at_work=row.at_work,
            )
            for row in found.releases
        ],
        shadow=found.shadow,
        told=found.lines(),
        deeds=[
            ReleaseDeed(at=row.at, digest=row.digest, action=row.action, done_by=row.done_by, why=row.why)
            for row in deeds
        ],
    )
