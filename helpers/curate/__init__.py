"""Notebook 02: from a task's sources to one immutable dataset version, evidence for every row."""

from helpers.curate.checks import validate_examples
from helpers.curate.collect import Ask, collect_training_data, curate
from helpers.curate.config import DataCollectionConfig
from helpers.curate.duplicates import PairFinder, deduplicate_examples, pairs_here
from helpers.curate.labels import Label, LabelFunctions, label_functions, label_of
from helpers.curate.personal import masked_example, masked_text
from helpers.curate.production import load_production
from helpers.curate.provider_file import FileIssue, judge_provider_file
from helpers.curate.review import Decisions, apply_decisions, read_decisions
from helpers.curate.searching import (
    Findings,
    Search,
    digest,
    search_here,
    search_text,
    search_texts,
)
from helpers.curate.similarity import (
    Pair,
    band_keys,
    confirmed,
    incidence_of,
    jaccard,
    low_bits,
    may_reach,
    minhashes_of,
    shingles,
)
from helpers.curate.stages import Question, Stage
from helpers.curate.versions import Curated, check_dataset, content_fingerprint, publish_dataset
from helpers.tasks import with_parts as create_splits
