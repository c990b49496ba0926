"""What is watched: every quantity that one answered request tells, as a number from 0 to 1."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from heapq import nlargest
from typing import Any, NamedTuple

from helpers import evaluate, store
from helpers.records import GOOD_STATUS, Severity, TrainingExample
from helpers.tasks import Fields, Task, load_examples, pseudonymous

STEPS = 200  # values are rounded to so many, so that a year of them stays a short list
LONGEST = 5.0  # powers of ten: of an answer's characters, and of its milliseconds
MOST_ANSWERS = 10_000  # whose numbers are remembered
SLICE = ", "  # between a quantity and its slice: `feedback_mean, category = KE`
SLICED = ("format_compliance", "feedback_mean")
WORD = re.compile(r"\w{3,}")
COUNTED = 7  # other numbers of the same row have another number here
REFUSED_IN = 200  # characters: a refusal comes first
REFUSAL = re.compile(  # models write ’ as well as '
    r"\b(I(['’]m| am) (sorry|unable|not able)|(I can(no|['’])|I won['’])t|as an AI"
    r"|es tut mir leid|ich kann (\w+ ){0,3}nicht|je ne peux pas|désolé|lo siento|no puedo"
    r"|mi dispiace|non posso|não posso|sinto muito|het spijt me|ik kan (\w+ ){0,3}niet|przykro mi"
    r"|nie mogę|tyvärr kan jag inte|jag kan (\w+ ){0,3}inte|üzgünüm|не могу|не можу)\b"
    r"|申し訳|できません|抱歉|无法|無法|죄송|할 수 없",
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


FALL = (1,)
RISE = (-1,)
SHIFT = (1, -1)


@dataclass(frozen=True)
class Watched:
    """One quantity, and what a change of it means.

    `budget` is its share of a year's false alarms (by Ville's bound; docs/statistics.md says what
    was measured), `matters` the least change that is worth telling, both on the scale of 0 to 1;
    `stakes` are for how large a change the bets are made (evidence.log_evidence). A mean surely
    above `most` is told from the first day on; of refusals none is (many excuses are polite).
    """

    name: str
    signs: tuple[int, ...]  # of the changes that are told
    unit: str
    budget: float = 0.01
    matters: float = 0.05
    severity: Severity = "warning"
    shown: Callable[[float], float] = float  # as people read it
    stakes: tuple[float, ...] = (0.2, 0.5)
    most: float = 1.0


def stars(share: float) -> float:
    """A rating as people gave it, 1 to 5."""
    return 1 + 4 * share


def _power(share: float) -> float:
    return 10 ** (LONGEST * share)


WATCHED = (
    Watched("format_compliance", FALL, "share of answers in format", 0.04, 0.02, "critical"),
    Watched("feedback_mean", FALL, "rating, 1 to 5", 0.06, 0.0625, "critical", stars, (0.35,)),
    Watched("error_rate", RISE, "share of requests with no good `status`", most=0.5),
    Watched("feedback_rate", SHIFT, "share of rated requests", matters=0.15),
    Watched("correction_rate", RISE, "share of corrected answers"),
    Watched("refusal_rate", RISE, "share of empty answers and refusals", 0.009, 0.03),
    Watched("empty_rate", RISE, "share of empty answers", 0.001, 0.03, most=0.5),
    Watched("answer_length", SHIFT, "characters, geometric mean", matters=0.023, shown=_power),
    Watched("new_words", RISE, "share of words that training never saw", matters=0.15),
    Watched("latency_p95", RISE, "share of answers slower than task.yaml allows"),
)
SLICE_BUDGET = 0.01  # shared by all slices of all quantities
SLICE_STAKES = (0.6,)  # a slice has few rows: only a large change can be seen in it


class AnswerNumbers(NamedTuple):
    """What the text of an answer tells; most answers of a task come many times."""

    format_compliance: float
    label: str  # the slice of this answer
    refusal_rate: float
    empty_rate: float
    answer_length: float


class Told(NamedTuple):
    """What one request tells of the watched quantities; many requests of a day tell the same."""

    is_ok: bool
    rating: float | None
    is_corrected: bool
    answer: AnswerNumbers | None  # None: there is none, or its text was not kept
    is_slow: bool | None  # None: not known
    certainty: float | None  # None: the log holds no confidence
    parts: tuple[str, ...]  # of the traffic


@dataclass(frozen=True)
class Reading:
    """What turning a row into numbers needs to know of the task."""

    task: Task
    vocabulary: Mapping[str, int] = field(default_factory=dict)  # in how many training inputs
    inputs: int = 0  # of training; 0: not known
    answers: dict[str, AnswerNumbers] = field(default_factory=dict)  # of those seen before
    # by the hash of a question: its share of words that training never saw, and its language
    questions: dict[int, tuple[float | None, str]] = field(default_factory=dict)

    @cached_property
    def settings(self) -> str:
        """Changes whenever the same row would give other numbers."""
        ceiling = self.task.targets.get("latency_p95")
        return store.fingerprint([COUNTED, self.task.fingerprint, ceiling])


def reading_of(task: Task, dataset_version: str | None) -> Reading:
    """With the words of the training part that the version saw, else of the task's own examples."""
    folder = store.home() / "datasets" / (dataset_version or "-")
    texts = []
    if (folder / "train.jsonl").exists():
        for row in store.read_jsonl(folder / "train.jsonl"):
            texts.append(TrainingExample.model_validate(row).user_text)
    elif task.data_file("human"):
        texts = [example.user_text for example in load_examples(task, "human").examples]
    vocabulary = Counter(word for text in texts for word in words_of(text))
    return Reading(task, dict(vocabulary), len(texts))  # of a plain dict sets can be taken


