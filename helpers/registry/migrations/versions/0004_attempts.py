"""Attempts: which models were measured on which test rows, so that a year has one budget."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
TEXTS = ("task", "key", "rows", "run_id", "version", "at")


def upgrade() -> None:
    """Make the table; of one model on the same rows there is one attempt."""
    op.create_table(
        "attempts",
        sa.Column("id", sa.Integer(), sa.Identity(), primary_key=True),
        *(sa.Column(name, sa.Text(), nullable=False) for name in TEXTS),
        sa.Column("n", sa.Integer(), nullable=False),
        sa.UniqueConstraint("task", "key", name="one_attempt"),
    )
