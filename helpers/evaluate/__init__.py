"""Notebook 04's room: scorers, the rungs as ways to ask a model, running them, and the paired comparison."""

from helpers.evaluate.causes import data_quality, diagnose, diagnose_run, part_of, read_curve
from helpers.evaluate.compare import (
    compare_results,
    evaluate_fine_tuned_model,
    gate,
    load_models,
    rung_to_beat,
)
from helpers.evaluate.judge import blind_table, load_judge, write_ratings
from helpers.evaluate.ladder import ask_ladder, search_prompts
from helpers.evaluate.running import choose_rows, export_samples, read_answers, run_rung, run_rungs
from helpers.evaluate.statistics import paired_difference, rows_to_decide
