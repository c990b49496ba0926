"""Fine-tuning: what the model will see, how long it takes, LoRA in a process of its own, OpenAI-compatible jobs."""

from helpers.train.config import LoraTrainingConfig, OpenAIJobConfig, Schedule, plan_schedule, version_id
from helpers.train.estimate import TrainingEstimate, estimate
from helpers.train.jobs import Job, create_once, fine_tune_openai, monitor_fine_tuning
from helpers.train.launch import TrainedModel, fine_tune_lora, read_curve
from helpers.train.rows import Preflight, TrainingRow, encode, preflight

__all__ = [
    "Job",
    "LoraTrainingConfig",
    "OpenAIJobConfig",
    "Preflight",
    "Schedule",
    "TrainedModel",
    "TrainingEstimate",
    "TrainingRow",
    "create_once",
    "encode",
    "estimate",
    "fine_tune_lora",
    "fine_tune_openai",
    "monitor_fine_tuning",
    "plan_schedule",
    "preflight",
    "read_curve",
    "version_id",
]
