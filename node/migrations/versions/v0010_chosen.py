"""A job keeps which report its own takes the place of."""

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"


def upgrade() -> None:
    op.add_column("job", sa.Column("predecessor", sa.JSON(), nullable=True))
