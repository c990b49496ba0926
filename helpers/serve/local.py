"""Our own models on this machine: an adapter merged into its base, requests answered in batches."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

from helpers import models
from helpers.models import Answer
from helpers.records import Message, WorkbookError
from helpers.serve.engines import Logprobs
from helpers.serve.served import Served


class Local:
    """A model in this process, which answers whatever waits together."""

    engine = "local"

    def __init__(self, model: models.Model) -> None:
        self.model = model
        self._batched = models.Batched(model)
        self.close = self._batched.close

    def answer(self, chat: list[Message], limit: int, logprobs: Logprobs = None) -> Answer:
        """One answer, in the batch of those that wait at the same time."""
        return self._batched.submit(chat, limit).result()


def load(served: Served) -> Local:
    """The version's adapter merged by transformers and peft, as evaluation does, and warmed up."""
    model = served.model
    fingerprints = models.template_fingerprints(model.base_model, served.task, served.asking.style)
    for name in ("template", "tokenizer"):
        trained = model.fingerprints.get(name, "")
        if trained and trained != fingerprints[name]:
            raise WorkbookError(
                f"the {name} of {model.base_model} is not the one that {served.id} was trained"
                f" with ({fingerprints[name][:12]} instead of {trained[:12]}); restore it"
            )
    merged = models.load_model(model.base_model, adapter=served.adapter)
    loaded = merged.with_asking(served.asking)
    # in a thread that ends: two that computed have more of OpenMP's threads than there are cores,
    # which then sleep between any two products
    with ThreadPoolExecutor(1) as apart:
        hello = served.chat([Message(role="user", content="Hello")])
        apart.submit(loaded.warm_up, hello).result()
    return Local(loaded)
