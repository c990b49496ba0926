"""Learning by doing: exercises and what they say, the learner edition, what a class has done."""

from helpers.learn.edition import write_edition
from helpers.learn.feedback import check
from helpers.learn.grading import check_folder
from helpers.learn.material import good_candidates, null_candidates, planted_leaks
