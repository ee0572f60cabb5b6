"""The output of services as files beside the database, for backup and restore."""

from __future__ import annotations

from nexus.services.lifecycle.context import SERVICE_OWNER
from nexus.services.logs_store import service_exists, service_ids
from nexus.store.files import FileSet
from nexus.supervision.log_files import LogFiles

__all__ = ["FILES"]

FILES: tuple[FileSet, ...] = (LogFiles("service-logs", "service", SERVICE_OWNER, service_ids, service_exists),)
