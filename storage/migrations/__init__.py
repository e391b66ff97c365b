"""Alembic migrations of the ledger, run to head whenever a ledger is opened."""
