"""The anatomy features of every series read."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    op.create_table(
        "embedding",
        sa.Column("release_digest", sa.String(length=64), nullable=False),
        sa.Column("anatomy", sa.String(length=40), nullable=False),
        sa.Column("job_id", sa.Integer(), nullable=False),
        sa.Column("feature", sa.LargeBinary(), nullable=False),
        sa.ForeignKeyConstraint(["job_id"], ["job.id"]),
        sa.PrimaryKeyConstraint("release_digest", "anatomy", "job_id"),
        sqlite_with_rowid=False,
    )
    op.create_index(op.f("ix_embedding_job_id"), "embedding", ["job_id"], unique=False)
