"""How far the changes of each Orthanc are followed, and which of its series a person wants read."""

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0011"


def upgrade() -> None:
    op.create_table(
        "orthanc_cursor",
        sa.Column("source", sa.String(32), primary_key=True),
        sa.Column("cursor", sa.BigInteger(), nullable=False),
        sa.Column("not_before", sa.DateTime(timezone=True), nullable=True),
        sa.Column("seen_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("reason", sa.String(40), nullable=True),
        sa.Column("detail", sa.String(1000), nullable=False),
    )
    op.create_table(
        "orthanc_wanted",
        sa.Column("id", sa.Integer(), primary_key=True),
        sa.Column("source", sa.String(32), nullable=False),
        sa.Column("orthanc_series", sa.String(44), nullable=False),
        sa.Column("waits", sa.Boolean(), nullable=False),
        sa.Column("asked_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("reason", sa.String(40), nullable=True),
        sa.Column("detail", sa.String(1000), nullable=False),
        sa.UniqueConstraint("source", "orthanc_series"),
    )
