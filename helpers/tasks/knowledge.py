"""knowledge/*.md|txt: the articles that the RAG rung may quote."""

from __future__ import annotations

from helpers.records import Record
from helpers.tasks.task import Task


class Article(Record):
    """One file of the knowledge folder; `id` is its file name without ending."""

    id: str
    title: str
    text: str


def knowledge(task: Task) -> list[Article]:
    """All articles in name order; an empty list when the task has none."""
    folder = task.folder / "knowledge"
    articles = []
    for path in sorted([*folder.glob("*.md"), *folder.glob("*.txt")]):
        text = path.read_text(encoding="utf-8", errors="replace").strip()
        first = text.splitlines()[0] if text else path.stem
        articles.append(Article(id=path.stem, title=first.lstrip("# ").strip(), text=text))
    return articles
