"""Notebook 01's room: screening, economics, and the verdict whether to fine-tune at all."""

from helpers.decide.data import label_noise, without_leaks
from helpers.decide.economics import choose_trainer, economics
from helpers.decide.screening import screen
from helpers.decide.verdict import Choices, decide, gather, recommend
