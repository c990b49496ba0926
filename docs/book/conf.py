"""Sphinx's settings of the book, and the glossary's words on every page."""

from __future__ import annotations

import json
import re
from pathlib import Path

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.transforms.post_transforms import SphinxPostTransform

project = "The Fine-Tuning Workbook"
author = "the Fine-Tuning Workbook's authors"
project_copyright = "Apache License 2.0"
extensions = ["myst_nb"]
html_theme = "pydata_sphinx_theme"
html_title = project
html_static_path = ["_static"]
templates_path = ["_templates"]
html_css_files = ["book.css"]
html_js_files = ["book.js"]
html_show_sourcelink = False
html_copy_source = False
html_sidebars = {"**": ["contents.html"]}
html_theme_options = {
    "logo": {"text": project},
    "navbar_center": [],
    "navbar_persistent": ["search-button"],
    "secondary_sidebar_items": {"**": ["page-toc"], "index": []},
    "footer_start": ["copyright"],
    "footer_end": [],
    "pygments_light_style": "a11y-high-contrast-light",
    "pygments_dark_style": "a11y-high-contrast-dark",
    "show_version_warning_banner": False,
}
html_context = {"default_mode": "auto"}
exclude_patterns = ["terms.json"]
nb_execution_mode = "off"
nb_merge_streams = True
nb_ipywidgets_js: dict[str, dict[str, str]] = {}  # would be loaded from the network
nb_mime_priority_overrides = [("html", "text/html", 0)]
myst_enable_extensions = ["attrs_inline"]
myst_heading_anchors = 4
suppress_warnings = ["mystnb.unknown_mime_type", "misc.highlighting_failure", "myst.header"]
# words whose everyday sense is as likely in a sentence as the glossary's
PLAIN = {
    *("row", "run", "score", "step", "word", "job", "style", "source", "window", "quality"),
    *("production", "prompt", "generation", "record", "home", "floor", "room", "lock", "group"),
    *("task", "token", "trainer", "target"),
}
SKIPPED = (nodes.literal, nodes.literal_block, nodes.reference, nodes.title, nodes.raw)


class Terms(SphinxPostTransform):
    """The first time that a page of notebooks or guides says a word of the glossary."""

    default_priority = 700
    formats = ("html",)

    def run(self, **_: object) -> None:
        """Mark it: a link to the glossary, and its meaning on hover or focus."""
        page = self.env.docname
        if page in ("glossary", "artifacts", "decisions", "dependencies", "index"):
            return
        entries = json.loads((Path(self.env.srcdir) / "terms.json").read_text(encoding="utf-8"))
        left = {word.lower(): entry for word, entry in entries.items() if word not in PLAIN}
        up = "../" * page.count("/")
        words = sorted(map(re.escape, left), key=len, reverse=True)
        pattern = re.compile(rf"(?<![\w/.-])({'|'.join(words)})(?![\w/-])", re.I)
        for text in list(self.document.findall(nodes.Text)):
            if not self._may_be_marked(text):
                continue
            match = next((m for m in pattern.finditer(text) if m[0].lower() in left), None)
            if match is None:
                continue
            place, meaning = left.pop(match[0].lower())
            link = (
                f'<span class="term"><a href="{up}glossary.html#{place}"'
                f' aria-describedby="about-{place}">{match[0]}</a>'
                f'<span class="meaning" role="tooltip" id="about-{place}">{meaning}</span></span>'
            )
            new = [nodes.Text(text[: match.start()]), nodes.raw("", link, format="html")]
            text.parent.replace(text, [*new, nodes.Text(text[match.end() :])])

    @staticmethod
    def _may_be_marked(text: nodes.Text) -> bool:
        node = text.parent
        in_paragraph = False
        while node is not None:
            if isinstance(node, SKIPPED) or node.get("nb_element") == "cell_code_output":
                return False
            in_paragraph = in_paragraph or isinstance(node, nodes.paragraph)
            node = node.parent
        return in_paragraph


def setup(app: Sphinx) -> dict[str, bool]:
    """Register what is made here."""
    app.add_post_transform(Terms)
    return {"parallel_read_safe": True}
