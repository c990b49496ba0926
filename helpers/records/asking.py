"""How a model is asked: the one record of everything that decides a prompt and its answer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field

from helpers.records.base import Record, WorkbookError, from_parameters

Style = Literal["short", "full"]
SHORT_RUNGS = ("zero_shot", "fine_tuned")  # asked with the short instructions unless said otherwise
PARAMETERS = (
    "few_shot_k",
    "few_shot_pick",
    "rag_k",
    "rag_shots",
    "rag_dense",
    "max_new_tokens",
    "compute",
)  # of notebook 01, each under the name of its field


class Asking(Record):
    """How one rung asks one model: evaluation, production and serving use it, and no default else.

    `rung` may name the model too (`prompt@other-model`); `rung_kind` is the part before the @.
    """

    rung: str = ""
    model: str = ""  # embedded, tiny, a folder, a hub id, `NAME at BASE_URL`, or a version's id
    style: Style = "full"  # which instructions of task.yaml
    wording: str = ""  # instructions in place of the task's own; "" = the task's
    few_shot_k: int = Field(3, ge=0)
    few_shot_pick: Literal["fixed", "nearest"] = "fixed"
    rag_k: int = Field(1, ge=0)
    rag_shots: int = Field(0, ge=0)
    rag_dense: float = Field(0.0, ge=0, le=1)
    template_args: dict[str, Any] = Field(default_factory=dict)
    tools: list[dict[str, Any]] = Field(default_factory=list)
    response_format: dict[str, Any] | None = None  # the JSON Schema that endpoints are held to
    max_new_tokens: int = Field(40, ge=0)  # 0 in a parameter: from the gold answers
    stop: list[str] = Field(default_factory=list)
    decoding: Literal["greedy"] = "greedy"
    compute: Literal["auto", "fp32", "bf16"] = "fp32"  # auto: before a machine was asked

    @property
    def rung_kind(self) -> str:
        """zero_shot, prompt, few_shot, rag, classical, incumbent or fine_tuned."""
        return self.rung.partition("@")[0]

    @classmethod
    def of(cls, parameters: Mapping[str, Any]) -> Asking:
        """What a notebook's parameters (its globals()) say of asking; an odd value is named."""
        return from_parameters(cls, parameters, PARAMETERS)

    def for_rung(self, rung: str, model: str) -> Asking:
        """The same way for another rung and model; the instructions' style follows the rung."""
        kind = rung.partition("@")[0]
        style: Style = "short" if kind in SHORT_RUNGS else "full"
        return self.model_copy(update={"rung": rung, "model": model, "style": style})


def asking_of_0_1(
    rung: str, model: str, chosen: Mapping[str, Any], params: Mapping[str, Any] | None, where: str
) -> dict[str, Any]:
    """How 0.1.0 asked a rung: by its decision's choices, else its profile's, else its defaults.

    Only headless runs wrote their parameters down; of others nobody knows them.
    """
    if params is None:
        raise WorkbookError(
            f"{where} was written by hand with 0.1.0, which did not record how models were asked"
        )
    said = {"few_shot_k": 3, "rag_k": 1, "max_new_tokens": 40}
    said |= {name: params[name] for name in PARAMETERS if name in params}
    said |= {name: chosen[name] for name in PARAMETERS if name in chosen}
    wording = str(chosen.get("instructions", ""))
    asking = Asking(**said, wording=wording).for_rung(rung, model)
    return asking.model_dump()
