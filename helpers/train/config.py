"""What a training is asked to do, and the schedule that fits its number of steps."""

from __future__ import annotations

import json
import math
from typing import Any, Literal, Self

from pydantic import Field, field_validator

from helpers import models, store
from helpers.records import FineTuningDataset, Record, Style, from_parameters
from helpers.tasks import Task

TOKENS_AT_ONCE = 2048  # of accumulated rows; on a CPU they are micro-batches (kernels/loss.py)
SHARES = {"warmup_steps": 0.1, "logging_steps": 0.05, "eval_steps": 0.2, "save_steps": 0.1}
NOT_DECIDING = {  # limits, waiting times, and what is done with the model later
    "run_id",
    "task",
    "max_new_tokens",
    "max_cost_usd",
    "job_deadline_minutes",
    "poll_seconds",
    "min_served_days",
    "discard_unfinished",
    "gpu_wait_minutes",
    "main_address",
    "logging_steps",
    "save_steps",
    "checkpoint_rows",  # it picks among what one job made: no reason to pay for another job
}


class Hyperparameters(Record):
    """What both ways of training share; every field has the name of a notebook's parameter."""

    seed: int = Field(7, ge=0, le=2**31 - 1)
    prompt_style: Style = "short"
    max_new_tokens: int = Field(0, ge=0)  # where 01 has not decided it; 0 = by the gold answers

    @classmethod
    def of(cls, parameters: dict[str, Any]) -> Self:
        """The config that a notebook's globals() spell; an impossible value is named."""
        return from_parameters(cls, parameters, cls.model_fields)

    @property
    def deciding(self) -> dict[str, Any]:
        """What decides the resulting model."""
        return self.model_dump(exclude=NOT_DECIDING)


class LoraTrainingConfig(Hyperparameters):
    """A LoRA training on this machine (03a)."""

    base_model: str = "embedded"
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
    load_in_4bit: bool = False
    compute: Literal["auto", "fp32", "bf16"] = Field("auto", validate_default=True)
    early_stop_after: int = Field(0, ge=0)  # evaluations without a lower loss; 0 = never
    processes: int = Field(1, ge=1, le=64)  # on each machine
    machines: int = Field(1, ge=1, le=64)
    main_address: str = Field("", pattern=r"^$|^[\w.-]+:\d+$")  # host:port of the first machine
    sharding: Literal["none", "fsdp"] = "none"
    gpu_wait_minutes: float = Field(0.0, ge=0)
    discard_unfinished: bool = False

    @field_validator("compute")
    @classmethod
    def _of_this_machine(cls, compute: str) -> str:
        """What `auto` is here decides the adapter, so it is what is written down."""
        return models.resolve_compute(compute)

    @property
    def world(self) -> int:
        """Processes that train together."""
        return self.processes * self.machines


class OpenAIJobConfig(Hyperparameters):
    """A fine-tuning job at an OpenAI-compatible endpoint (03b)."""

    task: str = "support_triage"
    run_id: str = "dev"
    base_url: str = ""  # "" = https://api.openai.com/v1; "practice" = the practice API of this home
    api_model: str = ""
    api_extra_body: str = ""  # JSON that this provider wants in the create request besides
    n_epochs: int = Field(0, ge=0, le=50)  # 0 = auto, here and below
    api_batch_size: int = Field(0, ge=0, le=256)
    learning_rate_multiplier: float = Field(0.0, ge=0)
    model_suffix: str = Field("", max_length=64)
    max_cost_usd: float = Field(0.0, ge=0)
    job_deadline_minutes: float = Field(240.0, gt=0)
    poll_seconds: float = Field(30.0, gt=0)
    min_served_days: int = Field(60, ge=0)  # a base model that retires sooner is refused
    checkpoint_rows: int = Field(0, ge=0)  # validation rows a checkpoint is asked; 0 = none is

    @field_validator("api_extra_body")
    @classmethod
    def _is_json_object(cls, text: str) -> str:
        if text and not isinstance(json.loads(text), dict):
            raise ValueError('it must be a JSON object, such as {"trainingType": "GlobalStandard"}')
        return text

    @classmethod
    def of(cls, parameters: dict[str, Any]) -> Self:
        """As for any config; a practice model without a name is the one that base_model names."""
        config = super().of(parameters)
        base_model = parameters.get("base_model", "")
        if config.base_url == "practice" and not config.api_model and base_model:
            return config.model_copy(update={"api_model": f"practice-{base_model}"})
        return config


def plan_schedule(config: LoraTrainingConfig, lengths: list[int]) -> dict[str, int]:
    """The number of optimiser steps for rows of these token lengths, and what is fitted to it.

    On short data the configured warm-up and intervals would never be reached, so they become
    shares of all steps. Accumulated rows are computed at once while they fit: the gradient is the
    same, the matrices are larger. batch_size counts the rows of each process.
    """
    rows = config.batch_size * config.gradient_accumulation
    steps = math.ceil(config.epochs * math.ceil(len(lengths) / (rows * config.world)))
    schedule = {
        "steps": steps,
        "batch_size": config.batch_size,
        "gradient_accumulation": config.gradient_accumulation,
    }
    if max(lengths) * rows <= TOKENS_AT_ONCE:
        schedule |= {"batch_size": rows, "gradient_accumulation": 1}
    for name, share in SHARES.items():
        schedule[name] = min(getattr(config, name), math.ceil(share * steps))
    return schedule


def auto_epochs(rows: int) -> int:
    """The passes that OpenAI's "auto" is known to mean: three, and more on very few rows."""
    return max(3, min(25, 100 // rows))


def version_id(run_id: str, task: Task, dataset: FineTuningDataset, config: Hyperparameters) -> str:
    """The registry id of what this training makes: the same inputs in one run give the same id."""
    inputs = [task.registry_name, task.fingerprint, dataset.metadata.fingerprint, config.deciding]
    return f"{run_id}-{store.fingerprint(inputs)[:8]}"


def hardware_cost(task: Task, seconds: float) -> float:
    """USD of this machine's time, by task.yaml."""
    return round(seconds / 3600 * float(task.prices.get("hardware_usd_per_hour", 0)), 6)
