"""How many answers are right, estimated from how sure the model was of them; no label is seen.

CBPE, as NannyML calls it: how often answers of such a confidence were right among the version's own
test answers, averaged over what was served. It holds while a question still has the answer that it
had: where the truth itself has changed nothing here sees it, so that this asks for a look at most.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from helpers.monitor.checks import Served, judge_series, too_little
from helpers.monitor.service import Service
from helpers.monitor.watched import FALL, STEPS, Watched, certainty_of
from helpers.monitor.windows import Tally
from helpers.records import AnswerRow, Estimate, Finding, WorkbookError

if TYPE_CHECKING:
    from numpy import ndarray

FEWEST = 50  # test answers with a confidence: fewer calibrate nothing
FEWEST_OF_A_KIND = 5  # right ones, and wrong ones
RESAMPLES = 200
DRAWS = (0.01, 0.99)  # between these 95% of the truths lie: a test part is small
LEVEL = math.sqrt(10)  # the penalty that lets no fit run away is a tenth on the level
ESTIMATED = Watched("estimated_accuracy", FALL, "ESTIMATE, without labels: share of right answers")


def accuracy_check(served: Served, service: Service) -> Finding:
    """The estimated accuracy of the window, and whether it has fallen against the first weeks."""
    name = ESTIMATED.name
    series = served.series(name)
    try:
        if series is None or service.version is None:
            raise WorkbookError("the engine gives no logprobs (no `confidence` in the live log)")
        answers = service.test_answers()
        calibration = calibrate(answers)
    except (WorkbookError, ValueError, OSError) as error:
        return too_little(name, f"not available: {error}")
    levels = (series.values * STEPS).round().astype(int)
    calibrated = series._replace(values=calibration[0, levels])
    finding = judge_series(ESTIMATED, name, calibrated)
    _, window = series.parts(series.recent)
    update = {
        "evidence": f"{finding.evidence}; calibrated on {len(answers)} test answers; no concept"
        " drift is assumed",
        "estimate": estimate_accuracy(calibration, window) if window else None,
        "threshold": service.version.eval_results and service.version.eval_results.accuracy.value,
    }
    return finding.model_copy(update=update)


def calibrate(answers: Sequence[AnswerRow]) -> ndarray:
    """The share of right answers by certainty, (1 + RESAMPLES, STEPS + 1).

    A logistic fit on the log odds of the certainty: first of all answers, then of answers drawn
    anew, conversation by conversation. WorkbookError where they are too few or of one kind.
    """
    import numpy
    from sklearn.linear_model import LogisticRegression

    rows = [row for row in answers if row.confidence is not None and "accuracy" in row.scores]
    right = numpy.array([row.scores["accuracy"] >= 0.5 for row in rows], int)
    rarer = min(right.sum(), len(rows) - right.sum())
    if len(rows) < FEWEST or rarer < FEWEST_OF_A_KIND:
        raise WorkbookError(
            f"{len(rows)} of {len(answers)} test answers have a confidence and a score, {rarer} of"
            f" the rarer kind (right or wrong); {FEWEST} and {FEWEST_OF_A_KIND} are needed"
        )
    seen = _log_odds([certainty_of(row.confidence or 0.0) for row in rows])
    levels = _log_odds([step / STEPS for step in range(STEPS + 1)])
    groups, place = numpy.unique([row.group for row in rows], return_inverse=True)
    even = [1 / len(groups)] * len(groups)
    drawn = numpy.random.default_rng(0).multinomial(len(groups), even, RESAMPLES)
    weights = numpy.concatenate([numpy.ones((1, len(groups))), drawn])[:, place]  # (fits, rows)
    fit = LogisticRegression(fit_intercept=False, solver="newton-cholesky", tol=1e-8)
    fits = [fit.fit(seen, right, each).predict_proba(levels)[:, 1] for each in weights]
    return numpy.stack(fits)


def _log_odds(certainties: Sequence[float]) -> ndarray:
    """Beside LEVEL, for the fit; the ends of the scale are half a step away from 0 and 1."""
    import numpy
    from scipy.special import logit

    odds = logit(numpy.clip(certainties, 0.5 / STEPS, 1 - 0.5 / STEPS))
    return numpy.stack([numpy.full_like(odds, LEVEL), odds], axis=1)


def estimate_accuracy(calibration: ndarray, certainties: Tally) -> Estimate:
    """The share of right answers among these; 95% over what was tested and what was asked."""
    import numpy

    n = certainties.total()
    shares = numpy.zeros(STEPS + 1)
    for certainty, count in certainties.items():
        shares[round(certainty * STEPS)] = count / n
    drawn = numpy.random.default_rng(0).multinomial(n, shares, RESAMPLES) / n
    low, high = numpy.quantile((drawn * calibration[1:]).sum(axis=1), DRAWS)
    value = float(shares @ calibration[0])
    return Estimate(value=value, low=min(value, float(low)), high=max(value, float(high)), n=n)
