"""Simulated production and live logs for the shipped task support_triage. EVERY ROW IS SIMULATED.

Kestrel Home is a fictional company: no customer wrote these messages, and no model gave these
answers. Messages are put together from hand-written fragments, answers follow the house rules with
seeded mistakes, the dirt of real logs is planted and counted, personal data are invented.
`python -m benchmarks.simulate_logs` writes the same bytes each time: every draw keeps its place.
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
LOG_LINE = (
    "2026-07-14T03:12:{:02d}Z hubd[412] WARN link lost,"
    " retry {} of 99, rssi -{} dBm, queue {} waiting\n"
)
# Compact, the form of every answer.
dumps = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode


def label(category: str, product: str, danger: bool | int, repeat: bool | int) -> dict[str, str]:
    """The right answer by the house rules: danger wins, repeated contacts lift P3 and P4 a step."""
    base = PRIORITY[category]
    lifted = f"P{max(2, int(base[1]) - 1)}" if repeat else base
    action = ACTION.get(category) or ("bugfix" if product == "app" else "swap")  # KE: by product
    return {
        "category": category,
        "priority": "P1" if danger else lifted,
        "product": product,
        "action": "escalate" if danger else action,
    }


class Simulator:
    """Fragments and one random generator; every method draws from it in a fixed order."""

    def __init__(self, fragments: list[Row], seed: int) -> None:
        self.rng = random.Random(seed)
        self.fragments = fragments
        self.decks: dict[str, list[Row]] = {}
        self.seen: set[str] = set()
        self.counts: Counter[str] = Counter()

    def deal(self, **features: Any) -> Row:
        """The next fragment of a shuffled deck, so that all are used about equally often."""
        deck = self.decks.setdefault(str(features), [])
        if not deck:
            for fragment in self.fragments:
                if all(fragment.get(key) == value for key, value in features.items()):
                    deck.append(fragment)
            self.rng.shuffle(deck)
        return deck.pop()

    def message(
        self, kind: str = "core", product: str = "", limit: int = 200
    ) -> tuple[str, dict[str, str]]:
        """A new message, opener? + core + tail?, with its right answer; no text comes twice."""
        while True:
            text, truth = self._message(kind, product)
            if len(text) <= limit and text not in self.seen:
                self.seen.add(text)
                return text, truth

    def _message(self, kind: str, product: str) -> tuple[str, dict[str, str]]:
        rng = self.rng
        features: Row = {}
        if kind == "core":
            features = {"c": rng.choices(list(MIX), list(MIX.values()))[0]}
        if product:
            features = {"p": product}
        core = self.deal(kind=kind, **features)
        text = core["t"]
        repeat = 0
        prefix = ""
        language: Row = {}
        if kind == "foreign":
            prefix = "foreign_"
            language = {"lang": core["lang"]}
        if rng.random() < 0.68:  # a grumble that asks for nothing takes no tail that asks
            asks = {"ask": int(core["c"] != "LI" and rng.random() < 0.48)}
            tail = self.deal(kind=f"{prefix}tail", **(language or asks))["t"]
            text = f"{text} {tail}" if text.endswith(("?", "!")) else f"{text}. {tail}"
        if rng.random() < 0.72:
            repeats = language or {"r": int(rng.random() < 0.16)}
            opener = self.deal(kind=f"{prefix}opener", **repeats)
            text = f"{opener['t']} {text}"
            repeat = opener.get("r", 0)
        return text, label(core["c"], core["p"], core["d"], repeat)

    def answer(
        self, truth: dict[str, str], draw: float, right: float, not_json: float = 0.1
    ) -> tuple[str, bool]:
        """(the present system's answer, whether it is right), by a draw in 0..1.

        It is right, or no JSON at all, or has one or two wrong fields.
        """
        rng = self.rng
        text = dumps(truth)
        if draw < right:
            return text, True
        if draw < right + not_json:
            prose = (
                f"The customer writes about the {truth['product']},"
                f" I would treat it as {truth['priority']}."
            )
            broken = (prose, text[: rng.randint(20, 60)], f"Sure! The triage: {text}")
            return rng.choice(broken), False
        choices = {
            "category": list(PRIORITY),
            "priority": ["P1", "P2", "P3", "P4"],
            "product": ["hub", "cam", "heat", "app", "plan"],
            "action": [*ACTION.values(), "swap", "bugfix"],
        }
        fields = rng.choices(
            ("priority", "product", "action", "category", "category action", "product priority"),
            (6, 4, 3, 1, 4, 2),
        )[0]
        wrong = {}
        for field in fields.split():
            others = [choice for choice in choices[field] if choice != truth[field]]
            wrong[field] = rng.choice(others)
        return dumps(truth | wrong), False

    def score(self, right: bool) -> int:
        """Feedback that follows correctness, with some lucky and some grumpy customers."""
        weights = (1, 2, 6, 33, 58) if right else (47, 34, 14, 4.5, 0.5)
        return self.rng.choices((1, 2, 3, 4, 5), weights)[0]

    def row(self, text: str, truth: dict[str, str], kind: str = "clean", liked: float = 0.0) -> Row:
        """One logged request; `liked` is the share that is lifted over the filter on scores."""
        rng = self.rng
        lifted = rng.random() < liked
        answer, right = self.answer(truth, rng.random(), 0.96 if lifted else 0.54)
        score = None
        if lifted:
            score = rng.choice((4, 5))
        elif rng.random() < 0.32:
            score = self.score(right)
        at = self.when(datetime(2026, 5, 1, tzinfo=UTC) + timedelta(days=rng.randrange(184)))
        conversation = f"c{rng.randrange(16**7):07x}"
        turns = [{"role": "user", "content": text}, {"role": "assistant", "content": answer}]
        if rng.random() < 0.3:
            turns.insert(0, SYSTEM)
        return {
            "at": at,
            "conv": conversation,
            "messages": turns,
            "score": score,
            "kind": kind,
            "right": right,
            "truth": truth,
        }

    def when(self, day: datetime) -> datetime:
        """A moment of the day, mostly in waking hours."""
        return day + timedelta(seconds=int(min(23.9, max(0.0, self.rng.gauss(14, 4))) * 3600))

    def touch(self, text: str) -> str:
        """The same message with a typo, other punctuation, one word more, or without capitals."""
        word = max(text.split(), key=lambda w: (w.isalpha(), len(w)))
        cut = self.rng.randrange(1, max(2, len(word) - 1))
        variants = (
            text.replace(word, word[:cut] + word[cut + 1 :], 1),
            text.rstrip(".?!") + "!!",
            text.replace(word, f"really {word}", 1),
            text.lower() if text != text.lower() else text + " :)",
        )
        return self.rng.choice(variants)


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
    rows = copies(sim, clean)
    rows += pasted_rows(sim)
    for _ in range(90):
        rows.append(sim.row(*sim.message("foreign"), "other_language", 0.3))
    for _ in range(25):
        nothing = sim.rng.choice(("", " ", "\n"))
        rows.append(sim.row(nothing, label("LI", "app", 0, 0), "empty", 0.5))
    rows += endless_rows(sim)
    rows += leaked_rows(sim, human)
    rows += misshapen_rows(sim)
    return rows


def copies(sim: Simulator, clean: list[Row]) -> list[Row]:
    """Exact and near duplicates; a quarter of the near ones is answered anew."""
    rng = sim.rng
    liked = [row for row in clean if (row["score"] or 0) >= 4]
    rows = []
    for i in range(350):
        original = rng.choice(liked if i % 3 == 0 else clean)
        text = original["messages"][-2]["content"]
        exact = i < 150
        if exact:
            copy = sim.row(text, original["truth"], "exact_duplicate")
        else:
            copy = sim.row(sim.touch(text), original["truth"], "near_duplicate")
        if exact or rng.random() < 0.75:
            turns = (original if exact else copy)["messages"][:-1]
            copy["messages"] = [*turns, original["messages"][-1]]
            copy["score"] = original["score"]
            copy["right"] = original["right"]
        rows.append(copy)
    return rows


def pasted_rows(sim: Simulator) -> list[Row]:
    """Personal data and secrets at the end of a message."""
    rows = []
    for i in range(96):
        kind = [*PASTED][i % 6]
        extra = PASTED[kind][i // 6 % len(PASTED[kind])]
        text, truth = sim.message(limit=198 - len(extra))
        rows.append(sim.row(f"{text.rstrip('.')}. {extra}", truth, kind, 0.6))
    return rows


def endless_rows(sim: Simulator) -> list[Row]:
    """Messages with a whole log file in them."""
    rng = sim.rng
    rows = []
    for _ in range(12):
        text, truth = sim.message()
        lines = [LOG_LINE.format(*(rng.randrange(10, 60) for _ in range(4))) for _ in range(7)]
        log = "".join(lines) * 40
        rows.append(sim.row(f"{text}\n{log}"[: rng.randint(8000, 20000)], truth, "endless", 0.8))
    return rows


def leaked_rows(sim: Simulator, human: list[Row]) -> list[Row]:
    """Messages that stand among the verified examples, every fourth with a change."""
    rows = []
    for i, example in enumerate(sim.rng.sample(human, min(40, len(human)))):
        text = example["messages"][-2]["content"]
        truth = json.loads(example["messages"][-1]["content"])
        if i % 4:
            rows.append(sim.row(text, truth, "leaked", 0.9))
        else:
            rows.append(sim.row(sim.touch(text), truth, "leaked_changed", 0.9))
    return rows


def misshapen_rows(sim: Simulator) -> list[Row]:
    """Conversations with turns that are swapped, missing or of an unknown role."""
    rows = []
    for i in range(18):
        kind = ("roles_swapped", "assistant_missing", "role_unknown")[i % 3]
        row = sim.row(*sim.message(), kind, 1.0)
        *start, question, answer = row["messages"]
        ends = ([answer, question], [question], [question, answer | {"role": "agent"}])
        row["messages"] = start + ends[i % 3]
        rows.append(row)
    return rows


def production(sim: Simulator, human: list[Row]) -> list[str]:
    """The lines of production.jsonl, sorted by time; 15 of them are cut short."""
    rng = sim.rng
    clean = clean_rows(sim)
    for row in rng.sample(clean, 15):
        row["kind"] = "broken_json"
    dirt = dirty_rows(sim, [row for row in clean if row["kind"] == "clean"], human)
    lines = []
    for i, row in enumerate(sorted(clean + dirt, key=lambda row: row["at"])):
        zone = timezone(timedelta(hours=2 * (rng.random() < 0.12)))
        kind = row["kind"]
        score = row["score"] or 0
        logged = {
            "id": f"prod-{i + 1:05d}",
            "created_at": row["at"].astimezone(zone).isoformat(),
            "conversation_id": row["conv"],
            "model_version": "prompt-2026-04",
            "messages": row["messages"],
            "feedback_score": row["score"],
        }
        line = json.dumps(logged, ensure_ascii=False)
        if kind == "broken_json":
            line = line[: rng.randint(30, len(line) - 20)]
        lines.append(line)
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
    """Three weeks of live traffic: two steady ones, then a new product comes and quality falls."""
    rng = sim.rng
    start = datetime(2026, 11, 1, tzinfo=UTC)
    moments = sorted(sim.when(start + timedelta(days=i % 21)) for i in range(609))
    lines = []
    for i, moment in enumerate(moments):
        week = (moment - start).days // 7 + 1
        new = week == 3 and rng.random() < 0.34
        failed = rng.random() < 0.012
        text, truth = sim.message("sensor" if new else "core")
        skill = 0.74 if week == 3 else 0.80
        if new:
            skill = 0.28
        draw = i * 0.618034 % 1  # spread evenly over the days
        answer, right = sim.answer(truth, draw, skill, 0.06)
        latency = 15000.0 if failed else rng.lognormvariate(6.54 if week == 3 else 6.33, 0.28)
        conversation = f"l{rng.randrange(16**7):07x}"
        turns = [{"role": "user", "content": text}]
        if rng.random() < 0.3:
            turns.insert(0, SYSTEM)
        score = sim.score(right) if not failed and rng.random() < 0.35 else None
        row = {
            "request_id": f"live-{i + 1:04d}",
            "created_at": moment.isoformat(),
            "conversation_id": conversation,
            "version": "(simulated)",
            "messages": turns,
            "answer": "" if failed else answer,
            "latency_ms": round(latency, 1),
            "status": "error" if failed else "ok",
            "feedback_score": score,
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


def read_lines(path: Path) -> list[Row]:
    """The JSON values of a file."""
    lines = Path(path).read_text("utf-8").split("\n")
    return [json.loads(line) for line in lines if line.strip()]


def simulate(
    human_path: Path, fragments_path: Path, out_dir: Path, seed: int = 11
) -> dict[str, int]:
    """Write production.jsonl and live.jsonl into out_dir; return the planted rows by kind."""
    human = read_lines(human_path)
    sim = Simulator(read_lines(fragments_path), seed)
    Path(out_dir).mkdir(parents=True, exist_ok=True)
    for name, lines in (("production", production(sim, human)), ("live", live(sim))):
        (Path(out_dir) / f"{name}.jsonl").write_text("\n".join(lines) + "\n", "utf-8", newline="\n")
    return dict(sorted(sim.counts.items()))


if __name__ == "__main__":
    print(json.dumps(simulate(TASK_DIR / "human.jsonl", FRAGMENTS, TASK_DIR), indent=2))
