"""A task folder: what the model is asked, by which rules it is judged, and the rows that show it."""

from helpers.tasks.examples import LoadedRows, load_examples, read_dataset, to_example
from helpers.tasks.knowledge import Article, knowledge
from helpers.tasks.parts import assign_part, group_of, normalise, with_parts
from helpers.tasks.prompt import render
from helpers.tasks.task import Task, load_task, shipped_tasks

__all__ = [
    "Article",
    "LoadedRows",
    "Task",
    "assign_part",
    "group_of",
    "knowledge",
    "load_examples",
    "load_task",
    "normalise",
    "read_dataset",
    "render",
    "shipped_tasks",
    "to_example",
    "with_parts",
]