def words_of(text: str) -> frozenset[str]:
    """The different words of a text."""
    return frozenset(WORD.findall(text.lower()))


def question_of(messages: Sequence[Mapping[str, Any]]) -> str:
    """What the user's turns say."""
    turns = []
    for turn in messages:
        if turn.get("role") == "user":
            turns.append(str(turn.get("content") or ""))
    return " ".join(turns)


def told_by(row: Fields, reading: Reading) -> tuple[Told, float | None]:
    """What a row tells, and its share of words that training never saw (None: not known)."""
    is_ok = row.get("status", "ok").lower() in GOOD_STATUS
    answer = is_slow = certainty = None
    if is_ok:
        latency = row.get("latency_ms")
        confidence = row.get("confidence")
        if row.get("text") != "none":
            answer = _judged_answer(row.get("answer", ""), reading)
        ceiling = reading.task.targets.get("latency_p95")
        if latency and ceiling is not None:
            is_slow = latency > ceiling
        if confidence is not None:
            certainty = certainty_of(confidence)
    rating = row.get("feedback_score")
    new_words, language = _judged_question(question_of(row["messages"]), reading)
    parts = _parts_of(row, answer.label if answer else "", language)
    told = Told(is_ok, rating, bool(row.get("correction")), answer, is_slow, certainty, parts)
    return told, new_words


@lru_cache(MOST_ANSWERS)
def numbers_of(told: Told) -> dict[str, float]:
    """Every watched quantity that such a row tells, for the whole and for its slices."""
    numbers = {
        "error_rate": float(not told.is_ok),
        "feedback_rate": float(told.rating is not None),
        "correction_rate": float(told.is_corrected),
    }
    if told.rating is not None:
        numbers["feedback_mean"] = _rounded((told.rating - 1) / 4)
    if told.answer is not None:
        numbers |= told.answer._asdict()
        del numbers["label"]
    if told.is_slow is not None:
        numbers["latency_p95"] = float(told.is_slow)
    if told.certainty is not None:
        numbers["estimated_accuracy"] = told.certainty
    for part in told.parts:
        for name in SLICED:
            if name in numbers:
                numbers[f"{name}{SLICE}{part}"] = numbers[name]
    return numbers


def certainty_of(confidence: float) -> float:
    """A probability on a scale that tells sure answers apart: 1 / (1 + its surprise in nats)."""
    return _rounded(1 / (1 - math.log(max(confidence, 1e-300))))


def _parts_of(row: Fields, label: str, language: str) -> tuple[str, ...]:
    """Which parts of the traffic a request belongs to."""
    parts = {"caller": row.get("caller"), "language": language} | row.get("fields", {})
    named = [_part_of(name, value) for name, value in parts.items() if value]
    return (*named, label) if label else tuple(named)


@lru_cache(MOST_ANSWERS)
def _part_of(name: str, value: str) -> str:
    return f"{name} = {pseudonymous(value, key=name)}"  # such as `country = FR`; nobody is named


@lru_cache(MOST_ANSWERS)
def language_of(words: frozenset[str]) -> str:
    """The language most of whose commonest words are there; "" where fewer than two decide it."""
    (votes, name), (others, _) = nlargest(2, ((len(words & LANGUAGES[n]), n) for n in LANGUAGES))
    return name if votes > others + 1 else ""


def _rounded(share: float) -> float:
    return round(min(1.0, share) * STEPS) / STEPS


def _judged_question(question: str, reading: Reading) -> tuple[float | None, str]:
    key = hash(question)  # texts would take too much room
    if key not in reading.questions:
        if len(reading.questions) > MOST_ANSWERS:
            reading.questions.clear()
        words = words_of(question)
        share = None
        if words and reading.vocabulary:
            share = _rounded(len(words.difference(reading.vocabulary)) / len(words))
        reading.questions[key] = (share, language_of(words & COMMON_WORDS))
    return reading.questions[key]


def _judged_answer(answer: str, reading: Reading) -> AnswerNumbers:
    if answer not in reading.answers:
        if len(reading.answers) > MOST_ANSWERS:
            reading.answers.clear()
        compliance, label = _judge_format(answer, reading.task)
        empty = float(not answer.strip())
        refusal = float(empty or REFUSAL.search(answer[:REFUSED_IN]) is not None)
        length = _rounded(math.log10(1 + len(answer)) / LONGEST)
        reading.answers[answer] = AnswerNumbers(compliance, label, refusal, empty, length)
    return reading.answers[answer]


def _judge_format(answer: str, task: Task) -> tuple[float, str]:
    if evaluate.format_reason(answer, task.schema):
        return 0.0, ""
    if task.schema is None:
        return 1.0, ""
    for name in task.scored_fields[:1]:
        if "enum" in task.schema["properties"][name]:
            return 1.0, f"{name} = {evaluate.strict_json(answer)[name]}"
    return 1.0, ""
