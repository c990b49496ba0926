"""Simulated production and live logs for the shipped task support_triage. EVERY ROW IS SIMULATED.

Kestrel Home is a fictional company: no customer wrote these messages, and no model gave these answers. Messages are
put together from hand-written fragments, answers follow the house rules with seeded mistakes, the dirt of real logs is
planted and counted, personal data are invented. `python -m benchmarks.simulate_logs` writes the same bytes each time.
"""

import json
import random
from collections import Counter
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

Row = dict[str, Any]
FRAGMENTS = Path(__file__).parent / "data" / "support_triage_fragments.jsonl"
TASK_DIR = Path(__file__).parents[1] / "helpers" / "tasks" / "support_triage"
SYSTEM = {
    "role": "system",
    "content": "You triage messages for Kestrel Home. Answer with one JSON object.",
}
PRIORITY = {
    "MU": "P2",
    "VO": "P2",
    "KE": "P2",
    "RA": "P3",
    "TO": "P3",
    "NA": "P3",
    "SI": "P4",
    "LI": "P4",
}
ACTION = {
    "MU": "ledger",
    "TO": "retain",
    "RA": "trace",
    "SI": "guide",
    "VO": "verify",
    "NA": "dpo",
    "LI": "archive",
}
MIX = {"KE": 17, "SI": 15, "MU": 14, "RA": 13, "VO": 12, "TO": 10, "LI": 10, "NA": 9}
PASTED = {
    "pii_email": (
        "My mail is mara.lindqvist@example.com",
        "Write to t_okafor@example.org",
        "ines.duarte@example.net",
    ),
    "pii_phone": ("Call me on +44 7700 900123", "My number: +1 202-555-0147", "Ring 020 7946 0958"),
    "pii_iban": (
        "IBAN DE89 3704 0044 0532 0130 00",
        "GB82 WEST 1234 5698 7654 32",
        "My IBAN NO9386011117947",
    ),
    "pii_card": (
        "Card 4111 1111 1111 1111",
        "5555 5555 5555 4444",
        "No. 4242-4242-4242-4242",
        "Amex 378282246310005",
    ),
    "pii_address": (
        "Tom Okafor, 12 Harbour Street, Leeds LS1 4AB",
        "Hanna Vogelsang, Lindenweg 7, 22301 Hamburg",
        "Piotr Zielony, ul. Polna 3, 00-625 Warszawa",
        "Leo Marchetti, Via Roma 9, 50123 Firenze",
    ),
    "secret": (
        "aws key AKIAIOSFODNN7EXAMPLE",
        "token ghp_" + "FakeFake0" * 4,
        "-----BEGIN RSA PRIVATE KEY----- MIIEfakefakefake",
        "secret wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY",
    ),
}
dumps = json.JSONEncoder(
    ensure_ascii=False, separators=(",", ":")
).encode  # compact, the form of every answer
LOG_LINE = "2026-07-14T03:12:{:02d}Z hubd[412] WARN link lost, retry {} of 99, rssi -{} dBm, queue {} waiting\n"


def label(category: str, product: str, danger: bool | int, repeat: bool | int) -> dict[str, str]:
    """The right answer by the house rules; danger wins, then a repeated contact lifts P3 and P4 one step."""
    base = PRIORITY[category]
    lifted = f"P{max(2, int(base[1]) - 1)}" if repeat else base
    action = ("bugfix" if product == "app" else "swap") if category == "KE" else ACTION[category]
    return {
        "category": category,
        "priority": "P1" if danger else lifted,
        "product": product,
        "action": "escalate" if danger else action,
    }


