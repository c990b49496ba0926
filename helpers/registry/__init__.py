"""Notebook 05's room: which versions exist, which one serves, and why; the truth about models."""

from helpers.registry.alarms import close_alarm, list_alarms, raise_alarms
from helpers.registry.database import open_registry
from helpers.registry.delivery import notify, notify_team
from helpers.registry.gate import Conditions, served_until, validate_for_production
from helpers.registry.identity import check_is_ours
from helpers.registry.lifecycle import FineTuneLifecycleManager
from helpers.registry.operations import (
    alarms_of,
    backup,
    diff,
    export,
    history,
    lineage,
    list_versions,
    promote,
    reconcile,
    record_attempt,
    reevaluate,
    rehearse,
    restore,
    rollback,
    routes,
    show,
)
from helpers.registry.retention import retire
from helpers.registry.serving import Serving, begin_trial, check_files, end_trial, serving
from helpers.registry.sharing import fetch
from helpers.registry.versions import switch, version_of
