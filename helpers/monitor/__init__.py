"""Notebook 06's room: whether the model in production is still good, from the logs of what it answered."""

from helpers.monitor.health import Check, Health, any_time_p, check_health, holm, judge
from helpers.monitor.windows import Day, LiveLog, daily, read_live
