"""Arrivals of watched folders; lanes and their control charts; verdicts by study."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    op.create_index(op.f("ix_verdict_study_uid"), "verdict", ["study_uid"], unique=False)
    op.create_table(
        "arrival",
        sa.Column("path", sa.String(), nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.Column("mtime_ns", sa.BigInteger(), nullable=False),
        sa.Column("study_uid", sa.String(), nullable=True),
        sa.Column("changed_at", sa.String(), nullable=False),
        sa.Column("ingested_at", sa.String(), nullable=True),
        sa.PrimaryKeyConstraint("path", name=op.f("pk_arrival")),
    )
    op.create_index("ix_arrival_ingested_at_study_uid", "arrival", ["ingested_at", "study_uid"], unique=False)
    op.create_table(
        "lane",
        sa.Column("lane_id", sa.String(), nullable=False),
        sa.Column("programme", sa.String(), nullable=False),
        sa.Column("scanner", sa.String(), nullable=False),
        sa.Column("kernel", sa.String(), nullable=False),
        sa.Column("site", sa.String(), nullable=False),
        sa.Column("paused_at", sa.String(), nullable=True),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("lane_id", name=op.f("pk_lane")),
    )
    op.create_table(
        "control_chart",
        sa.Column("lane_id", sa.String(), nullable=False),
        sa.Column("recipe", sa.String(), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("state", sa.JSON(), nullable=False),
        sa.Column("updated_at", sa.String(), nullable=False),
        sa.ForeignKeyConstraint(["lane_id"], ["lane.lane_id"], name=op.f("fk_control_chart_lane_id")),
        sa.PrimaryKeyConstraint("lane_id", "recipe", "name", name=op.f("pk_control_chart")),
    )
    op.create_table(
        "chart_position",
        sa.Column("programme", sa.String(), nullable=False),
        sa.Column("result_id", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("programme", name=op.f("pk_chart_position")),
    )


def downgrade() -> None:
    op.drop_table("chart_position")
    op.drop_table("control_chart")
    op.drop_table("lane")
    op.drop_index("ix_arrival_ingested_at_study_uid", table_name="arrival")
    op.drop_table("arrival")
    op.drop_index(op.f("ix_verdict_study_uid"), table_name="verdict")
