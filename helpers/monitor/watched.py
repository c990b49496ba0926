"""What is watched: every quantity that one answered request tells, as a number from 0 to 1."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Literal, NamedTuple

from helpers import evaluate, store
from helpers.records import LiveRow, Severity, TrainingExample
from helpers.tasks import Task, load_examples

STEPS = 200  # values are rounded to so many, so that a year of them stays a short list
LONGEST = 5.0  # powers of ten: of an answer's characters, and of its milliseconds
MOST_ANSWERS = 10_000  # whose numbers are remembered
SLICE = ", "  # between a quantity and its slice: `feedback_mean, category = KE`
SLICED = ("format_compliance", "feedback_mean")
WORD = re.compile(r"\w{3,}")
COUNTED = 2  # other numbers of the same row have another number here
REFUSED_IN = 200  # characters: a refusal comes first
REFUSAL = re.compile(
    r"\b(I('m| am) (sorry|unable|not able)|I can(no|')t|as an AI|es tut mir leid|ich kann nicht"
    r"|ich kann leider|je ne peux pas|désolé|lo siento|no puedo|mi dispiace|non posso"
    r"|não posso)\b",
    re.IGNORECASE,
)
COMMON = {  # words of three letters and more that are common in one language
    "de": "der die das und ist nicht ich mit auf für ein eine wie aber wir bei",
    "en": "the and you that not with this have for are was but what can from",
    "es": "los las que por con para una pero como más está esto muy hay",
    "fr": "les des est une pas pour dans que qui sur vous avec mais nous",
    "it": "che non per una sono con del della questo come anche più gli nel",
    "nl": "het een van dat niet zijn voor met maar ook naar wat mijn nog",
    "pl": "nie się jest jak ale dla czy tak przez mam mój bez już tylko",
    "pt": "que não uma para com por mais como mas dos você isso meu está",
}
LANGUAGES = {name: frozenset(words.split()) for name, words in COMMON.items()}
COMMON_WORDS = frozenset().union(*LANGUAGES.values())


@dataclass(frozen=True)
class Watched:
    """One quantity, and what a change of it means.

    `budget` is its share of a year's false alarms (by Ville's bound; docs/statistics.md says what
    was measured), `matters` the least change that is worth telling, both on the scale of 0 to 1;
    `stakes` are for how large a change the bets are made (evidence.log_evidence).
    """

    name: str
    change: Literal["fall", "rise", "shift"]
    budget: float
    matters: float
    unit: str
    severity: Severity = "warning"
    shown: Callable[[float], float] = float  # as people read it
    stakes: tuple[float, ...] = (0.2, 0.5)


def stars(share: float) -> float:
    """A rating as people gave it, 1 to 5."""
    return 1 + 4 * share


def _power(share: float) -> float:
    return 10 ** (LONGEST * share)


WATCHED = (
    Watched("format_compliance", "fall", 0.04, 0.02, "share of answers in format", "critical"),
    Watched("feedback_mean", "fall", 0.06, 0.0625, "rating, 1 to 5", "critical", stars, (0.35,)),
    Watched("error_rate", "rise", 0.01, 0.05, "share of failed requests"),
    Watched("feedback_rate", "shift", 0.01, 0.15, "share of rated requests"),
    Watched("correction_rate", "rise", 0.01, 0.05, "share of corrected answers"),
    Watched("refusal_rate", "rise", 0.01, 0.03, "share of empty answers and refusals"),
    Watched("answer_length", "shift", 0.01, 0.023, "characters, geometric mean", shown=_power),
    Watched("new_words", "rise", 0.01, 0.15, "share of words that training never saw"),
    Watched("latency_p95", "rise", 0.01, 0.05, "share of answers slower than task.yaml allows"),
)
SLICE_BUDGET = 0.01  # shared by all slices of all quantities
SLICE_STAKES = (0.6,)  # a slice has few rows: only a large change can be seen in it


class AnswerNumbers(NamedTuple):
    """What the text of an answer tells; most answers of a task come many times."""

    format_compliance: float
    label: str  # the slice of this answer
    refusal_rate: float
    answer_length: float


@dataclass(frozen=True)
class Reading:
    """What turning a row into numbers needs to know of the task."""

    task: Task
    vocabulary: Mapping[str, int] = field(default_factory=dict)  # in how many training inputs
    inputs: int = 0  # of training; 0: not known
    answers: dict[str, AnswerNumbers] = field(default_factory=dict)  # of those seen before

    @property
    def settings(self) -> str:
        """Changes whenever the same row would give other numbers."""
        ceiling = self.task.targets.get("latency_p95")
        return store.fingerprint([COUNTED, self.task.fingerprint, ceiling])


def reading_of(task: Task, dataset_version: str | None) -> Reading:
    """With the words of the training part that the version saw, else of the task's own examples."""
    folder = store.home() / "datasets" / (dataset_version or "-")
    texts: list[str] = []
    if (folder / "train.jsonl").exists():
        for row in store.read_jsonl(folder / "train.jsonl"):
            texts.append(TrainingExample.model_validate(row).user_text)
    elif task.data_file("human"):
        texts = [example.user_text for example in load_examples(task, "human").examples]
    vocabulary = Counter(word for text in texts for word in words_of(text))
    return Reading(task, dict(vocabulary), len(texts))  # of a plain dict sets can be taken


