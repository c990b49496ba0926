"""The code behind the workbook's notebooks, one room per folder (README.md has the map)."""

__version__ = "0.2.0"
