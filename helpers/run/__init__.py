"""Running the workbook without a reader: parameters, papermill, resume, exit codes; and what a machine must have."""

from helpers.run.doctor import doctor, tutorial_budget, versions
