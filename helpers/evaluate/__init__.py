"""Notebook 04's room: scorers, the rungs as ways to ask a model, and the paired comparison."""

from helpers.evaluate.answers import ask
from helpers.evaluate.causes import data_quality, diagnose_run
from helpers.evaluate.classical import (
    CLASSICAL,
    CONVERGED,
    ClassicalModel,
    label_fields,
    vectoriser,
    why_not,
)
from helpers.evaluate.compare import (
    check_fingerprints,
    check_rung,
    check_targets,
    compare_results,
    decide,
    findings_against,
    rows_wanted,
)
from helpers.evaluate.evaluation import (
    REPLACE_UNCOMPARED,
    count_attempts,
    evaluate_fine_tuned_model,
    load_models,
    rung_to_beat,
)
from helpers.evaluate.judge import blind_table, load_judge, rate_rungs, read_ratings, write_ratings
from helpers.evaluate.ladder import (
    ask_ladder,
    ask_more,
    best_rung,
    compare_rungs,
    rag_gains,
    search_prompts,
    ways_to_ask,
)
from helpers.evaluate.limits import (
    cut_answers,
    cut_short,
    limit_of,
    room_for_thoughts,
    rows_left_out,
    with_answer_limit,
)
from helpers.evaluate.rungs import LADDER, available, build_prompts, effort
from helpers.evaluate.running import ask_rung, choose_rows, read_answers
from helpers.evaluate.scorers import format_reason, score_answer, strict_json
from helpers.evaluate.session import Say, Session
from helpers.evaluate.slices import label_scores
from helpers.evaluate.statistics import (
    AT_LEAST,
    TAIL,
    any_time_p,
    chance_to_see,
    detectable_difference,
    mean,
    paired_difference,
    proportion,
    quantile,
    rows_to_decide,
    rows_to_separate,
    verdict_against,
)
