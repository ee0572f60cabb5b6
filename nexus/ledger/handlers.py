"""The handlers of the ledger, by subject."""

from __future__ import annotations

from nexus.ledger.features.handlers import (
    create_feature,
    create_sub_feature,
    delete_feature,
    delete_sub_feature,
    get_feature,
    get_sub_feature,
    list_features,
    list_sub_features,
    sync_features,
    update_feature,
    update_sub_feature,
)
from nexus.ledger.requirements.handlers import (
    create_requirement,
    delete_requirement,
    get_requirement,
    link_requirement,
    list_requirements,
    unlink_requirement,
    update_requirement,
    validate_requirement,
)
from nexus.ledger.sessions.handlers import (
    cancel_session,
    complete_session,
    delete_session,
    get_session,
    list_sessions,
    pause_session,
    resume_session,
    start_session,
    update_session,
)

__all__ = [
    "cancel_session",
    "complete_session",
    "create_feature",
    "create_requirement",
    "create_sub_feature",
    "delete_feature",
    "delete_requirement",
    "delete_session",
    "delete_sub_feature",
    "get_feature",
    "get_requirement",
    "get_session",
    "get_sub_feature",
    "link_requirement",
    "list_features",
    "list_requirements",
    "list_sessions",
    "list_sub_features",
    "pause_session",
    "resume_session",
    "start_session",
    "sync_features",
    "unlink_requirement",
    "update_feature",
    "update_requirement",
    "update_session",
    "update_sub_feature",
    "validate_requirement",
]
