"""Notebook 04's room: scorers, the rungs as ways to ask a model, running them, and the paired comparison."""

from helpers.evaluate.compare import (
    Evaluation,
    Flips,
    TargetCheck,
    check_fingerprints,
    check_targets,
    compare_results,
    evaluate_fine_tuned_model,
    flips,
    gate,
    load_models,
    rung_to_beat,
)
from helpers.evaluate.rungs import LADDER, build_prompts, demonstrations, retrieve
from helpers.evaluate.running import RungResult, choose_rows, read_answers, run_rung, run_rungs
from helpers.evaluate.scorers import Scored, score_answer
from helpers.evaluate.statistics import detectable_difference, paired_difference, proportion, rows_to_decide, target_met

__all__ = [
    "LADDER",
    "Evaluation",
    "Flips",
    "RungResult",
    "Scored",
    "TargetCheck",
    "build_prompts",
    "check_fingerprints",
    "check_targets",
    "choose_rows",
    "compare_results",
    "demonstrations",
    "detectable_difference",
    "evaluate_fine_tuned_model",
    "flips",
    "gate",
    "load_models",
    "paired_difference",
    "proportion",
    "read_answers",
    "retrieve",
    "rows_to_decide",
    "run_rung",
    "run_rungs",
    "rung_to_beat",
    "score_answer",
    "target_met",
]
