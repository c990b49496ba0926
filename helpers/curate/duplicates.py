"""Exact and near duplicates, and leaks between parts, judged by the user's text alone.

A shared system prompt makes strangers look alike, and chains of likeness (a like b, b like c) end
in deleting nearly everything: so only the user's turns are compared, and a row goes only for a kept
row it matches itself.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Container, Iterable, Mapping, Sequence
from typing import NamedTuple

from helpers.curate.labels import Label
from helpers.curate.similarity import Pair, similar_sketches, sketched
from helpers.curate.stages import Question, Stage
from helpers.records import Issue, TrainingExample
from helpers.tasks import normalise

RUN = 13  # words in a row that are a quotation (GPT-3's rule)
SHORT_RUN = 8  # texts of fewer words are compared by likeness alone
PROTECTION = {"test": 0, "validation": 1, "train": 2}
Neighbours = Mapping[str, Sequence[tuple[str, float]]]  # text -> like texts (itself too), Jaccard


class Match(NamedTuple):
    """A kept row that another row is like, and its Jaccard index."""

    example: TrainingExample
    score: float


class KeptRows:
    """The rows kept so far, found by what a later row may share with them."""

    def __init__(self, protected_texts: Iterable[str]) -> None:
        """`protected_texts`: those of validation and test rows, which nobody may quote."""
        counts = {len(text.split()) for text in protected_texts}
        self._run_lengths = sorted({min(RUN, n) for n in counts if n >= SHORT_RUN})
        self._by_text: defaultdict[str, list[TrainingExample]] = defaultdict(list)
        self._by_group: dict[str, TrainingExample] = {}
        self._quotations: dict[tuple[str, ...], TrainingExample] = {}

    def add(self, example: TrainingExample, text: str) -> None:
        """Keep a row; `text` is its normalised user text."""
        self._by_text[text].append(example)
        self._by_group.setdefault(example.group, example)
        words = text.split()
        if example.part != "train" and len(words) >= SHORT_RUN:
            length = min(RUN, len(words))
            for start in range(len(words) - length + 1):
                self._quotations.setdefault(tuple(words[start : start + length]), example)

    def like(self, neighbours: Iterable[tuple[str, float]]) -> list[Match]:
        """The kept rows with one of these texts."""
        matches = []
        for text, score in neighbours:
            for example in self._by_text.get(text, ()):
                matches.append(Match(example, score))
        return matches

    def of_group(self, group: str) -> TrainingExample | None:
        """The first kept row of a conversation."""
        return self._by_group.get(group)

    def quoted_in(self, text: str) -> TrainingExample | None:
        """The protected row of which `text` holds RUN words in a row, or the whole of a short one."""
        words = text.split()
        for length in self._run_lengths:
            for start in range(len(words) - length + 1):
                example = self._quotations.get(tuple(words[start : start + length]))
                if example is not None:
                    return example
        return None


def deduplicate_examples(
    examples: Iterable[TrainingExample],
    label: Label,
    near_threshold: float = 0.8,
    leakage_threshold: float = 0.6,
    accepted: Container[str] = (),
) -> Stage:
    """Leave out copies, near-copies and leaks; each with the id and likeness of the kept row.

    Of two copies the more protected one stays (test, validation, train), then the verified, then
    the earlier. Copies in one part are duplicates, or, when their `label` differs, a question for a
    person; across parts, at the lower leakage threshold, they are leaks, and so is a row whose
    group (conversation) has a row in a more protected part.
    """
    ordered = sorted(examples, key=_precedence)
    texts = [normalise(example.user_text) for example in ordered]
    protected = {
        text for text, example in zip(texts, ordered, strict=True) if example.part != "train"
    }
    near, across = _neighbours(texts, protected, near_threshold, leakage_threshold)
    kept_rows = KeptRows(protected)
    stage = Stage()
    for example, text in zip(ordered, texts, strict=True):
        matches = sorted(kept_rows.like(near.get(text, ())), key=lambda match: -match.score)
        leak = _leak(example, kept_rows.like(across.get(text, ())), kept_rows, text)
        copy = None
        if example.id not in accepted:
            copy = _duplicate(example, matches, label)
        if leak or not copy:
            stage.questions += _conflicts(example, matches, label)
        issues = [issue for issue in (leak, copy) if issue is not None]
        if issues:
            stage.reject(example, issues, "leakage" if leak else "duplicates")
        else:
            stage.kept.append(example)
            kept_rows.add(example, text)
    return stage


def _precedence(example: TrainingExample) -> tuple[int, bool, float, str]:
    moment = example.created_at.timestamp()
    return _protection(example), example.quality != "verified", moment, example.id


def _protection(example: TrainingExample) -> int:
    return PROTECTION[example.part or "train"]


def _neighbours(
    texts: Sequence[str], protected: Container[str], near: float, leakage: float
) -> tuple[Neighbours, Neighbours]:
    """What each text is like at the threshold `near`, and which protected texts at the lower one."""
    distinct = list(dict.fromkeys(texts))
    places = [i for i, text in enumerate(distinct) if text in protected]
    sketches = sketched(distinct)
    lower = min(near, leakage)  # so that no near-duplicate stands in two parts
    everywhere = similar_sketches(sketches, sketches, near)
    across = similar_sketches(sketches, sketches.of(places), lower)
    protected_texts = [distinct[i] for i in places]
    return (_by_text(distinct, distinct, everywhere), _by_text(distinct, protected_texts, across))


def _by_text(texts: Sequence[str], others: Sequence[str], pairs: Iterable[Pair]) -> Neighbours:
    neighbours: defaultdict[str, list[tuple[str, float]]] = defaultdict(list)
    for i, j, score in pairs:
        neighbours[texts[i]].append((others[j], score))
    return neighbours


def _leak(
    example: TrainingExample, matches: Sequence[Match], kept_rows: KeptRows, text: str
) -> Issue | None:
    """The row of a more protected part that this row repeats, quotes or shares its conversation with."""
    own = _protection(example)
    above = [match for match in matches if _protection(match.example) < own]
    if above:
        other, score = max(above, key=lambda match: match.score)
        what = "the same user text as" if score == 1 else "close to"
        return _leaked(f"{what} a {other.part} row", other, round(score, 4))
    quoted = kept_rows.quoted_in(text)
    if quoted is not None and _protection(quoted) < own:
        what = f"quotes a {quoted.part} row: {RUN} words in a row, or the whole of a shorter one"
        return _leaked(what, quoted)
    groupmate = kept_rows.of_group(example.group)
    if groupmate is not None and _protection(groupmate) < own:
        return _leaked(f"the same conversation as a {groupmate.part} row", groupmate)
    return None


def _leaked(evidence: str, other: TrainingExample, score: float | None = None) -> Issue:
    return Issue(code="potential_leakage", evidence=evidence, matched_id=other.id, score=score)


def _duplicate(example: TrainingExample, matches: Sequence[Match], label: Label) -> Issue | None:
    """The kept row of the same part and label that this row repeats; the closest one is named."""
    for other, score in matches:
        if other.part != example.part or label(other) != label(example):
            continue
        same_text = normalise(example.user_text) == normalise(other.user_text)
        if same_text and normalise(example.answer) == normalise(other.answer):
            return Issue(
                code="exact_duplicate",
                evidence="same text and answer",
                matched_id=other.id,
                score=1.0,
            )
        evidence = f"character 5-gram Jaccard {score:.2f} with a kept row of the same label"
        return Issue(
            code="near_duplicate", evidence=evidence, matched_id=other.id, score=round(score, 4)
        )
    return None


def _conflicts(example: TrainingExample, matches: Sequence[Match], label: Label) -> list[Question]:
    """Both rows of every pair that is alike but has different labels: one of the two is wrong."""
    questions = []
    for other, score in matches:
        if label(other) == label(example):
            continue
        for one, two in ((example, other), (other, example)):
            why = f"label_conflict with {two.id} (Jaccard {score:.2f})"
            questions.append(Question(one, why))
    return questions
