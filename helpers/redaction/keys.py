"""Where a text holds keys, tokens and passwords.

KINDS is data: for each kind words of which one must be there, in small letters and divided by |,
and its published shape.
Every shape is bounded on both sides of that word, so that searching takes time linear in the text.
"""

from __future__ import annotations

import base64
import binascii
import re
from bisect import bisect_right
from functools import cache
from typing import NamedTuple


class Span(NamedTuple):
    """A finding: its kind, where it stands, and whether it is certain enough to reject the row."""

    kind: str
    start: int
    end: int
    certain: bool = True


# Before a key stands no letter or digit, unless it ends an escape: \n, \u000a, %0A.
START = r"(?:(?<![A-Za-z0-9])|(?<=\\[nrtbf])|(?<=\\u[0-9A-Fa-f]{4})|(?<=%[0-9A-Fa-f]{2}))"
WORD = "[A-Za-z0-9_-]"
NAMES = (
    r"(?:pass(?:word|wd|phrase)?|pwd|(?:client[_ -]?|shared[_ -]?|app[_ -]?)?secret(?:[_ -]?key)?"
    r"|(?:api|access|private|signing|account|auth)[_ -]?(?:key|token)|credentials?)"
)
KINDS = {
    "openai_key": ("sk-", rf"{START}sk-{WORD}{{16,300}}"),
    "aws_key_id": (
        "akia|asia|abia|acca",
        START + r"(?:AKIA|ASIA|ABIA|ACCA)[0-9A-Z]{16}(?![0-9A-Za-z])",
    ),
    "aws_secret": (
        "aws|secret",
        r"(?i:\b(?:aws|secret))\W[^\n]{0,20}?(?<![A-Za-z0-9/+])[A-Za-z0-9/+]{40}(?![A-Za-z0-9/+])",
    ),
    "github_token": ("ghp_|gho_|ghu_|ghs_|ghr_", r"gh[pousr]_[A-Za-z0-9]{30,255}"),
    "github_fine_grained": ("github_pat_", r"github_pat_\w{22,255}"),
    "gitlab_token": (
        "glpat-|gldt-|glft-|glsoat-|glrt-|glcbt-|glptt-|glimt-|glagent-|gloas-",
        r"gl(?:pat|dt|ft|soat|rt|cbt|ptt|imt|agent|oas)-[\w.-]{20,300}",
    ),
    "huggingface_token": ("hf_", START + r"(?:api_org|hf)_[A-Za-z0-9]{20,64}"),
    "slack_token": ("xox", r"xox[abeoprs](?:\.xox[bp])?-[A-Za-z0-9-]{10,250}"),
    "slack_app_token": ("xapp-", r"xapp-\d-[A-Za-z0-9-]{20,200}"),
    "slack_webhook": ("hooks.slack.com/", r"hooks\.slack\.com/[a-z]{5,12}/[\w/+-]{20,120}"),
    "teams_webhook": ("webhook.office.com/", r"webhook\.office\.com/[\w/@-]{30,250}"),
    "discord_webhook": ("/api/webhooks/", r"/api/webhooks/\d{15,22}/[\w-]{40,100}"),
    "discord_token": (".", r"\.(?<=[\w-]{23}\.)[\w-]{6}\.[\w-]{27,40}"),
    "telegram_token": (":aa", START + r"\d{8,10}:AA[\w-]{32,34}"),
    "stripe_key": (
        "k_live_|k_test_|k_prod_",
        START + r"(?:sk|rk|pk)_(?:live|test|prod)_[A-Za-z0-9]{10,247}",
    ),
    "webhook_secret": ("whsec_", r"whsec_[A-Za-z0-9+/=]{24,90}"),
    "google_key": ("aiza", r"AIza[\w-]{35}"),
    "google_client_secret": ("gocspx-", r"GOCSPX-[\w-]{28}"),
    "google_token": ("ya29.", START + r"ya29\.[\w-]{20,300}"),
    "sendgrid_key": ("sg.", START + r"SG\.[\w-]{16,32}\.[\w-]{30,64}"),
    "twilio_key": ("sk|ac", r"[0-9a-f]{32}(?<=[SA][KC][0-9a-f]{32})(?![0-9A-Za-z])"),
    "mailgun_key": ("key-", START + r"key-[0-9a-f]{32}"),
    "mailchimp_key": ("-us", START + r"[0-9a-f]{32}-us\d{1,2}"),
    "npm_token": ("npm_", r"npm_[A-Za-z0-9]{36}"),
    "pypi_token": ("pypi-age", r"pypi-AgE[\w-]{50,300}"),
    "docker_token": ("dckr_", r"dckr_(?:pat|oat)_[\w-]{20,60}"),
    "digitalocean_token": ("_v1_", r"do[opr]_v1_[0-9a-f]{64}"),
    "databricks_token": ("dapi", START + r"dapi[0-9a-f]{32}(?:-\d)?"),
    "azure_key": ("key=", r"(?:Account|SharedAccess)Key=[A-Za-z0-9+/]{40,90}={0,2}"),
    "azure_client_secret": ("q~", START + r"[\w~.]{3}\dQ~[\w~.-]{31,34}"),
    "signed_url": (
        "sig=|signature=",
        r"(?i)[?&](?:sig|signature|x-amz-signature|x-goog-signature)=[\w%+/=-]{20,600}",
    ),
    "shopify_token": (
        "shpat_|shpca_|shppa_|shpss_|shpua_",
        r"shp(?:at|ca|pa|ss|ua)_[0-9a-fA-F]{32}",
    ),
    "square_token": ("sq0", r"sq0(?:atp|csp|idp)-[\w-]{22,43}"),
    "groq_key": ("gsk_", START + r"gsk_[A-Za-z0-9]{32,64}"),
    "xai_key": ("xai-", START + r"xai-[A-Za-z0-9]{40,120}"),
    "replicate_token": ("r8_", START + r"r8_[A-Za-z0-9]{30,50}"),
    "nvidia_key": ("nvapi-", r"nvapi-[\w-]{40,90}"),
    "perplexity_key": ("pplx-", r"pplx-[A-Za-z0-9]{32,64}"),
    "fireworks_key": ("fw_", START + r"fw_[A-Za-z0-9]{20,40}"),
    "pinecone_key": ("pcsk_", r"pcsk_\w{40,100}"),
    "langsmith_key": ("lsv2_", r"lsv2_(?:pt|sk)_[0-9a-f]{32}_[0-9a-f]{10}"),
    "notion_token": ("ntn_", START + r"ntn_[A-Za-z0-9]{40,60}"),
    "linear_key": ("lin_", START + r"lin_(?:api|oauth)_[A-Za-z0-9]{32,64}"),
    "atlassian_token": ("atatt3", r"ATATT3[\w=-]{50,250}"),
    "grafana_token": ("glsa_|glc_", START + r"gl(?:sa|c)_[\w+/=-]{30,200}"),
    "newrelic_key": ("nra", r"NRA[KAL]-[A-Z0-9]{27}"),
    "vault_token": ("hvs.|hvb.", START + r"hv[sb]\.[\w-]{20,300}"),
    "doppler_token": ("dp.", START + r"dp\.(?:pt|st|ct|sa|scim|audit)\.[\w.-]{40,70}"),
    "supabase_key": ("sbp_|sb_secret_", START + r"(?:sbp_[0-9a-f]{40}|sb_secret_[\w-]{20,60})"),
    "airtable_token": ("pat", START + r"pat[A-Za-z0-9]{14}\.[0-9a-f]{64}"),
    "heroku_key": ("hrku-", r"HRKU-[\w-]{36,70}"),
    "artifactory_key": ("akcp", START + r"AKCp[A-Za-z0-9]{60,80}"),
    "age_key": ("age-secret-key-", r"(?i)AGE-SECRET-KEY-1[0-9a-z]{50,70}"),
    "jwt": ("eyj", START + r"eyJ[\w-]{10,1000}\.eyJ?[\w-]{4,4000}(?:\.[\w-]{0,1000})?"),
    "private_key": (
        "private key",
        r"-----BEGIN [A-Z0-9 ]{0,40}PRIVATE KEY(?: BLOCK)?-----"
        r"(?:(?!-----END)[\s\S]){0,16000}(?:-----END [A-Z0-9 ]{0,40}-----)?",
    ),
    "password_in_url": (
        "://",
        r"(?<=://)[^\s:/@\"'<>]{0,100}:(?!\d{1,5}(?:[/\s\"'<>?#]|$))[^\s\"'<>]{1,300}@",
    ),
    "password_in_query": (
        "=",
        r"(?i)(?<=[?&;])(?:ssl)?(?:password|passwd|pwd|token|secret|auth|(?:api|access|secret)?[_-]?"
        r"(?:key|token))=[^&\s\"'<>#]{1,300}",
    ),
    "authorization": (
        "auth",
        r"(?i)authorization[\"']?\s{0,2}[:=]\s{0,2}[\"']?(?:(?:bearer|basic|token)\s{1,3})?"
        r"[A-Za-z0-9._~+/=-]{8,2000}",
    ),
    "bearer_token": ("bearer", r"(?i)\bbearer\s{1,3}[A-Za-z0-9._~+/-]{16,2000}={0,2}"),
}
# behind the name of a secret: a value with a digit, which need not be one
SUSPICIOUS = re.compile(
    rf"(?i){NAMES}[\"']?\s{{0,3}}(?:=>|[:=]|\bis\b)\s{{0,3}}[\"']?"
    r"((?=[^\s\"',;]{0,100}\d)(?=[^\s\"',;]{0,100}[a-z])[^\s\"',;]{8,200})"
)
NAME_HINTS = ("pass", "pwd", "secret", "key", "token", "credential")
_ENCODED = re.compile(r"(?:\\[nrtbf])?([A-Za-z0-9+/_-]{24,65536}={0,2})")
_BREAK = re.compile(r"[ \t]{0,100}(?:\r?\n|\\r\\n|\\n)[ \t>|]{0,100}")
_REMAINDER = re.compile(r"(?=\S{0,300}(?:\d|[a-z][A-Z]))[\w/+=.-]{6,}")


