"""The rungs of the ladder as ways to ask one model: each turns examples into chats."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from helpers import tasks
from helpers.evaluate.classical import CLASSICAL, why_not
from helpers.evaluate.retrieval import demonstrations, passage, retrieve, shots
from helpers.records import Asking, Message, TrainingExample, WorkbookError
from helpers.tasks import Article, Task

LADDER = ("zero_shot", "prompt", "few_shot", "rag")  # by the effort they cost
CHEAPEST_FIRST = ("incumbent", CLASSICAL, *LADDER)
KNOWN = (
    *LADDER,
    CLASSICAL,
    "incumbent",
)  # what runs today: a prompt, a model or both, as task.yaml names it
Chats = list[list[Message]]
Examples = Sequence[TrainingExample]


def build_prompts(asking: Asking, task: Task, examples: Examples, train: Examples = ()) -> Chats:
    """The chats of one rung, in the order of `examples`: the instructions and the question.

    What a rung puts between them, from `train` or the task's articles, its builder adds.
    """
    if asking.wording:
        task = task.model_copy(update={"instructions_full": asking.wording})
    if asking.tools:
        task = task.model_copy(update={"tools": asking.tools})
    chats = [tasks.render(task, example, asking.style) for example in examples]
    if asking.rung_kind not in BUILDERS:
        return chats
    return BUILDERS[asking.rung_kind](chats, asking, task, examples, train)


def with_shots(
    chats: Chats, asking: Asking, task: Task, examples: Examples, train: Examples
) -> Chats:
    """few_shot: solved examples of train, the same for all rows or the most similar ones."""
    shown = shots(asking, asking.few_shot_k, task, examples, train)
    turns = {e.id: tasks.render(task, e, answer=True)[1:] for e in _all_of(shown)}
    return _with_turns(chats, shown, turns)


def with_passages(
    chats: Chats, asking: Asking, task: Task, examples: Examples, train: Examples
) -> Chats:
    """rag: the best passages after the instructions; with solved examples, before each question.

    What a small model sees done, it does.
    """
    library = tasks.knowledge(task)
    questions = [example.user_text for example in examples]
    retrieved = retrieve(library, questions, asking.rag_k, asking.rag_dense)
    pairs = zip(chats, retrieved, strict=True)
    if not asking.rag_shots:
        return [_in_system_turn(chat, articles) for chat, articles in pairs]
    chats = [_before_question(chat, articles) for chat, articles in pairs]
    shown = shots(asking, asking.rag_shots, task, examples, train)
    solved = _all_of(shown)
    found = retrieve(library, [example.user_text for example in solved], asking.rag_k)
    turns = {}
    for example, articles in zip(solved, found, strict=True):
        turns[example.id] = _before_question(tasks.render(task, example, answer=True)[1:], articles)
    return _with_turns(chats, shown, turns)


BUILDERS: dict[str, Callable[[Chats, Asking, Task, Examples, Examples], Chats]] = {
    "few_shot": with_shots,
    "rag": with_passages,
}


def _all_of(shown: Sequence[Examples]) -> list[TrainingExample]:
    """Every solved example that any row is shown, once."""
    return list({example.id: example for row in shown for example in row}.values())


def _with_turns(
    chats: Chats, shown: Sequence[Examples], turns: Mapping[str, Sequence[Message]]
) -> Chats:
    """Solved examples as earlier turns, the shape that a chat model was trained on."""
    longer = []
    for chat, examples in zip(chats, shown, strict=True):
        before = [turn for example in examples for turn in turns[example.id]]
        longer.append([chat[0], *before, *chat[1:]])
    return longer


def _in_system_turn(chat: list[Message], articles: Sequence[Article]) -> list[Message]:
    """The chat with the passages after its instructions."""
    if not articles:
        return chat
    passages = "\n\n".join(map(passage, articles))
    text = f"{chat[0].content}\n\nUse this:\n{passages}"
    return [chat[0].model_copy(update={"content": text}), *chat[1:]]


def _before_question(turns: Sequence[Message], articles: Sequence[Article]) -> list[Message]:
    """The turns with the passages at the beginning of the last user turn."""
    last = max(i for i, turn in enumerate(turns) if turn.role == "user")
    text = "\n\n".join([*map(passage, articles), turns[last].content or ""])
    changed = list(turns)
    changed[last] = turns[last].model_copy(update={"content": text})
    return changed


def effort(rung: str) -> tuple[bool, int]:
    """The sort key of "cheapest first": the given model before others, then by the ladder."""
    technique, at, _ = rung.partition("@")
    return bool(at), CHEAPEST_FIRST.index(technique)


def available(rungs: Sequence[str], task: Task, train: Examples) -> dict[str, str]:
    """rung -> why it cannot be asked here ("" when it can); an unknown name is an error."""
    missing = {}
    if not tasks.knowledge(task):
        missing["rag"] = f"{task.folder.name}/knowledge holds no articles"
    if not demonstrations(task, train, 1):
        missing["few_shot"] = "the train part holds no verified example"
    if CLASSICAL in rungs:
        missing[CLASSICAL] = why_not(task, train)
    if not task.incumbent:
        missing["incumbent"] = "task.yaml names no incumbent"
    reasons = {}
    for rung in rungs:
        kind = rung.partition("@")[0]
        if kind not in KNOWN:
            raise WorkbookError(f"unknown rung {rung!r}; known are {', '.join(KNOWN)}")
        reasons[rung] = missing.get(kind, "")
    return reasons
