"""Deliveries know of commitment; requests for it, circuit breakers and removed result files have a place."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    op.add_column("result", sa.Column("removed_at", sa.DateTime(timezone=True), nullable=True))
    op.add_column("delivery", sa.Column("asked", sa.Boolean(), nullable=False, server_default=sa.false()))
    op.add_column("delivery", sa.Column("ask_at", sa.DateTime(timezone=True), nullable=True))
    op.add_column("delivery", sa.Column("asks", sa.Integer(), nullable=False, server_default=sa.text("0")))
    op.add_column("delivery", sa.Column("lost", sa.Integer(), nullable=False, server_default=sa.text("0")))
    op.add_column("delivery", sa.Column("committed_at", sa.DateTime(timezone=True), nullable=True))
    op.add_column("delivery", sa.Column("committed_by", sa.String(length=16), nullable=False, server_default=""))
    op.add_column("delivery", sa.Column("commitment_reason", sa.String(length=40), nullable=True))
    op.add_column("delivery", sa.Column("commitment_detail", sa.String(length=1000), nullable=False, server_default=""))
    op.create_index("ix_delivery_ask", "delivery", ["ask_at"], unique=False)
    op.create_table(
        "commitment_transaction",
        sa.Column("transaction_uid", sa.String(length=64), nullable=False),
        sa.Column("job_id", sa.Integer(), nullable=False),
        sa.Column("destination", sa.String(length=64), nullable=False),
        sa.Column("asked_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("answered_at", sa.DateTime(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(["job_id"], ["job.id"]),
        sa.PrimaryKeyConstraint("transaction_uid"),
    )
    op.create_index(op.f("ix_commitment_transaction_job_id"), "commitment_transaction", ["job_id"], unique=False)
    op.create_table(
        "breaker",
        sa.Column("destination", sa.String(length=64), nullable=False),
        sa.Column("failures", sa.Integer(), nullable=False),
        sa.Column("since", sa.DateTime(timezone=True), nullable=False),
        sa.Column("next_attempt_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("probing", sa.Boolean(), nullable=False),
        sa.Column("reason", sa.String(length=40), nullable=True),
        sa.Column("detail", sa.String(length=1000), nullable=False),
        sa.PrimaryKeyConstraint("destination"),
    )
