"""Notebooks 03a and 03b: what the model will see, how long it takes, LoRA in a process of its own, OpenAI-compatible jobs."""

from helpers.train.config import LoraTrainingConfig, OpenAIJobConfig, version_id
from helpers.train.fitting import check_base, estimate, what_fits
from helpers.train.jobs import (
    cancel_fine_tuning,
    choose_checkpoint,
    create_once,
    fine_tune_openai,
    monitor_fine_tuning,
    steer_fine_tuning,
)
from helpers.train.launch import fine_tune_lora
from helpers.train.rows import encode, preflight
