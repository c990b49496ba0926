"""Is the tuned model better than the best cheaper rung, by how much, and are we sure?

Every look costs some of the year's budget: fifty-two candidates that are no better than what
serves would, each held to a 95% bound, promote one in up to three years out of four. So each
attempt is written down (in the registry, which a team shares) before its result is seen, and each
further one has to be surer (`statistics.attempt_alpha`). The same model on the same rows is the
same attempt: it says the same again.

Its opponents: the best cheaper rung, and what it would replace (the version in production, or what
task.yaml calls the incumbent). It must beat them all. Everybody is asked exactly as decision.json
and model.json say.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

from helpers import models, store
from helpers.evaluate import statistics
from helpers.evaluate.compare import (
    check_fingerprints,
    check_targets,
    compare_results,
    dataset_is_checked,
    findings_against,
    flips,
    has_power,
    holds_margins,
    pair_rows,
    scores_of,
)
from helpers.evaluate.judge import judge_is_consistent, rate_pairs
from helpers.evaluate.ladder import way_of_today
from helpers.evaluate.limits import cut_answers, rows_left_out
from helpers.evaluate.running import ask_rung
from helpers.evaluate.scorers import Examples
from helpers.evaluate.session import Ledger, Line, Session
from helpers.evaluate.slices import compare_slices
from helpers.models import Model
from helpers.records import (
    Asking,
    Attempt,
    Decision,
    Evaluation,
    Finding,
    FineTunedModelVersion,
    FineTuningDataset,
    Ratings,
    RungResult,
    TrainedModel,
    WorkbookError,
    verdict_of,
)
from helpers.tasks import Task

Results = dict[str, RungResult]  # by rung
YEAR = timedelta(days=365)
DULLED = 1.5  # fresh rows are due when the smallest gain that can be shown has grown by this factor


# what is left where the version that serves can be asked no more as it was trained
REPLACE_UNCOMPARED = (
    "replace it without a comparison: `workbook registry promote ID --to production --force"
    " --because TEXT`"
)


def rung_to_beat(run: store.Run) -> tuple[str, str]:
    """(the cheaper rung to beat, why this one): 01's best on validation, or the prompt."""
    if run.has(Decision):
        decision = run.load(Decision)
        name = decision.best_rung
        reason = "scored best of the cheaper rungs on the validation part (decision.json)"
        if [rung.results.accuracy.n for rung in decision.rungs if rung.name == name] == [0]:
            reason = "stands in for the best cheaper rung: 01 scored none (decision.json)"
        return name, f"{name} {reason}"
    reason = "this run has no decision.json, so the full prompt stands in for the best cheaper rung"
    return "prompt", reason


def load_models(model: TrainedModel) -> tuple[Model, Model]:
    """(base, tuned) as model.json names them."""
    base = models.load_model(base_spec(model))
    if model.provider == "api":
        return base, models.load_model(model.model_id, base_url=model.base_url)
    adapter = store.home() / str(model.adapter)
    return base, models.load_model(model.base_model, adapter=adapter)


def base_spec(model: TrainedModel) -> str:
    """How an Asking calls the base of a tuned model."""
    if model.provider == "api":
        return f"{model.base_model} at {model.base_url}"
    return model.base_model


