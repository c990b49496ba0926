"""The frozen records that notebooks hand to each other, and the one error type they raise."""

from helpers.records.alarm import Alarm, AlarmState
from helpers.records.asking import Asking, Style
from helpers.records.base import SCHEMA_VERSION, Artifact, Record, from_parameters
from helpers.records.budget import Budget, Expense
from helpers.records.calls import call_of, read_calls, same_calls, with_calls
from helpers.records.datasets import (
    ColumnReading,
    DatasetMetadata,
    DatasetPointer,
    FineTuningDataset,
    FunnelRow,
    Manifest,
    SourceReading,
    Splits,
)
from helpers.records.decision import (
    AnswerRow,
    ComputeEstimate,
    Decision,
    Economics,
    Plan,
    Power,
    Recommendation,
    RungComparison,
    RungResult,
    Trainer,
    Way,
)
from helpers.records.environment import Allowance, Environment, Versions
from helpers.records.errors import NO_MEMORY, WorkbookError
from helpers.records.estimates import Estimate, EvalResults, MetricComparison
from helpers.records.evaluation import Attempt, Evaluation, FineTuneEvaluation, Ratings
from helpers.records.examples import (
    ISSUE_CODES,
    PARTS,
    Issue,
    Message,
    Part,
    Preference,
    Quality,
    RejectedExample,
    Source,
    TrainingExample,
)
from helpers.records.finding import (
    Finding,
    FindingVerdict,
    Severity,
    Verdict,
    as_finding_verdict,
    verdict_of,
)
from helpers.records.health import Day, Health, HealthVerdict, Window
from helpers.records.live import (
    GOOD_STATUS,
    Arm,
    LateFeedback,
    LiveRow,
    LiveRows,
    LogText,
    parse_live_line,
    read_live_line,
    read_live_lines,
    with_feedback,
)
from helpers.records.model import TrainedModel
from helpers.records.parity import Parity
from helpers.records.promotion import Promotion, Target
from helpers.records.rows import Rows, beside, chosen, few_collections, in_order
from helpers.records.runs import NotebookEntry, NotebookStatus, RunRecord, RunStatus
from helpers.records.screening import GOOD_USES, POOR_USES, WEIGHTS, Screening
from helpers.records.trial import Trial
from helpers.records.versions import FineTunedModelVersion, Route, Status
