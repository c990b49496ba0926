"""Notebook 06's room: whether the model in production is still good, by the logs of its answers."""

from helpers.monitor.health import any_time_p, check_health, correct, judge
from helpers.monitor.windows import LiveLog, LiveRow, Windows, cut, daily, read_live
