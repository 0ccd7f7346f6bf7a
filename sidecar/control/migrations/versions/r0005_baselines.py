"""What a rollout is compared with stays with it.

Revision ID: 0005
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("rollouts", sa.Column("baseline", sa.Text, nullable=False, server_default=""))


def downgrade() -> None:
    op.drop_column("rollouts", "baseline")
