"""Tables of the ledger. `storage/migrations` builds them; a test holds the two equal."""

from __future__ import annotations

from sqlalchemy import (
    JSON,
    BigInteger,
    CheckConstraint,
    Column,
    Float,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
)

# Newest revision in storage/migrations/versions. Kept here so that opening a ledger that is already there
# costs one query and no Alembic import; a test compares it with the scripts.
HEAD_REVISION = "0003"

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(column_0_label)s",
        "uq": "uq_%(table_name)s_%(column_0_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s",
        "pk": "pk_%(table_name)s",
    }
)

series = Table(
    "series",
    metadata,
    Column("series_uid", String, primary_key=True),
    Column("study_uid", String, nullable=False, index=True),
    Column("modality", String, nullable=False),
    Column("uid_source", String, nullable=False),
    Column("n_instances", Integer, nullable=False),
    Column("source_digest", String, nullable=False),
    Column("pixel_digest", String),
    Column("volume_url", String),
    Column("header", JSON, nullable=False),
    Column("sources", JSON, nullable=False),
    Column("recorded_at", String, nullable=False),
)

# What a series was before its files changed: explains why a case became stale.
superseded_series = Table(
    "superseded_series",
    metadata,
    Column("series_uid", String, primary_key=True),
    Column("source_digest", String, primary_key=True),
    Column("pixel_digest", String),
    Column("volume_url", String),
    Column("recorded_at", String, nullable=False),
    Column("superseded_at", String, nullable=False),
)

# No foreign key to series: a verdict may be passed on a series that never became a row (e.g. an unreadable one).
verdict = Table(
    "verdict",
    metadata,
    Column("series_uid", String, primary_key=True),
    Column("programme", String, primary_key=True),
    Column("study_uid", String, nullable=False, index=True),
    Column("status", String, nullable=False),
    Column("reason", String, nullable=False),
    Column("detail", Text, nullable=False),
    Column("recorded_at", String, nullable=False),
)

rejected_file = Table(
    "rejected_file",
    metadata,
    Column("path", String, primary_key=True),
    Column("reason", String, nullable=False),
    Column("detail", Text, nullable=False),
    Column("recorded_at", String, nullable=False),
)

# One row per study × programme; `fingerprint` points at the result that answers for the case now.
# ("case" alone is a reserved word of SQL.)
screening_case = Table(
    "screening_case",
    metadata,
    Column("case_id", String, primary_key=True),
    Column("programme", String, nullable=False),
    Column("study_uid", String, nullable=False),
    Column("fingerprint", String, nullable=False),
    UniqueConstraint("programme", "study_uid"),
)

result = Table(
    "result",
    metadata,
    Column("result_id", Integer, primary_key=True),
    Column("case_id", String, ForeignKey(screening_case.c.case_id), nullable=False),
    Column("fingerprint", String, nullable=False),
    Column("programme_version", String, nullable=False),
    Column("status", String, nullable=False),
    Column("reason", String),
    Column("detail", Text, nullable=False),
    Column("roles", JSON, nullable=False),
    Column("policy", JSON, nullable=False),
    Column("models", JSON, nullable=False),
    Column("stages", JSON, nullable=False),
    Column("inputs", JSON, nullable=False),
    Column("flags", JSON, nullable=False),
    Column("pictures", JSON, nullable=False),
    Column("timings", JSON, nullable=False),
    Column("error", JSON(none_as_null=True)),
    Column("attempts", Integer, nullable=False),
    Column("created_at", String, nullable=False),
    UniqueConstraint("case_id", "fingerprint"),
)

measurement = Table(
    "measurement",
    metadata,
    Column("result_id", Integer, ForeignKey(result.c.result_id), primary_key=True),
    Column("name", String, primary_key=True),
    Column("position", Integer, nullable=False),
    Column("number", Float),
    Column("text", Text),
    Column("unit", String, nullable=False),
    Column("status", String, nullable=False),
    Column("reason", String, nullable=False),
    # The last guard of "not evaluable is never a number": holds for every writer, not only for ours.
    CheckConstraint(
        "(status = 'ok') = (number IS NOT NULL OR text IS NOT NULL) AND (number IS NULL OR text IS NULL)",
        name="value_only_when_ok",
    ),
    sqlite_with_rowid=False,
)

# Files of watched folders, as long as they are there. One without a study (not DICOM, or an archive) is its own unit.
arrival = Table(
    "arrival",
    metadata,
    Column("path", String, primary_key=True),
    Column("size", BigInteger, nullable=False),
    Column("mtime_ns", BigInteger, nullable=False),
    Column("study_uid", String, index=True),
    Column("changed_at", String, nullable=False),
    Column("ingested_at", String),
    Index("ix_arrival_ingested_at_study_uid", "ingested_at", "study_uid"),
)

# Programme × scanner × kernel × site. `paused_at` is set exactly while the lane is paused.
lane = Table(
    "lane",
    metadata,
    Column("lane_id", String, primary_key=True),
    Column("programme", String, nullable=False),
    Column("scanner", String, nullable=False),
    Column("kernel", String, nullable=False),
    Column("site", String, nullable=False),
    Column("paused_at", String),
    Column("reason", Text, nullable=False),
)

# State of one control chart of a lane, for one recipe: a change of software is not drift and begins a new chart.
control_chart = Table(
    "control_chart",
    metadata,
    Column("lane_id", String, ForeignKey(lane.c.lane_id), primary_key=True),
    Column("recipe", String, primary_key=True),
    Column("name", String, primary_key=True),
    Column("state", JSON, nullable=False),
    Column("updated_at", String, nullable=False),
)

# How far the results of a programme have been charted: committed together with the charts, so none counts twice.
chart_position = Table(
    "chart_position",
    metadata,
    Column("programme", String, primary_key=True),
    Column("result_id", Integer, nullable=False),
)
