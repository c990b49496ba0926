"""The code behind the fine-tuning workbook's notebooks, one room per folder (the map is in README.md)."""

__version__ = "0.2.0"
