"""A series remembers which of its images were deleted from the spool."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    op.add_column("series", sa.Column("released", sa.LargeBinary(), nullable=True))
