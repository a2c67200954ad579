"""What a rule orders for a job beside destinations and release; what was segmented; who had a series read anyway."""

import sqlalchemy as sa
from alembic import op

revision = "0017"
down_revision = "0016"


def upgrade() -> None:
    op.add_column("job", sa.Column("preset", sa.String(32), nullable=False, server_default=""))
    op.add_column("job", sa.Column("profile", sa.String(8), nullable=True))
    op.add_column("job", sa.Column("shadow", sa.Boolean(), nullable=False, server_default=sa.true()))
    op.add_column("job", sa.Column("anatomies", sa.JSON(), nullable=True))
    op.add_column("job", sa.Column("later_rule", sa.String(64), nullable=False, server_default=""))
    op.add_column("job", sa.Column("forced_by", sa.String(64), nullable=False, server_default=""))
    op.add_column("job", sa.Column("forced_at", sa.DateTime(timezone=True), nullable=True))
    op.add_column("job", sa.Column("forced_why", sa.String(1000), nullable=False, server_default=""))
