"""Learning by doing: exercises and what they say, the learner edition, what a class has done."""

from helpers.learn.breaks import (
    BREAKS,
    LongerWins,
    break_adapter,
    break_data,
    break_judge,
    break_live,
    break_registry,
    break_rows,
    break_settings,
    break_version,
)
from helpers.learn.edition import write_edition
from helpers.learn.feedback import check
from helpers.learn.grading import check_folder
from helpers.learn.material import (
    good_candidates,
    null_candidates,
    planted_leaks,
    promotions_by_rule,
)