@cache
def _patterns() -> list[tuple[str, list[str], re.Pattern[str]]]:
    return [(kind, words.split("|"), re.compile(shape)) for kind, (words, shape) in KINDS.items()]


def find_secrets(text: str) -> tuple[Span, ...]:
    """Keys, tokens, passwords; also in base64 and broken over lines. In the order of the text.

    A merely suspicious text (`password: …`) is not certain.
    """
    spans = {*_plain(text), *_encoded(text), *_broken(text)}
    return tuple(sorted(spans, key=lambda span: (span.start, -span.end)))


def _plain(text: str) -> list[Span]:
    lower = text.lower()
    spans = []
    for kind, words, pattern in _patterns():
        if any(word in lower for word in words):
            spans += [Span(kind, *match.span()) for match in pattern.finditer(text)]
    if any(hint in lower for hint in NAME_HINTS):
        spans += [Span("named_secret", *m.span(1), False) for m in SUSPICIOUS.finditer(text)]
    return spans


def _encoded(text: str) -> list[Span]:
    """Base64 of a text that holds a key."""
    spans = []
    for match in _ENCODED.finditer(text):
        word = match[1].rstrip("=").replace("-", "+").replace("_", "/")
        try:
            inner = base64.b64decode(word[: len(word) - (len(word) % 4 == 1)] + "==").decode()
        except (binascii.Error, UnicodeDecodeError):
            continue
        if any(span.certain for span in _plain(inner)):
            spans.append(Span("encoded_secret", *match.span(1)))
    return spans


def _broken(text: str) -> list[Span]:
    """Keys that a line break divides: found in the text without breaks, shown where they stand."""
    breaks = list(_BREAK.finditer(text))
    if not breaks:
        return []
    joined = _BREAK.sub("", text)
    places = []  # of the breaks in the joined text
    removed = 0
    for gap in breaks:
        places.append(gap.start() - removed)
        removed += gap.end() - gap.start()
    spans = []
    for span in (*_plain(joined), *_encoded(joined)):
        first = bisect_right(places, span.start)
        last = bisect_right(places, span.end - 1)
        crossed = breaks[first:last]
        # a whole key at a line's end stays apart from an ordinary word below it
        if crossed and span.certain and all(_REMAINDER.match(text, g.end()) for g in crossed):
            before = breaks[first - 1].end() - places[first - 1] if first else 0
            until = breaks[last - 1].end() - places[last - 1]
            spans.append(Span(span.kind, span.start + before, span.end + until))
    return spans