class Simulator:
    """Fragments and one random generator; every method draws from it in a fixed order."""

    def __init__(self, fragments: list[Row], seed: int) -> None:
        self.rng, self.fragments = random.Random(seed), fragments
        self.decks: dict[str, list[Row]] = {}
        self.seen: set[str] = set()
        self.counts: Counter[str] = Counter()

    def deal(self, **wanted: Any) -> Row:
        """The next fragment of a shuffled deck, so that all of them are used about equally often."""
        deck = self.decks.setdefault(str(wanted), [])
        if not deck:
            deck += [
                f
                for f in self.fragments
                if all(f.get(key) == value for key, value in wanted.items())
            ]
            self.rng.shuffle(deck)
        return deck.pop()

    def message(
        self, kind: str = "core", product: str = "", limit: int = 200
    ) -> tuple[str, dict[str, str]]:
        """A new message, opener? + core + tail?, with its right answer; never the same text twice."""
        rng, prefix = self.rng, "foreign_" if kind == "foreign" else ""
        while True:
            wanted = {"c": rng.choices(list(MIX), list(MIX.values()))[0]} if kind == "core" else {}
            core = self.deal(kind=kind, **({"p": product} if product else wanted))
            text, repeat, speech = core["t"], 0, {"lang": core["lang"]} if prefix else {}
            if rng.random() < 0.68:  # a grumble that asks for nothing takes no tail that asks
                ask = {"ask": int(core["c"] != "LI" and rng.random() < 0.48)}
                tail = self.deal(kind=f"{prefix}tail", **(speech or ask))["t"]
                text = f"{text} {tail}" if text.endswith(("?", "!")) else f"{text}. {tail}"
            if rng.random() < 0.72:
                opener = self.deal(
                    kind=f"{prefix}opener", **(speech or {"r": int(rng.random() < 0.16)})
                )
                text, repeat = f"{opener['t']} {text}", opener.get("r", 0)
            if len(text) <= limit and text not in self.seen:
                self.seen.add(text)
                return text, label(core["c"], core["p"], core["d"], repeat)

    def answer(
        self, truth: dict[str, str], draw: float, right: float, not_json: float = 0.1
    ) -> tuple[str, bool]:
        """What the present system says, by a draw in 0..1: right, not JSON at all, or one or two wrong fields."""
        rng, said = self.rng, dumps(truth)
        if draw < right:
            return said, True
        if draw < right + not_json:
            prose = f"The customer writes about the {truth['product']}, I would treat it as {truth['priority']}."
            return rng.choice(
                (prose, said[: rng.randint(20, 60)], f"Sure! The triage: {said}")
            ), False
        choices = {
            "category": list(PRIORITY),
            "priority": ["P1", "P2", "P3", "P4"],
            "product": ["hub", "cam", "heat", "app", "plan"],
            "action": [*ACTION.values(), "swap", "bugfix"],
        }
        fields = rng.choices(
            ("priority", "product", "action", "category", "category action", "product priority"),
            (6, 4, 3, 1, 4, 2),
        )[0].split()
        return dumps(
            truth | {f: rng.choice([c for c in choices[f] if c != truth[f]]) for f in fields}
        ), False

    def score(self, right: bool) -> int:
        """Feedback that follows correctness, with some lucky and some grumpy customers."""
        return self.rng.choices(
            (1, 2, 3, 4, 5), (1, 2, 6, 33, 58) if right else (47, 34, 14, 4.5, 0.5)
        )[0]

    def row(self, text: str, truth: dict[str, str], kind: str = "clean", liked: float = 0.0) -> Row:
        """One logged request; `liked` is the share lifted to a score of 4 or 5, to pass the filter on scores."""
        forced = self.rng.random() < liked
        answer, right = self.answer(truth, self.rng.random(), 0.96 if forced else 0.54)
        grade = (
            self.rng.choice((4, 5))
            if forced
            else self.score(right)
            if self.rng.random() < 0.32
            else None
        )
        talk = [{"role": "user", "content": text}, {"role": "assistant", "content": answer}]
        return {
            "at": self.when(
                datetime(2026, 5, 1, tzinfo=UTC) + timedelta(days=self.rng.randrange(184))
            ),
            "conv": f"c{self.rng.randrange(16**7):07x}",
            "messages": [SYSTEM][: self.rng.random() < 0.3] + talk,
            "score": grade,
            "kind": kind,
            "right": right,
            "truth": truth,
        }

    def when(self, day: datetime) -> datetime:
        """A moment of the day, mostly in waking hours."""
        return day + timedelta(seconds=int(min(23.9, max(0.0, self.rng.gauss(14, 4))) * 3600))

    def touch(self, text: str) -> str:
        """The same message again with a typo, other punctuation, one word more, or without capitals."""
        word = max(text.split(), key=lambda w: (w.isalpha(), len(w)))
        cut = self.rng.randrange(1, max(2, len(word) - 1))
        other = (
            text.replace(word, word[:cut] + word[cut + 1 :], 1),
            text.rstrip(".?!") + "!!",
            text.replace(word, f"really {word}", 1),
            text.lower() if text != text.lower() else text + " :)",
        )
        return self.rng.choice(other)