def evaluate_fine_tuned_model(
    test_set: Examples,
    session: Session,
    model: TrainedModel,
    *,
    min_gain: float,
    dataset: FineTuningDataset,
    production: FineTunedModelVersion | None = None,  # which serves
) -> Evaluation:
    """Ask base, best cheaper rung, tuned model and what it would replace; compare row by row."""
    if not test_set:
        raise WorkbookError(
            "the test part is empty; add verified examples to human.jsonl and run 02_curate again"
        )
    task = session.task
    session.say("loading the models, and checking that they are what was trained")
    version = dataset.metadata.version
    fingerprints = check_fingerprints(model, task, version)
    session = with_models_of(model, session)
    best_rung = rung_to_beat(session.run)[0]
    rungs, timing = ask_rungs(ways_of(model, session), test_set, session)
    tuned = session.models[model.asking.model]
    attempt = record_attempt(task, session.run, tuned, test_set, model.version, session.attempts)
    serving = production if production and production.id != model.version else None
    unasked = ask_production(serving, rungs, test_set, session) if serving else ""
    replaced = [name for name in ("production", "incumbent") if name in rungs]
    opponents = list(dict.fromkeys([best_rung, *replaced]))
    rungs, pairs, ratings = rate_pairs(rungs, ["fine_tuned", *opponents], test_set, session)
    against = {"production": {}} if unasked else {}
    for name in opponents:
        against[name] = compare_results(*pairs[name], task, min_gain, attempt.alpha)
    ours, theirs = pairs[best_rung]
    rated = len(set(scores_of(pair_rows(ours, theirs), "accuracy")[2]))
    *gains, regression = findings_against(task, against, attempt.alpha)
    power = has_power(len({example.group for example in test_set}), against[best_rung], rated)
    judgements = [*gains, regression, holds_margins(against[best_rung]), power, fingerprints]
    judgements += [dataset_is_checked(version), *judge_is_consistent(ratings)]
    targets = check_targets(task, rungs["fine_tuned"].results)
    slices = compare_slices(task, test_set, pair_rows(ours, theirs))
    limits = rows_left_out(task, dataset.examples, "test", len(test_set), "max_test_rows")
    return Evaluation(
        base_model=rungs["zero_shot"].results,
        fine_tuned_model=rungs["fine_tuned"].results,
        comparison=against[best_rung],
        n_test=len(test_set),
        rungs=list(rungs.values()),
        best_rung=best_rung,
        flips=flips(ours, theirs),
        verdict=verdict_of([*judgements, *targets.values()]),
        reasons=_reasons(judgements, targets, unasked, attempt, slices, ratings),
        findings=judgements,
        targets=targets,
        regression=regression.verdict == "fail",
        min_gain=min_gain,
        production=serving.id if serving else "",
        against={name: compared for name, compared in against.items() if name != best_rung},
        attempt=attempt,
        slices=slices,
        ratings=ratings,
        fingerprints=model.fingerprints,
        dataset_version=version,
        version=model.version,
        timing=timing,
        limits=[*limits, *cut_answers(list(rungs.values()), test_set, session.run)],
    )


def with_models_of(model: TrainedModel, session: Session) -> Session:
    """The session with base and tuned model loaded, unless it has them."""
    if model.asking.model in session.models and base_spec(model) in session.models:
        return session
    base, tuned = load_models(model)
    loaded = {base_spec(model): base, model.asking.model: tuned} | session.models
    return replace(session, models=loaded)


def ways_of(model: TrainedModel, session: Session) -> list[Asking]:
    """Base and best cheaper rung as decision.json says, the tuned model as model.json does.

    Without a decision the full prompt, with the tuned model's own limits, stands in for the best
    rung.
    """
    base = base_spec(model)
    task = session.task
    recorded = {}
    best = model.asking.for_rung("prompt", base)
    if session.run.has(Decision):
        decision = session.run.load(Decision)
        recorded = {rung.name: rung.asking for rung in decision.rungs}
        best = decision.asking(decision.best_rung)
    short = recorded.get("zero_shot") or best.for_rung("zero_shot", base)
    ways = [short.model_copy(update={"model": base}), best, model.asking]
    if task.incumbent:
        ways.append(recorded.get("incumbent") or way_of_today(task, best, base))
    return list({way.rung: way for way in ways}.values())


def ask_rungs(
    ways: Sequence[Asking], test_set: Examples, session: Session
) -> tuple[Results, dict[str, Any]]:
    """(results by rung, seconds by rung)."""
    rungs = {}
    timing = {"measured_at": store.now().isoformat(timespec="seconds")}
    for way in ways:
        started = time.monotonic()
        rungs[way.rung] = ask_rung(way, test_set, session)
        timing[f"{way.rung}_seconds"] = round(time.monotonic() - started, 1)
    return rungs, timing


