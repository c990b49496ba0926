"""How often the gate promotes by luck, how often its interval holds the truth, how soon it sees
a real gain.

python -m benchmarks.statistics [--json] [--repeats N]

Everything is drawn with one seed and judged by the functions that notebook 04 calls (`from_counts`,
`decide`, `findings_against`, `count_attempts`), once per table of (gained, lost, rows), since what
they say depends on nothing else; that `compare_results` says the same of whole rows is checked
first. Beside them stand the rules in use elsewhere. With --json the last line is one object;
without, the tables of docs/statistics.md.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from helpers.evaluate import TAIL, compare_results, count_attempts, decide, findings_against
from helpers.evaluate.statistics import attempt_alpha, from_counts, wilson
from helpers.records import AnswerRow, MetricComparison, verdict_of
from helpers.tasks import Task

SEED = 20261125
SIZES, FLIPS = (20, 50, 100, 200, 400), (0.1, 0.2, 0.3, 0.4)
DIFFERENCES = (0.0, 0.05, 0.1)  # true differences at which coverage is measured
WEEKS = 52
Table = list[dict[str, Any]]
TASK = Task(
    name="simulation", folder=Path(), shipped=True, instructions_full="-", instructions_short="-",
    accuracy_from="scorer", targets={"accuracy": 0.5},
)  # fmt: skip


def rows(hits: list[int]) -> list[AnswerRow]:
    """The rows of a rung with these scores."""
    return [row(i, hit) for i, hit in enumerate(hits)]


@cache
def row(i: int, hit: int, size: int = 1) -> AnswerRow:
    """Row i, which `size` rows share a group with."""
    scores = {"accuracy": float(hit)}
    nothing = {"answer": "", "latency_ms": 0.0, "tokens_in": 0, "tokens_out": 0}
    return AnswerRow(id=f"{i}", group=f"{i // size}", scores=scores, **nothing)


@cache
def judged(gained: int, lost: int, n: int, alpha: float = TAIL) -> tuple[str, float, float]:
    """(04's verdict, the interval's ends) of this table; min_gain 0, and no target."""
    difference = from_counts(gained, lost, n, n)
    surer = from_counts(gained, lost, n, n, alpha)
    verdict = decide(difference, surer, 0.0)
    compared = MetricComparison(
        difference=difference, method="", gained=gained, lost=lost, margin=0.0, verdict=verdict
    )
    return verdict_on({"accuracy": compared}), difference.low, difference.high


def verdict_on(comparison: dict[str, MetricComparison]) -> str:
    """What 04 says of a comparison with one opponent."""
    return verdict_of(findings_against(TASK, {"prompt": comparison}))


def check_shortcut(rng: np.random.Generator, alphas: list[float]) -> None:
    """`judged` starts from counts to be quick; `compare_results` on whole rows has to say the
    same."""
    for n in SIZES:
        for gained, lost in draw(rng, n, 0.3, 0.1, 20).tolist():
            alpha, same = alphas[int(rng.integers(WEEKS))], [1] * (n - gained - lost)
            ours, theirs = (
                rows([1] * gained + [0] * lost + same),
                rows([0] * gained + [1] * lost + same),
            )
            compared = compare_results(ours, theirs, TASK, 0.0, alpha)
            difference = compared["accuracy"].difference
            whole = (verdict_on(compared), difference.low, difference.high)
            assert whole == judged(gained, lost, n, alpha), (gained, lost, n, alpha)


def draw(
    rng: np.random.Generator, n: int, flips: float, difference: float, repeats: int
) -> np.ndarray:
    """(gained, lost) of `repeats` experiments, shape [repeats, 2]."""
    return rng.multinomial(
        n, [(flips + difference) / 2, (flips - difference) / 2, 1 - flips], repeats
    )[:, :2]


def share(draws: np.ndarray, holds: Callable[[int, int], bool]) -> float:
    """How often something holds of (gained, lost); asked once for each pair that occurs."""
    pairs, counts = np.unique(draws, axis=0, return_counts=True)
    return float(
        sum(
            times
            for (b, c), times in zip(pairs.tolist(), counts.tolist(), strict=True)
            if holds(b, c)
        )
        / len(draws)
    )


def wald(gained: int, lost: int, n: int) -> tuple[float, float]:
    """The textbook interval d ± 1.96·se."""
    d = (gained - lost) / n
    half = 1.96 * math.sqrt(((gained + lost) / n - d * d) / n)
    return d - half, d + half


@cache
def bootstrap(gained: int, lost: int, n: int) -> tuple[float, float]:
    """The percentile bootstrap over rows, 1,000 resamples."""
    rng = np.random.default_rng([SEED, gained, lost, n])
    b, c = rng.multinomial(n, [gained / n, lost / n, (n - gained - lost) / n], 1000).T[:2]
    low, high = np.quantile((b - c) / n, [0.025, 0.975])
    return float(low), float(high)


def unpaired(gained: int, lost: int, n: int) -> bool:
    """Two intervals that do not overlap, with half of the other rows right for both."""
    both = (n - gained - lost) / 2
    return wilson(both + gained, n)[0] > wilson(both + lost, n)[1]


USUAL: dict[str, Callable[[int, int, int], bool]] = {
    "the gate": lambda b, c, n: judged(b, c, n)[0] == "pass",
    "lift >= 5 points": lambda b, c, n: (b - c) / n >= 0.05,
    "tuned >= base": lambda b, c, n: b >= c,
    "Wald lower bound > 0": lambda b, c, n: wald(b, c, n)[0] > 0,
    "bootstrap lower bound > 0": lambda b, c, n: bootstrap(b, c, n)[0] > 0,
    "intervals do not overlap": unpaired,
}
INTERVALS: dict[str, Callable[[int, int, int], tuple[float, float]]] = {
    "Bonett-Price (ours)": lambda b, c, n: judged(b, c, n)[1:],
    "Wald": wald,
    "percentile bootstrap": bootstrap,
}


def cells(rng: np.random.Generator, repeats: int) -> Table:
    """One row per n and share of flips: false promotions and claims of each rule, coverage of
    each interval, power."""
    table = []
    for n in SIZES:
        for flips in FLIPS:
            none, ten = draw(rng, n, flips, 0.0, repeats), draw(rng, n, flips, 0.1, repeats)
            row: dict[str, Any] = {"n": n, "flips": flips}
            for name, rule in USUAL.items():
                row[f"promoted: {name}"] = share(none, lambda b, c, rule=rule, n=n: rule(b, c, n))
                row[f"power: {name}"] = share(ten, lambda b, c, rule=rule, n=n: rule(b, c, n))
            claims = share(
                none, lambda b, c, n=n: not judged(b, c, n)[1] <= 0 <= judged(b, c, n)[2]
            )
            row["false claims"] = claims
            for name, interval in INTERVALS.items():
                for d in DIFFERENCES:
                    seen = none if d == 0 else ten if d == 0.1 else draw(rng, n, flips, d, repeats)

                    def holds(
                        b: int, c: int, interval: Any = interval, n: int = n, d: float = d
                    ) -> bool:
                        low, high = interval(b, c, n)
                        return low <= d <= high

                    row[f"coverage {d:g}: {name}"] = share(seen, holds)
            table.append(row)
    return table


def alphas_of_a_year() -> list[float]:
    """What each of 52 weekly attempts is allowed, as 04 counts them from attempts.jsonl."""
    start = datetime(2026, 1, 4, tzinfo=UTC)
    lines = [
        {"key": f"{w}", "rows": "same", "n": 100, "at": (start + timedelta(weeks=w)).isoformat()}
        for w in range(WEEKS)
    ]
    found = [count_attempts(lines[: w + 1], f"{w}").alpha for w in range(WEEKS)]
    assert found == [attempt_alpha(w + 1) for w in range(WEEKS)]
    return found


def years(rng: np.random.Generator, repeats: int) -> Table:
    """How many years of 52 candidates without a true gain promote at least one: with the budget,
    and at 95% each week."""
    table, alphas = [], alphas_of_a_year()
    for n in (50, 118, 400):
        for flips in FLIPS:
            spent, naive = np.zeros(repeats, bool), np.zeros(repeats, bool)
            for alpha in alphas:
                draws = draw(rng, n, flips, 0.0, repeats)
                pairs, place = np.unique(draws, axis=0, return_inverse=True)
                first = [judged(b, c, n)[0] == "pass" for b, c in pairs.tolist()]
                # what does not pass at 2.5% does not pass at less
                later = [
                    ok and judged(b, c, n, alpha)[0] == "pass"
                    for (b, c), ok in zip(pairs.tolist(), first, strict=True)
                ]
                naive |= np.array(first)[place.ravel()]
                spent |= np.array(later)[place.ravel()]
            table.append(
                {
                    "n": n,
                    "flips": flips,
                    "with the budget": spent.mean(),
                    "95% every week": naive.mean(),
                }
            )
    return table


def clustered(rng: np.random.Generator, repeats: int) -> Table:
    """Conversations of four rows that flip together: claims of a difference where there is none,
    with and without groups."""
    table = []
    for conversations in (15, 30, 100):
        false = {"with groups": 0, "rows as independent": 0}
        for _ in range(repeats):
            shift = np.repeat(rng.choice([-1, 0, 1], conversations, p=[0.1, 0.8, 0.1]), 4)
            alone = rng.random(len(shift)) < 0.2  # and some rows on their own
            shift = np.where(alone, rng.choice([-1, 0, 1], len(shift), p=[0.1, 0.8, 0.1]), shift)
            theirs = rows((shift < 0).astype(int).tolist())
            for name in false:
                size = 4 if name == "with groups" else 1
                hits = (shift > 0).astype(int).tolist()
                ours = [row(i, hit, size) for i, hit in enumerate(hits)]
                difference = compare_results(ours, theirs, TASK)["accuracy"].difference
                false[name] += not difference.low <= 0 <= difference.high
        table.append(
            {"conversations": conversations, "rows": 4 * conversations}
            | {k: v / repeats for k, v in false.items()}
        )
    return table


def figure(value: float, repeats: int, better: str, peer: str = "") -> dict[str, Any]:
    """One entry of the JSON object; the interval is that of the simulation."""
    low, high = wilson(value * repeats, repeats)
    entry = {
        "kind": "rate",
        "value": value,
        "low": low,
        "high": high,
        "n": repeats,
        "unit": "share",
        "better": better,
    }
    return entry | ({"peer": peer} if peer else {})


def summary(table: Table, year: Table, groups: Table, repeats: int) -> dict[str, Any]:
    """The named figures: the worst cell of each kind, so that no average hides it."""
    at = {(row["n"], row["flips"]): row for row in table}
    ours = "Bonett-Price (ours)"
    cover = {d: [row[f"coverage {d:g}: {ours}"] for row in table] for d in DIFFERENCES}
    usual = [at[n, 0.2][f"coverage {d:g}: {ours}"] for n in SIZES if n >= 50 for d in DIFFERENCES]
    out = {
        "false_promotion_worst": figure(
            max(row["promoted: the gate"] for row in table), repeats, "lower"
        ),
        "false_claim_worst": figure(max(row["false claims"] for row in table), repeats, "lower"),
        "coverage_worst": figure(min(min(values) for values in cover.values()), repeats, "higher"),
        "coverage_20_percent_flips_low": figure(min(usual), repeats, "higher"),
        "coverage_20_percent_flips_high": figure(max(usual), repeats, "lower"),
        "power_10_points_n400": figure(at[400, 0.2]["power: the gate"], repeats, "higher"),
        "year_false_promotion": figure(
            max(row["with the budget"] for row in year), repeats, "lower"
        ),
        "clustered_false_claim_worst": figure(
            max(r["with groups"] for r in groups), max(100, repeats // 10), "lower"
        ),
    }
    for peer, name in (
        ("lift >= 5 points", "lift_5"),
        ("tuned >= base", "at_least_base"),
        ("Wald lower bound > 0", "wald"),
        ("bootstrap lower bound > 0", "bootstrap"),
    ):
        worst = max(row[f"promoted: {peer}"] for row in table)
        out[f"{name}_false_promotion_worst"] = figure(worst, repeats, "lower", peer)
    for peer in ("Wald", "percentile bootstrap"):
        worst = min(row[f"coverage {d:g}: {peer}"] for row in table for d in DIFFERENCES)
        out[f"{peer.split()[-1].lower()}_coverage_worst"] = figure(worst, repeats, "higher", peer)
    weekly = max(row["95% every week"] for row in year)
    return out | {"year_95_every_week": figure(weekly, repeats, "lower", "a 95% bound every week")}


def markdown(table: Table) -> str:
    """Rows as a Markdown table, shares in percent."""
    names = list(table[0])
    shown = [
        [f"{100 * v:.1f}%" if isinstance(v, float) and k != "n" else str(v) for k, v in row.items()]
        for row in table
    ]
    return "\n".join(
        "| " + " | ".join(line) + " |" for line in [names, ["---"] * len(names), *shown]
    )


def main(arguments: list[str] | None = None) -> dict[str, Any]:
    """Simulate, print, return the named figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="one JSON object on the last line")
    parser.add_argument("--repeats", type=int, default=10_000, help="experiments per cell")
    given = parser.parse_args(arguments)
    started, rng = time.monotonic(), np.random.default_rng(SEED)
    check_shortcut(rng, alphas_of_a_year())
    table, year = cells(rng, given.repeats), years(rng, given.repeats)
    groups = clustered(rng, max(100, given.repeats // 10))
    out = summary(table, year, groups, given.repeats)
    if given.json:
        print(f"{time.monotonic() - started:.0f} s", file=sys.stderr)
        print(json.dumps(out))
        return out
    promoted = [
        {k.removeprefix("promoted: "): v for k, v in r.items() if k[:2] in ("n", "fl", "pr")}
        for r in table
    ]
    power = [
        {k.removeprefix("power: "): v for k, v in r.items() if k[:2] in ("n", "fl", "po")}
        for r in table
    ]
    covered = [
        {k.removeprefix("coverage "): v for k, v in r.items() if k[:2] in ("n", "fl", "co")}
        for r in table
    ]
    parts = {
        "Promoted, no true gain": promoted,
        "Promoted, 10 points better": power,
        "Coverage": covered,
        "Years with a false promotion": year,
        "Conversations": groups,
    }
    for title, part in parts.items():
        print(f"\n## {title}\n\n{markdown(part)}")
    named = [{"figure": k} | {x: v[x] for x in ("value", "low", "high")} for k, v in out.items()]
    print(f"\n## Worst cells\n\n{markdown(named)}")
    print(f"\n{given.repeats} repeats, {time.monotonic() - started:.0f} s")
    return out


if __name__ == "__main__":
    main()
