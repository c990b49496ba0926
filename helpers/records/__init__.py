"""The frozen records that notebooks hand to each other, and the one error type they raise."""

from helpers.records.asking import Asking, Style
from helpers.records.base import (
    NO_MEMORY,
    SCHEMA_VERSION,
    Artifact,
    Record,
    WorkbookError,
    from_parameters,
    problem_of,
)
from helpers.records.budget import Budget, Expense
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
    GOOD_USES,
    POOR_USES,
    WEIGHTS,
    AnswerRow,
    Decision,
    Economics,
    Plan,
    Power,
    Recommendation,
    RungComparison,
    RungResult,
    Screening,
    Trainer,
    Way,
)
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
    call_of,
    read_calls,
    same_calls,
    with_calls,
)
from helpers.records.findings import (
    Alarm,
    AlarmState,
    Estimate,
    EvalResults,
    Finding,
    FindingVerdict,
    MetricComparison,
    Severity,
    Verdict,
    as_finding_verdict,
    verdict_of,
)
from helpers.records.live import (
    GOOD_STATUS,
    REPLAY_USER,
    Arm,
    Day,
    Health,
    HealthVerdict,
    LateFeedback,
    LiveRow,
    LiveRows,
    LogText,
    Replay,
    Window,
    parse_live_line,
    read_live_line,
    read_live_lines,
    with_feedback,
)
from helpers.records.registry import (
    FineTunedModelVersion,
    Parity,
    Promotion,
    Route,
    Status,
    Target,
    TrainedModel,
    Trial,
)
from helpers.records.rows import Rows, beside, chosen, few_collections, in_order
from helpers.records.runs import (
    Allowance,
    Environment,
    NotebookEntry,
    NotebookStatus,
    RunRecord,
    RunStatus,
    Versions,
)