def clean_rows(sim: Simulator) -> list[Row]:
    """Traffic without planted dirt; some customers go on, minutes later, about the same product."""
    rows: list[Row] = []
    while len(rows) < 2640:
        rows.append(sim.row(*sim.message()))
        if sim.rng.random() < 0.07:
            for _ in range(sim.rng.choice((1, 1, 2))):
                more = sim.row(*sim.message(product=rows[-1]["truth"]["product"]))
                later = rows[-1]["at"] + timedelta(minutes=sim.rng.randint(2, 50))
                rows.append(more | {"conv": rows[-1]["conv"], "at": later})
    return rows


def dirty_rows(sim: Simulator, clean: list[Row], human: list[Row]) -> list[Row]:
    """The dirt that real logs carry, each kind often enough under a score of 4 or 5."""
    rng, dirt = sim.rng, []
    liked = [r for r in clean if (r["score"] or 0) >= 4]
    for i in range(350):
        source = rng.choice(liked if i % 3 == 0 else clean)
        text, same = source["messages"][-2]["content"], i < 150
        kind = "exact_duplicate" if same else "near_duplicate"
        copy = sim.row(text if same else sim.touch(text), source["truth"], kind)
        if same or rng.random() < 0.75:  # a quarter of the near-duplicates is answered anew
            asked = (source if same else copy)["messages"][:-1]
            copy |= {
                "right": source["right"],
                "score": source["score"],
                "messages": [*asked, source["messages"][-1]],
            }
        dirt.append(copy)
    for i in range(96):
        kind = [*PASTED][i % 6]
        extra = PASTED[kind][i // 6 % len(PASTED[kind])]
        text, truth = sim.message(limit=198 - len(extra))
        dirt.append(sim.row(f"{text.rstrip('.')}. {extra}", truth, kind, 0.6))
    dirt += [sim.row(*sim.message("foreign"), "other_language", 0.3) for _ in range(90)]
    dirt += [
        sim.row(rng.choice(("", " ", "\n")), label("LI", "app", 0, 0), "empty", 0.5)
        for _ in range(25)
    ]
    for _ in range(12):
        text, truth = sim.message()
        log = (
            "".join(LOG_LINE.format(*(rng.randrange(10, 60) for _ in range(4))) for _ in range(7))
            * 40
        )
        dirt.append(sim.row(f"{text}\n{log}"[: rng.randint(8000, 20000)], truth, "endless", 0.8))
    for i, example in enumerate(rng.sample(human, min(40, len(human)))):
        text, truth = (
            example["messages"][-2]["content"],
            json.loads(example["messages"][-1]["content"]),
        )
        dirt.append(
            sim.row(
                text if i % 4 else sim.touch(text),
                truth,
                "leaked" if i % 4 else "leaked_changed",
                0.9,
            )
        )
    for i in range(18):
        bad = sim.row(
            *sim.message(), ("roles_swapped", "assistant_missing", "role_unknown")[i % 3], 1.0
        )
        *start, asked, said = bad["messages"]
        bad["messages"] = start + ([said, asked], [asked], [asked, said | {"role": "agent"}])[i % 3]
        dirt.append(bad)
    return dirt


def production(sim: Simulator, human: list[Row]) -> list[str]:
    """The lines of production.jsonl, sorted by time; 15 of them are cut short."""
    rng, lines, clean = sim.rng, [], clean_rows(sim)
    for row in rng.sample(clean, 15):
        row["kind"] = "broken_json"
    dirt = dirty_rows(sim, [r for r in clean if r["kind"] == "clean"], human)
    for i, row in enumerate(sorted(clean + dirt, key=lambda r: r["at"])):
        zone, kind, score = (
            timezone(timedelta(hours=2 * (rng.random() < 0.12))),
            row["kind"],
            row["score"] or 0,
        )
        line = json.dumps(
            {
                "id": f"prod-{i + 1:05d}",
                "created_at": row["at"].astimezone(zone).isoformat(),
                "conversation_id": row["conv"],
                "model_version": "prompt-2026-04",
                "messages": row["messages"],
                "feedback_score": row["score"],
            },
            ensure_ascii=False,
        )
        lines.append(line[: rng.randint(30, len(line) - 20)] if kind == "broken_json" else line)
        facts = {
            "rows": True,
            "scored": score > 0,
            "right": row["right"],
            "scored_4_or_5": score >= 4,
            kind: True,
            "wrong_scored_4_or_5": score >= 4 and not row["right"],
            f"{kind}_scored_4_or_5": score >= 4,
        }
        sim.counts.update(name for name, holds in facts.items() if holds)
    return lines


def live(sim: Simulator) -> list[str]:
    """Three weeks of live traffic: two steady ones, then a new product shows up and quality falls."""
    rng, lines, start = sim.rng, [], datetime(2026, 11, 1, tzinfo=UTC)
    for i, moment in enumerate(
        sorted(sim.when(start + timedelta(days=i % 21)) for i in range(609))
    ):
        week = (moment - start).days // 7 + 1
        new, failed = week == 3 and rng.random() < 0.34, rng.random() < 0.012
        text, truth = sim.message("sensor" if new else "core")
        skill = 0.28 if new else 0.74 if week == 3 else 0.80
        answer, right = sim.answer(
            truth, i * 0.618034 % 1, skill, 0.06
        )  # draws spread evenly over the days
        latency = 15000.0 if failed else rng.lognormvariate(6.54 if week == 3 else 6.33, 0.28)
        row = {
            "request_id": f"live-{i + 1:04d}",
            "created_at": moment.isoformat(),
            "conversation_id": f"l{rng.randrange(16**7):07x}",
            "version": "(simulated)",
            "messages": [*[SYSTEM][: rng.random() < 0.3], {"role": "user", "content": text}],
            "answer": "" if failed else answer,
            "latency_ms": round(latency, 1),
            "status": ("ok", "error")[failed],
            "feedback_score": sim.score(right) if not failed and rng.random() < 0.35 else None,
            "simulated": True,
        }
        lines.append(json.dumps(row, ensure_ascii=False))
        facts = {
            "live_rows": True,
            f"live_week_{week}": True,
            "live_errors": failed,
            "live_window_sensor": new,
            f"live_week_{week}_right": right and not failed,
        }
        sim.counts.update(name for name, holds in facts.items() if holds)
    return lines


def simulate(
    human_path: Path, fragments_path: Path, out_dir: Path, seed: int = 11
) -> dict[str, int]:
    """Write production.jsonl and live.jsonl into out_dir; return how many rows of each kind were planted."""
    human, fragments = (
        [json.loads(line) for line in Path(path).read_text("utf-8").split("\n") if line.strip()]
        for path in (human_path, fragments_path)
    )
    sim = Simulator(fragments, seed)
    Path(out_dir).mkdir(parents=True, exist_ok=True)
    for name, lines in (("production", production(sim, human)), ("live", live(sim))):
        (Path(out_dir) / f"{name}.jsonl").write_text("\n".join(lines) + "\n", "utf-8", newline="\n")
    return dict(sorted(sim.counts.items()))


if __name__ == "__main__":
    print(json.dumps(simulate(TASK_DIR / "human.jsonl", FRAGMENTS, TASK_DIR), indent=2))
