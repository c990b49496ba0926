"""Notebook 02: from a task's sources to one immutable dataset version, with the evidence for every row."""

from helpers.curate.checks import RULE_VERSION, Sieved, validate_examples
from helpers.curate.collect import Curated, DataCollectionConfig, collect_training_data, create_splits, curate
from helpers.curate.duplicates import Conflict, deduplicate_examples, jaccard, shingles
from helpers.curate.versions import check_dataset, content_fingerprint, publish, read_manifest

__all__ = [
    "RULE_VERSION",
    "Conflict",
    "Curated",
    "DataCollectionConfig",
    "Sieved",
    "check_dataset",
    "collect_training_data",
    "content_fingerprint",
    "create_splits",
    "curate",
    "deduplicate_examples",
    "jaccard",
    "publish",
    "read_manifest",
    "shingles",
    "validate_examples",
]
