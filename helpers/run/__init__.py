"""Running the workbook without a reader: runs, their history, schedules; what a machine must have.

`helpers.run.retrain` ("should we?") and the engine come with the first run that needs them.
"""

from helpers.run.advice import choose_profile
from helpers.run.doctor import doctor, tutorial_budget, versions
from helpers.run.ending import VERDICT_CODE, message_for_person
from helpers.run.flow import run
from helpers.run.history import past_runs
from helpers.run.schedule import add_schedule, remove_schedule, schedules
from helpers.run.state import collect, retire, status
from helpers.run.summary import summary
