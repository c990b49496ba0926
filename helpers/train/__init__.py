"""Notebooks 03a and 03b: what the model will see, how long it takes, LoRA here, jobs elsewhere."""

from helpers.train.asking import asking_to_serve
from helpers.train.config import (
    LoraTrainingConfig,
    OpenAIJobConfig,
    auto_epochs,
    plan_schedule,
    version_id,
)
from helpers.train.export import export_model
from helpers.train.fitting import check_base, estimate, gpu_state
from helpers.train.follow import cancel_fine_tuning, choose_checkpoint, monitor_fine_tuning
from helpers.train.job import TrainingJob, TrainingResult
from helpers.train.jobs import FineTuningJob, create_once, fine_tune_openai
from helpers.train.launch import check_adapter, fine_tune_lora, run_program
from helpers.train.memory import what_fits
from helpers.train.rows import Preflight, encode, preflight, token_row
