"""A task folder: what the model is asked, by which rules it is judged, and its rows."""

from helpers.tasks.conventions import judge_scale, moment_of, token_of
from helpers.tasks.examples import LoadedRows, content_id, load_examples, read_dataset
from helpers.tasks.forms import own_context
from helpers.tasks.infer import LONG, are_labels, spellings
from helpers.tasks.interview import Interview
from helpers.tasks.logs import Fields, LogReader, read_log
from helpers.tasks.new import new_task
from helpers.tasks.parts import (
    assign_part,
    group_of,
    hash_order,
    normalise,
    visible,
    with_part,
    with_parts,
)
from helpers.tasks.prompt import asked_turns, learnt_turns, render
from helpers.tasks.reading import DECODER, ending_of, read_rows
from helpers.tasks.task import (
    Article,
    Task,
    calls_reason,
    knowledge,
    load_task,
    shipped_tasks,
    validator_of,
)
from helpers.tasks.textfiles import header_of
from helpers.tasks.turns import SYSTEM, messages_of
from helpers.tasks.values import pseudonymous
