"""The learner edition of the notebooks."""

from helpers.learn.edition import write_edition
