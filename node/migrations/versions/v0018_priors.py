"""A job waits for what an archive says of earlier readings, and keeps it; studies that a message names are fetched."""

import sqlalchemy as sa
from alembic import op

revision = "0018"
down_revision = "0016"


def upgrade() -> None:
    op.add_column("job", sa.Column("held_until", sa.DateTime(timezone=True), nullable=True))
    op.add_column("job", sa.Column("archived_prior", sa.JSON(), nullable=True))
