"""Notebook 01's room: screening, economics, and the verdict whether to fine-tune at all."""

from helpers.decide.economics import best_rung, economics, maintenance_plan, own_model_estimate
from helpers.decide.screening import Screening, screen
from helpers.decide.verdict import Decision, Evidence, choose_trainer, decide, recommend, undecidable_targets

__all__ = [
    "Decision",
    "Evidence",
    "Screening",
    "best_rung",
    "choose_trainer",
    "decide",
    "economics",
    "maintenance_plan",
    "own_model_estimate",
    "recommend",
    "screen",
    "undecidable_targets",
]
