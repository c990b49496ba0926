"""A practice fine-tuning API on this machine: OpenAI's wire format, small trainings, real failures.

A server of its own (`workbook practice-api`, `python -m helpers.practice`); a run starts it and
never imports it.
"""
