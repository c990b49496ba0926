"""Notebook 01's room: screening, economics, and the verdict whether to fine-tune at all."""

from helpers.decide.screening import Screening, screen
from helpers.decide.verdict import decide, recommend
