"""The one error type that readers meet, and the words by which a lack of memory is known."""

from __future__ import annotations

# torch's words, and oneDNN's
NO_MEMORY = (
    r"out of memory|can(no|')t allocate memory|bad_alloc|could not create a (primitive|memory)"
)


class WorkbookError(Exception):
    """A problem the reader can fix; the message says how.

    `exit_code` is what `workbook run` ends with (2 = bad parameters, task, data or limit).
    A kernel can hand its parent only text, so a code other than 2 is part of the message.
    """

    def __init__(self, message: str, exit_code: int = 2) -> None:
        self.exit_code = exit_code
        super().__init__(message if exit_code == 2 else f"{message} [exit {exit_code}]")

    def _render_traceback_(self) -> list[str]:
        """What IPython shows: the message, which says the remedy, and no frames of helpers."""
        return [f"WorkbookError: {self}"]
