"""Shadow and canary: is a candidate surely harmful, or surely good enough, by live requests?

Both questions are answered by tests that may be looked at as often as one likes
(evaluate.any_time_p), about pairs of answers: a shadow's with production's to the same request, a
canary's with those that production gave since the canary's last one. The rule of the end is the
Trial, written down before the first request.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

from helpers import evaluate, registry, store
from helpers.records import Finding, LiveRow, Trial, WorkbookError, read_live_lines
from helpers.serve.livelog import folder_of
from helpers.tasks import Task

MARGINS = {"format_compliance": 0.02, "feedback_mean": 0.0625}  # of 0 to 1; 0.25 points of 1 to 5
# of the error that a rollback may make: format is seen of every answer, a rating of few
SHARES = {"format_compliance": 0.8, "feedback_mean": 0.2}
FEW_RATINGS = 10  # pairs; fewer neither promote nor stand in the way


class Pair(NamedTuple):
    """What is compared: one answer of the candidate, and one or more of production."""

    candidate: LiveRow
    production: list[LiveRow]


def start_trial(
    kind: str, version_id: str, task: Task, share: float, max_requests: int, promote: bool = False
) -> Trial:
    """Write down what is tried and how it ends; a promotion spends from the year's budget."""
    if not 0 < share <= 1 or max_requests < 1:
        raise WorkbookError(
            f"--share {share:g} of {max_requests}: give a share up to 1, and requests"
        )
    state = _state_of(task)
    if state.route.version is None:
        raise WorkbookError(f"nothing is in production for {task.name}; nothing to try beside")
    if kind == "shadow" and promote:
        raise WorkbookError("a shadow never promotes: users have not seen it; try it as a canary")
    allowed = {name: task.margins[name] for name in task.margins if name == "format_compliance"}
    trial = Trial(
        kind=kind,
        task=task.registry_name,
        version=version_id,
        against=state.route.version,
        share=share,
        started_at=store.now(),
        margins=MARGINS | allowed,
        harm_margins=allowed,
        max_requests=max_requests,
        promote=promote,
    )
    version = registry.version_of(version_id)
    may_begin = state.trial is None and version.status == "staging" and version.task == trial.task
    if promote and may_begin:  # one that is refused below spends nothing
        trial = trial.model_copy(update={"alpha": spend(trial)})
    registry.begin_trial(trial)
    return trial


def stop_trial(task: Task, because: str = "") -> None:
    """End a trial by hand."""
    state = _state_of(task)
    if state.trial is None:
        raise WorkbookError(f"nothing is tried for {task.registry_name}")
    registry.end_trial(state.trial, because or "ended by hand")


def trial_report(task: Task) -> dict[str, Any]:
    """A task's route, its trial, and what live requests say of it so far."""
    state = _state_of(task)
    findings: list[Finding] = []
    if state.trial is not None:
        findings = judge_trial(state.trial, read_trial(state.trial))
    return {"route": state.route, "trial": state.trial, "findings": findings}


def _state_of(task: Task) -> registry.Serving:
    state = registry.serving([task.registry_name]).get(task.registry_name)
    if state is None:
        raise WorkbookError(f"nothing is in production for {task.registry_name} yet")
    return state


def spend(trial: Trial) -> float:
    """Write the trial down as one of the year's attempts; how often it may therefore be wrong."""
    line = {
        "key": store.fingerprint([trial.version, trial.against, trial.started_at.isoformat()]),
        "rows": "live",
        "n": trial.max_requests,
        "run_id": "",
        "version": trial.version,
        "at": trial.started_at.isoformat(),
    }
    attempts = registry.record_attempt(trial.task, line)
    return evaluate.count_attempts(attempts, str(line["key"])).alpha


def read_trial(trial: Trial) -> list[LiveRow]:
    """The live rows since a trial began, of this home."""
    rows = read_live_lines(_lines_since(trial)).rows
    return [row for row in rows if row.created_at >= trial.started_at]


def _lines_since(trial: Trial) -> Iterator[bytes]:
    """All days as one: a rating may stand in the file of a later day."""
    first = f"{trial.started_at:%Y-%m-%d}.jsonl"
    for path in sorted(folder_of(trial.task).glob("????-??-??.jsonl")):
        if path.name >= first:
            with open(path, "rb") as lines:
                yield from lines


def pairs_of(trial: Trial, rows: Sequence[LiveRow]) -> list[Pair]:
    """Which answers are compared; which ones depends on nothing that they say."""
    pairs = []
    answers = {row.request_id: row for row in rows if row.version == trial.against}
    latest: list[LiveRow] = []  # of production, not compared yet
    for row in rows:
        if row.version == trial.against and row.arm == "production":
            latest.append(row)
        elif row.version == trial.version and row.arm == trial.kind:
            if trial.kind == "shadow":
                latest = [answers[row.shadow_of]] if row.shadow_of in answers else []
            if latest:
                pairs.append(Pair(row, latest))
                latest = []
    return pairs


