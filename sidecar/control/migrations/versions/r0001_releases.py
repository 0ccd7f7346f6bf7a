"""Contents, releases, their entries and signatures, and the keys that sign.

Revision ID: 0001
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "contents",
        sa.Column("sha256", sa.String(64), primary_key=True),
        sa.Column("canonical", sa.LargeBinary, nullable=False),
    )
    op.create_table(
        "releases",
        sa.Column("namespace", sa.String(253), primary_key=True),
        sa.Column("version", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("floor", sa.BigInteger, nullable=False),
        sa.Column("issued", sa.BigInteger, nullable=False),
        sa.Column("manifest", sa.LargeBinary, nullable=False),
    )
    op.create_table(
        "entries",
        sa.Column("namespace", sa.String(253), primary_key=True),
        sa.Column("version", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("kind", sa.String(64), primary_key=True),
        sa.Column("name", sa.String(253), primary_key=True),
        sa.Column("sha256", sa.String(64), sa.ForeignKey("contents.sha256"), nullable=False),
        sa.ForeignKeyConstraint(
            ["namespace", "version"], ["releases.namespace", "releases.version"]
        ),
    )
    op.create_table(
        "signatures",
        sa.Column("namespace", sa.String(253), primary_key=True),
        sa.Column("version", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("place", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("public_key", sa.LargeBinary, nullable=False),
        sa.Column("signature", sa.LargeBinary, nullable=False),
        sa.ForeignKeyConstraint(
            ["namespace", "version"], ["releases.namespace", "releases.version"]
        ),
    )
    op.create_table(
        "signing_keys",
        sa.Column("place", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("public_key", sa.LargeBinary, nullable=False, unique=True),
        sa.Column("private_key", sa.LargeBinary, nullable=False),
        sa.Column("created", sa.BigInteger, nullable=False),
        sa.Column("endorsed_by", sa.LargeBinary, nullable=True),
        sa.Column("endorsement", sa.LargeBinary, nullable=True),
    )


def downgrade() -> None:
    raise NotImplementedError("releases are never forgotten")
