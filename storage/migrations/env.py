"""Runs inside the transaction of the caller, which hands its connection over in the Alembic config."""

from __future__ import annotations

from alembic import context

from storage._schema import metadata

context.configure(connection=context.config.attributes["connection"], target_metadata=metadata)
context.run_migrations()