def words_of(text: str) -> set[str]:
    """The different words of a text."""
    return set(WORD.findall(text.lower()))


def question_of(row: LiveRow) -> str:
    """What the user's turns say."""
    turns = [turn for turn in row.messages if turn.get("role") == "user"]
    return " ".join(str(turn.get("content") or "") for turn in turns)


def rating_of(row: LiveRow) -> float | None:
    """1 to 5; what is no such number is no rating."""
    score = row.feedback_score
    return score if score is not None and 1 <= score <= 5 else None


def numbers_of(row: LiveRow, reading: Reading) -> dict[str, float]:
    """Every watched quantity that this row tells, for the whole and for its slices."""
    rating = rating_of(row)
    is_ok = row.is_ok
    numbers = {
        "error_rate": float(not is_ok),
        "feedback_rate": float(rating is not None),
        "correction_rate": float(bool(row.correction)),
    }
    if rating is not None:
        numbers["feedback_mean"] = _rounded((rating - 1) / 4)
    label = ""
    if is_ok and row.text != "none":
        answer = _judged_answer(row.answer, reading)
        label = answer.label
        numbers["format_compliance"] = answer.format_compliance
        numbers["refusal_rate"] = answer.refusal_rate
        numbers["answer_length"] = answer.answer_length
    ceiling = reading.task.targets.get("latency_p95")
    if is_ok and row.latency_ms and ceiling is not None:
        numbers["latency_p95"] = float(row.latency_ms > ceiling)
    words = words_of(question_of(row))
    if words and reading.vocabulary:
        unknown = words.difference(reading.vocabulary)
        numbers["new_words"] = _rounded(len(unknown) / len(words))
    for part in _slices_of(row, label, words):
        for name in SLICED:
            if name in numbers:
                numbers[f"{name}{SLICE}{part}"] = numbers[name]
    return numbers


def _slices_of(row: LiveRow, label: str, words: set[str]) -> list[str]:
    """Which parts of the traffic a request belongs to."""
    language = language_of(words)
    slices = [f"{name} = {value}" for name, value in row.fields.items() if value]
    if row.caller:
        slices.append(f"caller = {row.caller}")
    if language:
        slices.append(f"language = {language}")
    if label:
        slices.append(label)
    return slices


def language_of(words: set[str]) -> str:
    """The language most of whose commonest words are there; "" where fewer than two decide it."""
    return _language_of(frozenset(words & COMMON_WORDS))


@lru_cache(MOST_ANSWERS)
def _language_of(common: frozenset[str]) -> str:
    votes = sorted((len(common & words), name) for name, words in LANGUAGES.items())
    return votes[-1][1] if votes[-1][0] > votes[-2][0] + 1 else ""


def _rounded(share: float) -> float:
    return round(min(1.0, share) * STEPS) / STEPS


def _judged_answer(answer: str, reading: Reading) -> AnswerNumbers:
    known = reading.answers.get(answer)
    if known is None:
        if len(reading.answers) > MOST_ANSWERS:
            reading.answers.clear()
        compliance, label = _judge_format(answer, reading.task)
        refused = REFUSAL.search(answer[:REFUSED_IN])
        refusal = float(refused is not None or not answer.strip())
        length = _rounded(math.log10(1 + len(answer)) / LONGEST)
        known = reading.answers[answer] = AnswerNumbers(compliance, label, refusal, length)
    return known


def _judge_format(answer: str, task: Task) -> tuple[float, str]:
    if task.schema is None:
        return float(bool(answer.strip())), ""
    if evaluate.format_reason(answer, task.schema):
        return 0.0, ""
    for name in task.scored_fields[:1]:
        if "enum" in task.schema["properties"][name]:
            return 1.0, f"{name} = {evaluate.strict_json(answer)[name]}"
    return 1.0, ""
