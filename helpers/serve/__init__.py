"""The gateway: promoted versions answer requests, and what people think of it comes back."""

from helpers.serve.livelog import add_rows
from helpers.serve.parity import check_before_promotion, check_parity
from helpers.serve.settings import Settings
from helpers.serve.starting import ask_production, serve
from helpers.serve.trials import start_trial, stop_trial, trial_report
