"""How long a model may be trained on and served; how often a message was tried, and when next."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Add the columns; what happened before is not announced again."""
    for name in ("train_until", "serve_until"):
        op.add_column("versions", sa.Column(name, sa.Text()))
    op.add_column("outbox", sa.Column("sent_at", sa.Text()))
    op.add_column("outbox", sa.Column("retry_at", sa.Text()))
    op.add_column("outbox", sa.Column("attempts", sa.Integer(), nullable=False, server_default="0"))
    op.add_column("outbox", sa.Column("sent_to", sa.Text(), nullable=False, server_default=""))
    op.execute("UPDATE outbox SET sent_at = created_at")