def judge_trial(trial: Trial, rows: Sequence[LiveRow]) -> list[Finding]:
    """harm_… fails when the candidate is surely worse; holds_… passes when it surely is not."""
    pairs = pairs_of(trial, rows)
    losses = {"format_compliance": _losses(pairs, _is_well_formed)}
    if trial.kind == "canary":
        losses["feedback_mean"] = _losses(pairs, _rating)
    findings = []
    for metric, values in losses.items():
        share = SHARES[metric] if len(losses) > 1 else 1.0
        findings.append(_harm(trial, metric, values, share))
        findings.append(_holds(trial, metric, values))
    agreeing = [float(pair.candidate.agrees) for pair in pairs if pair.candidate.agrees is not None]
    if agreeing:
        share = evaluate.proportion(agreeing)
        findings.append(
            Finding(
                name="agreement",
                verdict="pass",
                severity="info",
                evidence=f"the shadow said the same as production in {share}",
                estimate=share,
            )
        )
    return findings


def _is_well_formed(row: LiveRow) -> float | None:
    return float(row.is_ok and row.well_formed is not False)


def _rating(row: LiveRow) -> float | None:
    """0 to 1; None where nobody rated it."""
    return None if row.feedback_score is None else (row.feedback_score - 1) / 4


def _losses(pairs: Sequence[Pair], value_of: Callable[[LiveRow], float | None]) -> list[float]:
    """Production minus candidate, -1 to 1, of the pairs in which both have a value."""
    losses = []
    for pair in pairs:
        ours = value_of(pair.candidate)
        theirs = [value for value in map(value_of, pair.production) if value is not None]
        if ours is not None and theirs:
            losses.append(sum(theirs) / len(theirs) - ours)
    return losses


def harm_p(losses: Sequence[float], allowed: float) -> float:
    """p of "the candidate loses no more than `allowed`", valid however often one looks."""
    return evaluate.any_time_p([(1 - loss) / 2 for loss in losses], (1 - allowed) / 2)


def hold_p(losses: Sequence[float], margin: float) -> float:
    """p of "the candidate loses `margin` or more", valid however often one looks."""
    return evaluate.any_time_p([(1 + loss) / 2 for loss in losses], (1 + margin) / 2)


def _harm(trial: Trial, metric: str, losses: Sequence[float], share: float) -> Finding:
    allowed = trial.harm_margins.get(metric, 0.0)
    p = min(1.0, harm_p(losses, allowed) / share)
    surely = p <= trial.harm_alpha
    return Finding(
        name=f"harm_{metric}",
        verdict="fail" if surely else "pass",
        severity="critical" if surely else None,
        evidence=f"{len(losses)} pairs, loss {_mean(losses)}, at most {allowed:g} is allowed;"
        f" any-time p = {p:.2g}",
        p=p,
    )


def _holds(trial: Trial, metric: str, losses: Sequence[float]) -> Finding:
    margin = trial.margins[metric]
    p = hold_p(losses, margin)
    surely = p <= trial.alpha
    if metric == "feedback_mean" and len(losses) < FEW_RATINGS:
        surely = True  # who is hardly rated is judged by the format alone
    return Finding(
        name=f"holds_{metric}",
        verdict="pass" if surely else "undecided",
        evidence=f"{len(losses)} pairs, loss {_mean(losses)}, margin {margin:g};"
        f" any-time p = {p:.2g}, needed {trial.alpha:g}",
        p=p,
    )


def _mean(losses: Sequence[float]) -> str:
    return f"{sum(losses) / len(losses):.3f}" if losses else "unknown"


def judge(trial: Trial) -> None:
    """End a trial where its own rule says so; of many gateways the first one does."""
    rows = read_trial(trial)
    asked = sum(row.version == trial.version and row.arm == trial.kind for row in rows)
    end_by_rule(trial, judge_trial(trial, rows), asked)


def end_by_rule(trial: Trial, findings: Sequence[Finding], asked: int) -> str:
    """End a trial where its rule says so; in what way, "" when it goes on."""
    harm = [finding.evidence for finding in findings if finding.verdict == "fail"]
    if harm:
        registry.end_trial(trial, f"rolled back, surely worse: {'; '.join(harm)}", findings)
        return "rolled back"
    undecided = [finding.name for finding in findings if finding.verdict == "undecided"]
    if not undecided and registry.end_trial(trial, "it surely holds its margins", findings):
        if trial.promote:
            because = f"{trial.kind}: it surely holds its margins on live requests"
            promotion = registry.promote(trial.version, "production", because)
            if not promotion.promoted:  # nobody stands by
                reasons = "; ".join(promotion.reasons)
                message = f"{trial.version} held its margins, and the gate refuses it: {reasons}"
                registry.notify(message, f"trial {trial.version} {trial.started_at.isoformat()}")
        return "held"
    if asked >= trial.max_requests:
        registry.end_trial(trial, f"undecided after {asked} requests: {undecided}", findings)
        return "undecided"
    return ""
