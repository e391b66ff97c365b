"""Arrivals by study: one that waits takes the others of its study with it."""

from __future__ import annotations

from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    op.create_index(op.f("ix_arrival_study_uid"), "arrival", ["study_uid"], unique=False)


def downgrade() -> None:
    op.drop_index(op.f("ix_arrival_study_uid"), table_name="arrival")
