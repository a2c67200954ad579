"""A job keeps of which patient it is, as a hash, when the study was made, and with which reading it is compared."""

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"


def upgrade() -> None:
    op.add_column("job", sa.Column("patient", sa.String(32), nullable=False, server_default=""))
    op.add_column("job", sa.Column("studied_at", sa.String(14), nullable=False, server_default=""))
    op.add_column("job", sa.Column("prior", sa.JSON(), nullable=True))
    op.create_index("ix_job_patient", "job", ["patient", "studied_at"])
