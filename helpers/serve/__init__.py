"""The gateway: promoted versions answer requests, and what people think of it comes back."""

from helpers.serve.parity import check_parity
from helpers.serve.settings import Settings
from helpers.serve.starting import serve
from helpers.serve.trials import judge_trial, read_trial, start_trial
