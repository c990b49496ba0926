"""Running the workbook without a reader: parameters, papermill, resume, exit codes; and what a machine must have."""

from helpers.retrain.budget import tutorial_budget
from helpers.retrain.doctor import doctor
from helpers.retrain.flow import past_runs, run, versions
from helpers.retrain.parameters import NOTEBOOKS, RUN_LEVEL, load_profile, settle
from helpers.retrain.summary import summary

__all__ = [
    "NOTEBOOKS",
    "RUN_LEVEL",
    "doctor",
    "load_profile",
    "past_runs",
    "run",
    "settle",
    "summary",
    "tutorial_budget",
    "versions",
]
