"""Which routing rule decided about a series; where the results of a job go, and which release reads it."""

import sqlalchemy as sa
from alembic import op

revision = "0014"
down_revision = "0013"


def upgrade() -> None:
    op.add_column("series", sa.Column("rule", sa.String(64), nullable=False, server_default=""))
    op.add_column("series", sa.Column("rules_version", sa.String(200), nullable=False, server_default=""))
    op.add_column("series", sa.Column("rules_digest", sa.String(64), nullable=False, server_default=""))
    op.add_column("series", sa.Column("rank", sa.JSON(), nullable=True))
    op.add_column("series", sa.Column("patient", sa.String(32), nullable=False, server_default=""))
    op.add_column("job", sa.Column("destinations", sa.JSON(), nullable=True))
    op.add_column("job", sa.Column("release", sa.String(300), nullable=False, server_default=""))
