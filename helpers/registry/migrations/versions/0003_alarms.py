"""Alarms: what was found about a version in production, until somebody has dealt with it."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
TEXTS = [
    *("id", "task", "version", "name", "severity", "state"),
    *("opened_at", "seen_at", "told_at", "changed_at", "actor", "because"),
]
OPEN = sa.text("state <> 'resolved'")


def upgrade() -> None:
    """Make the table; of one check of one version at most one alarm is not resolved."""
    columns = [sa.Column(name, sa.Text(), nullable=False) for name in TEXTS]
    op.create_table(
        "alarms",
        *columns,
        sa.Column("finding", sa.JSON(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
        sa.CheckConstraint("state IN ('open', 'acknowledged', 'resolved')", name="known_state"),
    )
    op.create_index(
        "one_alarm_per_check",
        "alarms",
        ["task", "version", "name"],
        unique=True,
        sqlite_where=OPEN,
        postgresql_where=OPEN,
    )
