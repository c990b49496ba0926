"""Notebook 02: from a task's sources to one immutable dataset version, with the evidence for every row."""

from helpers.curate.checks import validate_examples
from helpers.curate.collect import DataCollectionConfig, collect_training_data, curate, value_of
from helpers.curate.duplicates import deduplicate_examples, shingles, similar
from helpers.extras.explore import learnt, positions, threshold_rows
from helpers.curate.provider_file import FileIssue, judge_provider_file
from helpers.curate.review import close_in_meaning, rank_labels, read_decisions
from helpers.curate.versions import check_dataset, compare_versions, content_fingerprint, publish
from helpers.tasks import with_parts as create_splits
