"""What closed a series, how associations ended, storage commitment requests, and who was refused."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    op.add_column("series", sa.Column("signal", sa.String(length=16), nullable=True))
    op.add_column("series", sa.Column("expected", sa.Integer(), nullable=True))
    op.add_column("series", sa.Column("received", sa.Integer(), nullable=True))
    op.add_column("spool_segment", sa.Column("ending", sa.String(length=16), nullable=True))
    op.add_column("spool_segment", sa.Column("ended_at", sa.DateTime(timezone=True), nullable=True))
    op.create_table(
        "segment_series",
        sa.Column("segment", sa.String(length=80), nullable=False),
        sa.Column("series_instance_uid", sa.String(length=64), nullable=False),
        sa.PrimaryKeyConstraint("segment", "series_instance_uid"),
    )
    op.create_index(op.f("ix_segment_series_series_instance_uid"), "segment_series", ["series_instance_uid"])
    op.execute(
        "INSERT INTO segment_series (segment, series_instance_uid) SELECT DISTINCT instance.segment, "
        "series.series_instance_uid FROM instance JOIN series ON series.id = instance.series_id"
    )
    op.create_table(
        "commitment_request",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("token", sa.String(length=64), nullable=False),
        sa.Column("transaction_uid", sa.String(length=64), nullable=False),
        sa.Column("calling_ae", sa.String(length=16), nullable=False),
        sa.Column("called_ae", sa.String(length=16), nullable=False),
        sa.Column("received_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("references", sa.JSON(), nullable=False),
        sa.Column("failures", sa.JSON(), nullable=False),
        sa.Column("weighed", sa.Boolean(), nullable=False),
        sa.Column("due_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("ended_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("reason", sa.String(length=40), nullable=True),
        sa.Column("detail", sa.String(length=1000), nullable=False),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("token"),
    )
    op.create_index("ix_commitment_request_due", "commitment_request", ["ended_at", "due_at"])
    op.create_index(op.f("ix_commitment_request_calling_ae"), "commitment_request", ["calling_ae"])
    op.create_table(
        "knock",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("calling_ae", sa.String(length=16), nullable=False),
        sa.Column("called_ae", sa.String(length=16), nullable=False),
        sa.Column("host", sa.String(length=64), nullable=False),
        sa.Column("reason", sa.String(length=40), nullable=False),
        sa.Column("count", sa.Integer(), nullable=False),
        sa.Column("first_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("last_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("calling_ae", "called_ae", "host", "reason"),
    )
