"""Results know their series, so that a later report can name them as predecessor."""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"


def upgrade() -> None:
    series = sa.Column("series_instance_uid", sa.String(length=64), nullable=False, server_default="")
    op.add_column("result", series)
