"""model.json: what was trained, from what, at which cost, and how it is to be asked."""

from __future__ import annotations

from typing import Any, ClassVar

from pydantic import Field

from helpers.records.asking import Asking, asking_of_0_1
from helpers.records.base import Artifact


class TrainedModel(Artifact):
    """model.json. Seconds and USD are of the whole training process."""

    FILE: ClassVar[str] = "model.json"
    WRITTEN_BY: ClassVar[str] = "03a_train_lora (or 03b_train_openai)"

    model_id: str
    version: str
    provider: str
    base_model: str
    base_url: str = ""
    adapter: str | None = None  # relative to the home
    dataset_version: str
    asking: Asking  # how the tuned model is asked wherever it is asked
    fingerprints: dict[str, str]
    hyperparameters: dict[str, Any]
    tokens: int
    seconds: float
    cost_usd: float
    losses: dict[str, Any]
    details: dict[str, Any] = Field(default_factory=dict)
    limits: list[str] = Field(default_factory=list)  # what a limit cut or left out, in words

    @classmethod
    def upgrade(cls, old: dict[str, Any], params: dict[str, Any] | None) -> dict[str, Any]:
        """0.1.0 wrote the prompt's style alone; how long answers may get was 04's parameter."""
        style = old.pop("prompt_style")
        asking = asking_of_0_1("fine_tuned", old["version"], {}, params, cls.FILE)
        return old | {"asking": asking | {"style": style}}
