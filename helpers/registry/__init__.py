"""Which versions exist, which one serves, and why: the truth about models, in one database."""

from helpers.registry.commands import history, list_versions, promote, rehearse, rollback, routes, show
from helpers.registry.delivery import notify_team
from helpers.registry.gate import RuleResult, overall, validate_for_production
from helpers.registry.lifecycle import FineTuneLifecycleManager, Promotion
from helpers.registry.switching import switch

__all__ = [
    "FineTuneLifecycleManager",
    "Promotion",
    "RuleResult",
    "history",
    "list_versions",
    "notify_team",
    "overall",
    "promote",
    "rehearse",
    "rollback",
    "routes",
    "show",
    "switch",
    "validate_for_production",
]
