"""What in a run speaks against training, and which trainer was chosen."""

from __future__ import annotations

from helpers import parameters
from helpers.records import Decision, NotebookEntry
from helpers.run import ending
from helpers.run.book import Book
from helpers.run.ending import Ending

TRAINERS = {"03a_train_lora", "03b_train_openai"}


def reason_to_stop(book: Book, number: int) -> Ending | None:
    """What an early 06, or 01, has against a training; `number` notebooks are done."""
    name = book.queue[number - 1]
    if not book.may_stop:
        return None
    if name == "06_monitor" and "02_curate" in book.queue[number:]:
        return _reason_not_to_retrain(book, number)
    if name == "01_decide" and not book.train_anyway:
        return _advice_against_training(book)
    return None


def _reason_not_to_retrain(book: Book, number: int) -> Ending | None:
    """The reason, if there is one; else the last decision is put here, or 01 joins the queue."""
    from helpers import tasks
    from helpers.run import retrain

    task = tasks.load_task(book.values["task"])
    settings = parameters.known_parameters() | book.values
    max_age_days = settings["max_age_days"]
    advice = retrain.should_retrain(
        task, book.run, max_age_days, settings["min_new_rows"], settings["min_feedback_score"]
    )
    if not advice.retrain and not book.train_anyway:
        return _nothing_to_do(advice.reason)
    if advice.retrain:
        book.tell(advice.reason)
    else:
        book.tell(f"retraining all the same: {book.train_anyway}")
    if "01_decide" in book.queue:
        return None
    if retrain.reuse_decision(task, book.run, settings["base_model"], max_age_days):
        return None if book.train_anyway else _advice_against_training(book)
    book.queue.insert(number, "01_decide")
    if "01_decide" not in book.values["notebooks"]:
        entries = list(book.record.notebooks)
        entries.insert(number, NotebookEntry(name="01_decide"))
        book.update(notebooks=entries)
    return None


def _advice_against_training(book: Book) -> Ending | None:
    advice = book.run.load(Decision).recommendation
    if advice == "fine_tuning":
        return None
    return _nothing_to_do(f"01_decide advises {advice}, not fine-tuning")


def _nothing_to_do(reason: str) -> Ending:
    remedy = "set train_anyway_because to train all the same"
    return Ending(ending.OK, f"{reason}; {remedy}", nothing_to_do=True)


def is_other_trainer(book: Book, name: str) -> bool:
    """03a and 03b exclude each other: `trainer`, or what 01 chose, says which of them runs."""
    if name not in TRAINERS or not set(book.queue) >= TRAINERS:
        return False
    trainer = book.values["trainer"]
    if trainer == "auto":
        trainer = book.run.load(Decision).trainer if book.run.has(Decision) else "lora"
    return not name.endswith(trainer)
