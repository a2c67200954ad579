"""A job waits for what an archive says of earlier readings, and keeps it; studies that a message names are fetched."""

import sqlalchemy as sa
from alembic import op

revision = "0018"
down_revision = "0017"


def upgrade() -> None:
    op.add_column("job", sa.Column("held_until", sa.DateTime(timezone=True), nullable=True))
    op.add_column("job", sa.Column("archived_prior", sa.JSON(), nullable=True))
    op.create_table(
        "pull_wish",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("source", sa.String(64), nullable=False),
        sa.Column("study_instance_uid", sa.String(64), nullable=False),
        sa.Column("token", sa.String(64), nullable=False),
        sa.Column("due_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("ended_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("reason", sa.String(40), nullable=True),
        sa.Column("detail", sa.String(1000), nullable=False),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("source", "study_instance_uid"),
    )
    op.create_index("ix_pull_wish_due", "pull_wish", ["ended_at", "due_at"])
