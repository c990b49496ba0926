"""What a LoRA run is asked to do, and the schedule that fits its number of steps."""

from __future__ import annotations

import math
from typing import Any, Literal, TypeVar

from pydantic import Field, ValidationError

from helpers import store
from helpers.records import FineTuningDataset, Record, WorkbookError
from helpers.tasks import Task

TOKENS_AT_ONCE_ON_CPU = 2048  # about 1.3 MB of activations a token for the embedded model: 2.7 GB


class LoraTrainingConfig(Record):
    """Hyperparameters under the names of the notebook's parameters; `of(globals())` picks them up."""

    base_model: str = "embedded"
    seed: int = Field(7, ge=0)
    prompt_style: Literal["short", "full"] = "short"
    lora_r: int = Field(16, ge=1, le=512)
    lora_alpha: int = Field(32, ge=1)
    lora_dropout: float = Field(0.05, ge=0, lt=1)
    target_modules: list[str] = Field(["q_proj", "v_proj"], min_length=1)
    epochs: float = Field(3.0, gt=0)
    batch_size: int = Field(4, ge=1)
    gradient_accumulation: int = Field(4, ge=1)
    learning_rate: float = Field(2.0e-4, gt=0)
    warmup_steps: int = Field(100, ge=0)
    logging_steps: int = Field(10, ge=1)
    eval_steps: int = Field(100, ge=1)
    save_steps: int = Field(100, ge=1)
    max_train_tokens: int = Field(60_000, ge=0)  # all epochs together; 0 = no limit
    max_length: int = Field(512, ge=8)
    load_in_4bit: bool = False

    @classmethod
    def of(cls, namespace: dict[str, Any]) -> LoraTrainingConfig:
        """The config that a notebook's parameters spell; an impossible value is named."""
        return from_parameters(cls, namespace)

    @property
    def effective_batch(self) -> int:
        """Rows behind one optimiser step."""
        return self.batch_size * self.gradient_accumulation


class OpenAIJobConfig(Record):
    """A fine-tuning job at an OpenAI-compatible endpoint, under the names of the notebook's parameters."""

    task: str = "support_triage"
    run_id: str = "dev"
    base_url: str = ""  # "" = https://api.openai.com/v1
    api_model: str = ""
    seed: int = Field(7, ge=0, le=2**31 - 1)
    prompt_style: Literal["short", "full"] = "short"
    n_epochs: int = Field(0, ge=0, le=50)  # 0 = auto, here and below
    api_batch_size: int = Field(0, ge=0, le=256)
    learning_rate_multiplier: float = Field(0.0, ge=0)
    model_suffix: str = Field("", max_length=64)
    max_cost_usd: float = Field(0.0, ge=0)
    job_deadline_minutes: float = Field(240.0, gt=0)
    poll_seconds: float = Field(30.0, gt=0)

    @classmethod
    def of(cls, namespace: dict[str, Any]) -> OpenAIJobConfig:
        """The config that a notebook's parameters spell; an impossible value is named."""
        return from_parameters(cls, namespace)

    @property
    def asked(self) -> dict[str, Any]:
        """What decides the resulting model; limits and waiting times do not."""
        return self.model_dump(exclude={"run_id", "task", "max_cost_usd", "job_deadline_minutes", "poll_seconds"})


Config = TypeVar("Config", LoraTrainingConfig, OpenAIJobConfig)


def from_parameters(kind: type[Config], namespace: dict[str, Any]) -> Config:
    """A config from the names it shares with a notebook's globals()."""
    try:
        return kind(**{name: namespace[name] for name in kind.model_fields if name in namespace})
    except ValidationError as error:
        problem = error.errors()[0]
        where = ".".join(map(str, problem["loc"]))
        raise WorkbookError(f"parameter {where}: {problem['msg']}; got {problem['input']!r}") from None


class Schedule(Record):
    """When the optimiser steps, logs, evaluates and saves; `notes` says what was changed and why."""

    steps: int
    warmup_steps: int
    logging_steps: int
    eval_steps: int
    save_steps: int
    rows_at_once: int
    accumulation: int
    notes: list[str] = Field(default_factory=list)


def plan_schedule(config: LoraTrainingConfig, lengths: list[int], on_cpu: bool) -> Schedule:
    """The schedule for rows of these token lengths.

    On short data the configured warm-up and intervals would never be reached, so they become shares of all steps:
    warm-up 10%, evaluation 20%, checkpoint 10%. On a CPU the accumulated rows are computed at once while they
    fit: the gradient is the same (the loss is a sum over tokens), the matrices are larger.
    """
    steps = math.ceil(config.epochs * math.ceil(len(lengths) / config.effective_batch))
    wanted = {"warmup_steps": 0.1, "logging_steps": 0.05, "eval_steps": 0.2, "save_steps": 0.1}
    values, notes = {}, []
    for name, share in wanted.items():
        values[name] = given = getattr(config, name)
        most = max(0 if name == "warmup_steps" else 1, math.ceil(share * steps))
        if given > most:
            values[name] = most
            notes.append(f"{name} {given} -> {most}: {share:.0%} of {steps} steps")
    rows_at_once, accumulation = config.batch_size, config.gradient_accumulation
    if on_cpu and accumulation > 1 and max(lengths) * config.effective_batch <= TOKENS_AT_ONCE_ON_CPU:
        rows_at_once, accumulation = config.effective_batch, 1
        notes.append(f"{config.batch_size} x {config.gradient_accumulation} rows are computed at once (same gradient)")
    return Schedule(steps=steps, rows_at_once=rows_at_once, accumulation=accumulation, notes=notes, **values)


def version_id(
    run_id: str, task: Task, dataset: FineTuningDataset, config: LoraTrainingConfig | OpenAIJobConfig
) -> str:
    """The registry id of what this training makes: the same inputs in the same run give the same id."""
    asked = config.asked if isinstance(config, OpenAIJobConfig) else config.model_dump()
    inputs = [task.registry_name, task.fingerprint, dataset.metadata.fingerprint, asked]
    return f"{run_id}-{store.fingerprint(inputs)[:8]}"
