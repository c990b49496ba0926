"""How the tuned model is asked, wherever it is asked: in 04, at its checkpoints, in production."""

from __future__ import annotations

from helpers import evaluate, models, store, tasks
from helpers.records import Asking, DatasetPointer, Decision
from helpers.tasks import Task
from helpers.train.config import Hyperparameters, LoraTrainingConfig

BYTES_PER_TOKEN = 3  # at an endpoint, whose tokenizer is not known


def asking_to_serve(run: store.Run, version: str, config: Hyperparameters, task: Task) -> Asking:
    """With the instructions it was trained on, and no examples: it has learnt them.

    How long an answer may get, and everything else beside the prompt, is as for the best rung of
    the run's decision, which the model has to beat; without a decision it is as config says, or as
    the gold answers need.
    """
    if run.has(Decision):
        decision = run.load(Decision)
        asking = decision.asking(decision.best_rung)
    else:
        limit = config.max_new_tokens or _limit_by_gold(run, config)
        limit += evaluate.room_for_thoughts(task)
        asking = Asking(
            max_new_tokens=limit,
            response_format=task.schema,
            compute=getattr(config, "compute", "fp32"),
        )
    template_args = task.template_args
    if isinstance(config, LoraTrainingConfig):  # as its rows are rendered
        template_args = models.template_args(task, config.base_model)
    return Asking(
        rung="fine_tuned",
        model=version,
        style=config.prompt_style,
        template_args=template_args,
        tools=task.tools,
        response_format=asking.response_format,
        max_new_tokens=asking.max_new_tokens,
        stop=asking.stop,
        compute=asking.compute,
    )


def _limit_by_gold(run: store.Run, config: Hyperparameters) -> int:
    """The longest answer that the gold answers of the train part need."""
    if not run.has(DatasetPointer):
        return evaluate.limit_of([])
    answers = [example.answer for example in tasks.read_dataset(run).part("train")]
    if isinstance(config, LoraTrainingConfig):
        return evaluate.limit_of(models.count_text(config.base_model, answers))
    return evaluate.limit_of([len(text.encode()) // BYTES_PER_TOKEN + 1 for text in answers])
