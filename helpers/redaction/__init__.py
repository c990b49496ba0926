"""What must not be seen by others: where it stands in a text, and the text without it.

All text that goes to a log, an error, a page, a notebook's copy, the registry or a channel comes
through `without_secrets` or, as values before they are spelt, through `clean`.
"""

from helpers.redaction.cleaning import (
    as_csv_cell,
    clean,
    from_csv_cell,
    masked,
    outline,
    printable,
    redact,
    without_secrets,
    without_surrogates,
)
from helpers.redaction.context import has_sign_of_code, is_code, is_written_as_phone
from helpers.redaction.keys import Span, find_secrets, kinds
from helpers.redaction.recognisers import find_personal_data
