"""The store: durable state behind one small interface. Only this package opens a database."""

from nexus.store.base import (
    DatabaseDamaged,
    DatabaseStatus,
    DiskFull,
    InitError,
    OutcomeUnknown,
    PathUnusable,
    QueryError,
    Reader,
    ReadTimedOut,
    Row,
    SchemaMismatch,
    StateStore,
    StoreConflict,
    StoreError,
    StoreUnavailable,
    Transaction,
)

__all__ = [
    "DatabaseDamaged",
    "DatabaseStatus",
    "DiskFull",
    "InitError",
    "OutcomeUnknown",
    "PathUnusable",
    "QueryError",
    "ReadTimedOut",
    "Reader",
    "Row",
    "SchemaMismatch",
    "StateStore",
    "StoreConflict",
    "StoreError",
    "StoreUnavailable",
    "Transaction",
]