def ask_production(
    version: FineTunedModelVersion, rungs: Results, test_set: Examples, session: Session
) -> str:
    """Put production among the rungs, asked as its own model.json says; or say why it could not be.

    What it was asked before is remembered. Without its answers nothing is sure, but the evaluation
    itself is not lost.
    """
    try:
        serving = store.Run(version.run_id).load(TrainedModel)
        check_fingerprints(serving, session.task, serving.dataset_version, REPLACE_UNCOMPARED)
        loaded = session.models | {serving.asking.model: load_models(serving)[1]}
        session = replace(session, latency_rows=0, models=loaded)
        rungs["production"] = ask_rung(serving.asking, test_set, session, label="production")
    except WorkbookError as error:
        if error.exit_code != 2:  # no memory, or a provider's fault: not a matter of this version
            raise
        return f"{version.id}, which serves now, could not be asked: {error}"
    return ""


def _reasons(
    judgements: Sequence[Finding],
    targets: dict[str, Finding],
    unasked: str,
    attempt: Attempt,
    slices: Sequence[Finding],
    ratings: Ratings | None,
) -> list[str]:
    """What the verdict rests on: every gain and target, and of the rest what did not pass.

    Then what does not decide, but has to be known: attempts, slices that surely lost, who judged.
    """
    told = [j for j in judgements if j.name.startswith("gain_over_") or j.verdict != "pass"]
    reasons = [finding.evidence for finding in (*told, *targets.values())]
    if unasked:
        reasons.append(unasked)
    if attempt.number > 1:
        text = (
            f"attempt {attempt.number} of the past year, {attempt.looks_at_these_rows} on these"
            f" very rows: it has to be {1 - 2 * attempt.alpha:.2%} sure, which shows gains of"
            f" {attempt.detectable_difference:.1%} or more"
        )
        if attempt.fresh_rows_needed:
            text += f"; fresh test rows are due: add {attempt.fresh_rows_needed}"
        reasons.append(text)
    for part in slices:
        if part.verdict == "fail":
            lost = f"slice {part.name} surely lost: {part.estimate}"
            reasons.append(f"{lost}, corrected p {part.p:.2g}")
    return reasons + (ratings.warnings if ratings else [])


# --- attempts -------------------------------------------------------------------------------------


def record_attempt(
    task: Task, run: store.Run, model: Model, rows: Examples, version: str, ledger: Ledger
) -> Attempt:
    """Write this attempt down, once, and say which of the past year it is."""
    about = store.fingerprint(sorted(example.id for example in rows))
    line = {
        "key": store.fingerprint([model.fingerprint, about]),
        "rows": about,
        "n": len({example.group for example in rows}),
        "run_id": run.id,
        "version": version,
        "at": store.now().isoformat(),
    }
    return count_attempts(ledger(task.registry_name, line), line["key"])


def count_attempts(lines: Sequence[Line], key: str) -> Attempt:
    """The attempt `key` among all recorded ones, oldest first; pure, so it can be simulated."""
    place = next(i for i, line in enumerate(lines) if line["key"] == key)
    this = lines[place]
    since = datetime.fromisoformat(this["at"]) - YEAR
    earlier = [line for line in lines[:place] if datetime.fromisoformat(line["at"]) > since]
    number = len(earlier) + 1
    alpha = statistics.attempt_alpha(number)
    n = this["n"]
    detectable = statistics.detectable_difference(n, alpha=alpha)
    fresh_rows = 0
    if detectable > DULLED * statistics.detectable_difference(n):
        z_power = statistics.upper_normal(0.2)
        sharper = (statistics.upper_normal(alpha) + z_power) / (statistics.Z + z_power)
        fresh_rows = round(n * sharper**2 - n)  # to show what n showed at the first attempt
    return Attempt(
        number=number,
        alpha=alpha,
        looks_at_these_rows=1 + sum(line["rows"] == this["rows"] for line in earlier),
        detectable_difference=round(detectable, 4),
        fresh_rows_needed=fresh_rows,
    )
