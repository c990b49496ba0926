"""Which profile, where nobody named one; which trainer; what in a run speaks against training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from helpers import parameters, tasks
from helpers.records import Decision, NotebookEntry, WorkbookError
from helpers.run import ending
from helpers.run.ending import Ending
from helpers.run.history import Book

TRAINERS = {"03a_train_lora", "03b_train_openai"}
TUTORIAL = "tutorial"
GPUS = {  # MB that the card has -> the profile that fits it, largest first
    40_000: ("lora_8b_open", "LoRA on an 8B model from the hub"),
    20_000: ("qlora_8b", "QLoRA on an 8B model from the hub"),
}


def choose_profile(profile: str, overrides: Sequence[str] = ()) -> tuple[str, str]:
    """(the profile to run, why it and no other was chosen; "" where it was named).

    The tutorial's limits are made for its own task, so that another task gets its profile chosen as
    if none had been named.
    """
    pairs = [text.partition("=") for text in overrides]
    wanted = {name.strip(): value for name, _, value in pairs}
    task = wanted.get("task", "")
    if profile not in ("", TUTORIAL):
        return profile, ""
    try:
        is_own = bool(task) and not tasks.load_task(task).shipped
    except WorkbookError:
        if profile:  # the run refuses it, and writes that down
            return profile, ""
        raise
    if profile and not is_own:
        return profile, ""
    if not is_own:
        has_own = (parameters.PROFILES / f"{task}.yaml").exists()
        name = task if task and has_own else TUTORIAL
        return name, f"profile {name}: made for the shipped task {task or 'support_triage'}"
    name, reason = _for_own_task(wanted)
    if profile:
        reason += f"; {profile}'s limits are made for its own task"
    return name, f"profile {name}: {reason} (params/{name}.yaml)"


def _for_own_task(wanted: Mapping[str, str]) -> tuple[str, str]:
    from helpers.train import gpu_state

    if wanted.get("trainer") == "openai":
        return "openai", "trainer is openai"
    gpu = gpu_state()
    small = "small steps, which suit some hundred rows, and no limits"
    if gpu is None:
        return "laptop", f"no GPU here; {small}"
    if "base_model" in wanted:
        return "laptop", f"base_model is {wanted['base_model']}; {small}"
    for least, (name, method) in GPUS.items():
        if gpu.total_mb >= least:
            return name, f"a GPU with {gpu.total_mb / 1000:.0f} GB: {method}"
    return "laptop", f"the GPU's {gpu.total_mb / 1000:.0f} GB are few for an 8B model"


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
