"""The first ledger: series, verdicts, cases, results, measurements."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    op.create_table(
        "rejected_file",
        sa.Column("path", sa.String(), nullable=False),
        sa.Column("reason", sa.String(), nullable=False),
        sa.Column("detail", sa.Text(), nullable=False),
        sa.Column("recorded_at", sa.String(), nullable=False),
        sa.PrimaryKeyConstraint("path", name=op.f("pk_rejected_file")),
    )
    op.create_table(
        "screening_case",
        sa.Column("case_id", sa.String(), nullable=False),
        sa.Column("programme", sa.String(), nullable=False),
        sa.Column("study_uid", sa.String(), nullable=False),
        sa.Column("fingerprint", sa.String(), nullable=False),
        sa.PrimaryKeyConstraint("case_id", name=op.f("pk_screening_case")),
        sa.UniqueConstraint("programme", "study_uid", name=op.f("uq_screening_case_programme")),
    )
    op.create_table(
        "series",
        sa.Column("series_uid", sa.String(), nullable=False),
        sa.Column("study_uid", sa.String(), nullable=False),
        sa.Column("modality", sa.String(), nullable=False),
        sa.Column("uid_source", sa.String(), nullable=False),
        sa.Column("n_instances", sa.Integer(), nullable=False),
        sa.Column("source_digest", sa.String(), nullable=False),
        sa.Column("pixel_digest", sa.String(), nullable=True),
        sa.Column("volume_url", sa.String(), nullable=True),
        sa.Column("header", sa.JSON(), nullable=False),
        sa.Column("sources", sa.JSON(), nullable=False),
        sa.Column("recorded_at", sa.String(), nullable=False),
        sa.PrimaryKeyConstraint("series_uid", name=op.f("pk_series")),
    )
    op.create_index(op.f("ix_series_study_uid"), "series", ["study_uid"], unique=False)
    op.create_table(
        "superseded_series",
        sa.Column("series_uid", sa.String(), nullable=False),
        sa.Column("source_digest", sa.String(), nullable=False),
        sa.Column("pixel_digest", sa.String(), nullable=True),
        sa.Column("volume_url", sa.String(), nullable=True),
        sa.Column("recorded_at", sa.String(), nullable=False),
        sa.Column("superseded_at", sa.String(), nullable=False),
        sa.PrimaryKeyConstraint("series_uid", "source_digest", name=op.f("pk_superseded_series")),
    )
    op.create_table(
        "verdict",
        sa.Column("series_uid", sa.String(), nullable=False),
        sa.Column("programme", sa.String(), nullable=False),
        sa.Column("study_uid", sa.String(), nullable=False),
        sa.Column("status", sa.String(), nullable=False),
        sa.Column("reason", sa.String(), nullable=False),
        sa.Column("detail", sa.Text(), nullable=False),
        sa.Column("recorded_at", sa.String(), nullable=False),
        sa.PrimaryKeyConstraint("series_uid", "programme", name=op.f("pk_verdict")),
    )
    op.create_table(
        "result",
        sa.Column("result_id", sa.Integer(), nullable=False),
        sa.Column("case_id", sa.String(), nullable=False),
        sa.Column("fingerprint", sa.String(), nullable=False),
        sa.Column("programme_version", sa.String(), nullable=False),
        sa.Column("status", sa.String(), nullable=False),
        sa.Column("reason", sa.String(), nullable=True),
        sa.Column("detail", sa.Text(), nullable=False),
        sa.Column("roles", sa.JSON(), nullable=False),
        sa.Column("policy", sa.JSON(), nullable=False),
        sa.Column("models", sa.JSON(), nullable=False),
        sa.Column("stages", sa.JSON(), nullable=False),
        sa.Column("inputs", sa.JSON(), nullable=False),
        sa.Column("flags", sa.JSON(), nullable=False),
        sa.Column("pictures", sa.JSON(), nullable=False),
        sa.Column("timings", sa.JSON(), nullable=False),
        sa.Column("error", sa.JSON(none_as_null=True), nullable=True),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("created_at", sa.String(), nullable=False),
        sa.ForeignKeyConstraint(["case_id"], ["screening_case.case_id"], name=op.f("fk_result_case_id")),
        sa.PrimaryKeyConstraint("result_id", name=op.f("pk_result")),
        sa.UniqueConstraint("case_id", "fingerprint", name=op.f("uq_result_case_id")),
    )
    op.create_table(
        "measurement",
        sa.Column("result_id", sa.Integer(), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.Column("number", sa.Float(), nullable=True),
        sa.Column("text", sa.Text(), nullable=True),
        sa.Column("unit", sa.String(), nullable=False),
        sa.Column("status", sa.String(), nullable=False),
        sa.Column("reason", sa.String(), nullable=False),
        sa.CheckConstraint(
            "(status = 'ok') = (number IS NOT NULL OR text IS NOT NULL) AND (number IS NULL OR text IS NULL)",
            name=op.f("ck_measurement_value_only_when_ok"),
        ),
        sa.ForeignKeyConstraint(["result_id"], ["result.result_id"], name=op.f("fk_measurement_result_id")),
        sa.PrimaryKeyConstraint("result_id", "name", name=op.f("pk_measurement")),
        sqlite_with_rowid=False,
    )


def downgrade() -> None:
    op.drop_table("measurement")
    op.drop_table("result")
    op.drop_table("verdict")
    op.drop_table("superseded_series")
    op.drop_index(op.f("ix_series_study_uid"), table_name="series")
    op.drop_table("series")
    op.drop_table("screening_case")
    op.drop_table("rejected_file")
