"""How the tuned model is asked, wherever it is asked: in 04, at its checkpoints, in production."""

from __future__ import annotations

from helpers import store
from helpers.records import Asking, Decision
from helpers.tasks import Task
from helpers.train.config import Hyperparameters


def asking_to_serve(run: store.Run, version: str, config: Hyperparameters, task: Task) -> Asking:
    """With the instructions it was trained on, and no examples: it has learnt them.

    How long an answer may get, and everything else beside the prompt, is as for the best rung of
    the run's decision, which the model has to beat; without a decision it is as config says.
    """
    asking = Asking(max_new_tokens=config.max_new_tokens, response_format=task.schema)
    if run.has(Decision):
        decision = run.load(Decision)
        asking = decision.asking(decision.best_rung)
    return Asking(
        rung="fine_tuned",
        model=version,
        style=config.prompt_style,
        template_args=asking.template_args,
        tools=asking.tools,
        response_format=asking.response_format,
        max_new_tokens=asking.max_new_tokens,
        stop=asking.stop,
        compute=asking.compute,
    )
