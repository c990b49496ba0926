"""The code behind the workbook's notebooks, one room per folder (README.md has the map)."""

import sys
from typing import cast

__version__ = "0.2.0"

# jsonschema builds 38 grammars with it while it is imported, a second of every process that checks
# anything, for formats of addresses that no schema here asks for; without it, it leaves them out.
cast("dict[str, object]", sys.modules).setdefault("rfc3987_syntax", None)
