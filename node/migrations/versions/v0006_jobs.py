"""Jobs have a priority and a smaller configuration; how the last start of each worker went."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0003"


def upgrade() -> None:
    op.add_column("job", sa.Column("priority", sa.Integer(), nullable=False, server_default=sa.text("2")))
    op.add_column("job", sa.Column("frugal", sa.Boolean(), nullable=False, server_default=sa.false()))
    op.drop_index("ix_job_state", table_name="job")
    op.create_index("ix_job_queue", "job", ["state", "priority", "id"], unique=False)
    op.create_table(
        "worker_start",
        sa.Column("worker", sa.String(length=80), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("reason", sa.String(length=40), nullable=True),
        sa.Column("detail", sa.String(length=1000), nullable=False),
        sa.PrimaryKeyConstraint("worker"),
    )
