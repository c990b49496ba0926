"""Notebook 06's room: whether the model in production is still good, by the logs of its answers."""

from helpers.monitor.evidence import log_evidence
from helpers.monitor.health import check_health, judge, publish, read_live
from helpers.monitor.replay import replay
from helpers.monitor.watched import stars
from helpers.monitor.windows import LiveLog, Numbers, daily, estimate, requests_of
