"""Redaction: masks secrets in text.

The formats of keys and tokens, and the entropy limits for random values, are those of detect-secrets. Loading
it takes some 100 ms, so it is asked only about lines in which a cheap test finds something that may be a
secret. Rules here find what detect-secrets cannot locate within a line: named values, passwords in URLs, key
blocks.
"""

import re
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import cache, lru_cache
from importlib import import_module
from types import ModuleType, SimpleNamespace
from typing import Protocol, cast

from gitpeft.lazy import lazy_pattern

PLACEHOLDER = "<secret>"

_FORMAT_MARKERS = (
    *("hooks.slack.com", "sq0csp-", "pypi-Ag", "api.softlayer.com", "sk-", "-us", "xox", "xapp-", "hvs."),
    *("shpat_", "dop_v1_", "AGE-SECRET-KEY-1", "GOCSPX-", "ya29.", "glsa_", "lin_api_", "sk_test_"),
)
_ANCHORED_FORMATS = (
    lazy_pattern(
        r"A(?:[KSB]IA[0-9A-Z]{16}|CCA[0-9A-Z]{16}|3T[0-9A-Z]{17}|KC\w{10}|Iza[\w-]{35}|C[a-z0-9]{32})"
    ),
    lazy_pattern(r"A(?:ccountKey=[\w+/=]{88}|A(?<=[0-9]:AA)[\w-]{33})"),
    lazy_pattern(r"S(?:G\.[\w-]{22}\.|K[a-z0-9]{32})"),
    lazy_pattern(r"J(?<=eyJ)[\w=-]{4,}\.[\w=-]{4}"),
    lazy_pattern(r"g(?:h[opusr]_\w{36}|l[a-z]{2,5}-[\w-]{20})"),
    lazy_pattern(r"G(?=R1348941[\w-]{20})"),
    lazy_pattern(
        r"_(?:pat_[\w-]{20}|(?<=[rs]k_)live_\w{24}|(?<=npm_)\w{20}|(?<=hf_)[a-zA-Z]{30}|authToken=)"
    ),
)
"""Every secret of a known format matches one of these or contains a marker.

They begin with a single letter, a rare one where there is a choice, because `re` finds it quickly by
`memchr`.
"""
_KNOWN_FORMATS = lazy_pattern(
    r"xox[abposr]-\d|hooks\.slack\.com/services/T|(?<![a-zA-Z])sk-[\w-]{20}|sq0csp-[\w\\-]{43}|pypi-Ag\w{10}"
    r"|api\.softlayer\.com/soap/|-us(?<=[0-9a-z]{32}-us)[0-9]"
)
"""What must follow the markers, unless one of the formats below does."""

_OTHER_FORMATS = lazy_pattern(
    r"github_pat_\w{20,}|AIza[\w-]{35}|hf_[a-zA-Z]{30,}|(?<![a-zA-Z])sk-(?:ant|proj|svcacct)-[\w-]{20,}|npm_[a-zA-Z0-9]{36}"
    r"|dckr_pat_[\w-]{20,}|xapp-\d-\w[\w-]{20,}|hvs\.[\w-]{20,}|shpat_[0-9a-f]{20,}|dop_v1_[0-9a-f]{20,}"
    r"|AGE-SECRET-KEY-1[0-9A-Z]{20,}|GOCSPX-[\w-]{20,}|ya29\.[\w-]{20,}|glsa_\w{20,}|lin_api_\w{20,}"
    r"|sk_test_\w{20,}"
)
"""Formats that detect-secrets 1.5 does not know."""

_SECRET_NAME_PARTS = (
    *("passw", "passphrase", "_pass", "pwd", "contrase", "secret", "token", "credential", "_key", "apikey"),
    *("api-key", "access-key", "accesskey", "privatekey", "authkey", "authorization", "curl"),
)
"""Substrings (in lower case); every name of a secret contains one of them."""

_SECRET_NAME_STEMS = ("pass", "key", "token", "secret", "pwd", "credential", "contrase", "authoriz", "curl")
"""Fewer substrings; each of those above contains one of them."""

_SECRET_NAME = (
    r"(?:passw(?:or)?d|passphrase|pwd|_pass|contrase[nñ]a|secret|token|credential"
    r"|(?:auth|api|access|priv|private|client|account|service|db|database|softlayer|cloudant)[_-]?(?:key|pass))"
)
_STRONG_SECRET_NAME = lazy_pattern(
    r"passw|passphrase|pwd|contrase|secret|(?:api|auth|service|account|db|database|priv|private|client)[_-]?key"
    r"|(?:db|database|key)[_-]?pass",
    re.I,
)
"""Names whose values are always secret, as in the keyword rule of detect-secrets."""
_UUID = lazy_pattern(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.I)
_QUOTED_ASSIGNMENT = lazy_pattern(
    rf"(?P<name>(?<![\w-])[\w-]*{_SECRET_NAME}[\w-]*)[\]\)\"'`]*\s*(?::=|=>|[!=]==?|=|:|\()\s*[@bruf]?([\"'`])"
    r"(?P<value>[^\s\"'`]{4,})\2",
    re.I,
)
_QUOTED_COMPARISON = lazy_pattern(
    rf"([\"'`])(?P<value>[^\s\"'`]{{4,}})\1\s*[!=]==?\s*(?P<name>[\w.]*{_SECRET_NAME}[\w-]*)", re.I
)
_UNQUOTED_SETTING = lazy_pattern(
    rf"^[-+ ]?\s*(?:export |set |ENV |- )?(?P<name>[\w.-]*{_SECRET_NAME}[\w.-]*)\s*[:=]\s*"
    r"(?P<value>[^\s\"'`]{8,})$",
    re.I,
)
_UPPERCASE_SECRET_NAME = (
    r"(?:PASSWORD|PASSWD|PASSPHRASE|PWD|SECRET|TOKEN|(?:API|ACCESS|AUTH|PRIVATE|ENCRYPTION|SIGNING)_?KEY)"
)
_SECRET_CONTEXTS = (
    lazy_pattern(
        r"authorization[\"']?\s*[:=,]\s*[\"'`]?(?:bearer|basic|token)\s+(?P<value>[^\s\"'`,;]{8,})", re.I
    ),
    lazy_pattern(r"\bcurl\b.*?\s(?:-u|--user)[ =]?[\"']?[^\s:\"']+:(?P<value>[^\s\"']+)"),
    lazy_pattern(r"(?:password|passwd|pwd)=(?P<value>[^\s;&\"'<>()]{4,})(?=[;&\"'])", re.I),
    lazy_pattern(
        rf"(?<![\w.$-])[A-Z0-9_]*{_UPPERCASE_SECRET_NAME}(?:_[A-Z0-9_]+)?=[\"']?(?P<value>[^\s\"'`=][^\s\"'`]{{3,}})"
        r"(?=[\"']?(?:\s|$))"
    ),
    lazy_pattern(r"--[\w-]*(?:password|passwd|token|secret|api-?key)=[\"']?(?P<value>[^\s\"'`]{4,})", re.I),
    lazy_pattern(r"[?&](?:access_token|token|api_?key)=(?P<value>[\w%.~+/-]{16,})", re.I),
    lazy_pattern(r"<(?:[\w.:-]*[.:_-])?pass(?:word|wd)>(?P<value>[^<>\s]{4,})</", re.I),
    lazy_pattern(
        rf"define\(\s*[\"']\w*{_UPPERCASE_SECRET_NAME}\w*[\"']\s*,\s*([\"'])(?P<value>[^\"']{{4,}})\1"
    ),
)
"""Contexts whose values are secret: headers, options, connection strings, environment variables."""

_URL_PASSWORD = lazy_pattern(r"://[^\s:/?#\[\]@<>\"'{}$%]*:(?P<value>[^\s:/?#\[\]@\"'`]+)@[\w\[]")
_ORDINARY_VALUE = lazy_pattern(
    r"[$<{%/.(\[]|https?:|[\w-]+\.(?:key|pem|crt|txt|json|ya?ml)$"
    r"|.*(?:\$\{|\{\{|<[\w -]*>|\*\*\*|\.\.\.|%\(|%s)|(?:true|false|none|null|undefined|nil|string"
    r"|password|passwd|secret|token|required|optional|example)s?$",
    re.I,
)
"""Values that are placeholders of a secret, or not values at all."""

_OPENSSH_KEY_START = "b3BlbnNzaC1rZXktdjE"
"""The beginning of every private key of OpenSSH; in a diff of one, nothing else may give it away."""

_KEY_BEGIN = lazy_pattern(
    rf"BEGIN (?:[A-Z0-9]+ )*PRIVATE KEY(?: BLOCK)?-----|PuTTY-User-Key-File-|{_OPENSSH_KEY_START}"
)
_KEY_LINES = lazy_pattern(r"\n[-+ ][A-Za-z0-9+/]{60,76}={0,2}(?:\n[-+ ][A-Za-z0-9+/]{60,76}={0,2})+(?=\n|$)")
_KEY_INLINE = lazy_pattern(r"(?<=PRIVATE KEY-----)(?P<quote>(?:\\[nr]|[\"'\s+,])*)[A-Za-z0-9+/=\\]{20}.*")
_KEY_BODY = lazy_pattern(r"[-+ ]?\s*[\"']?[A-Za-z0-9+/=]{16,}(?:\\n)?[\"']?[\s+,;)]*")
_KEY_END = lazy_pattern(r"-----END |Private-MAC|^[@#\0]")

_LONG_TOKEN = lazy_pattern(r"(?<![\w+/-])(?=[\w+/-]*[0-9])[\w+/-]{40}|[MNO][\w-]{23,25}\.[\w-]{6}\.[\w-]{27}")
_TOKEN_TAIL = lazy_pattern(r"[\w./=+-]*[\w/=]")
_LINE_PIECE = lazy_pattern(r".{1,998}[^\s:=!(\[,]\s(?![\s:=!])|.{1,1000}", re.DOTALL)
"""Pieces of at most 1,000 characters, because some rules take time quadratic in the length of a line.

Lines are cut between words where possible, and not between a name and its value.
"""

_DETECTOR_PLUGINS = (
    *("artifactory", "aws", "azure_storage_key", "cloudant", "discord", "github_token", "gitlab_token"),
    *(
        "ibm_cloud_iam",
        "ibm_cos_hmac",
        "jwt",
        "mailchimp",
        "npm",
        "openai",
        "pypi_token",
        "sendgrid",
        "slack",
    ),
    *("softlayer", "square_oauth", "stripe", "telegram_token", "twilio"),
)


def mask_secrets(text: str) -> str:
    """Replace each secret in a text by `<secret>`. Idempotent."""
    for _ in range(8):
        if not _may_hold_secret(text):
            break
        masked = "\n".join(_mask_lines(_mask_private_keys(text.split("\n"))))
        if masked == text:
            break
        text = masked
    return _KEY_LINES.sub(_mask_base64_lines, text)


def _may_hold_secret(text: str) -> bool:
    """A cheap test whether a text may contain a secret."""
    if "PRIVATE KEY" in text or "PuTTY-User-Key" in text or _OPENSSH_KEY_START in text:
        return True
    if "://" in text and "@" in text and _URL_PASSWORD.search(text):
        return True
    return _has_secret_name(text) or _has_secret_format(text)


def _has_secret_format(text: str) -> bool:
    if any(map(text.__contains__, _FORMAT_MARKERS)) and (
        _KNOWN_FORMATS.search(text) or _OTHER_FORMATS.search(text)
    ):
        return True
    return any(rule.search(text) for rule in _ANCHORED_FORMATS)


def _has_secret_name(text: str) -> bool:
    lower = text.lower()
    return any(map(lower.__contains__, _SECRET_NAME_STEMS)) and any(
        map(lower.__contains__, _SECRET_NAME_PARTS)
    )


def _mask_private_keys(lines: Iterable[str]) -> Iterator[str]:
    """Mask the body of each private key, on one line or on several."""
    inside = False
    for line in lines:
        if _KEY_BEGIN.search(line):
            inside = _KEY_END.search(line) is None
            line = _KEY_INLINE.sub(rf"\g<quote>{PLACEHOLDER}", line)
            yield line[:1] + PLACEHOLDER if _KEY_BODY.fullmatch(line) else line
        elif inside and _KEY_END.search(line):
            inside = False
            yield line
        else:
            yield line[:1] + PLACEHOLDER if inside and _KEY_BODY.fullmatch(line) else line


def _mask_lines(lines: Iterable[str]) -> Iterator[str]:
    for line in lines:
        yield "".join(map(_mask_line, _LINE_PIECE.findall(line))) if len(line) > 1000 else _mask_line(line)


@lru_cache(2048)  # a text is masked until nothing changes, and many lines come again
def _mask_line(line: str) -> str:
    """Mask secrets that are in a URL, named, or of a known format."""
    if "://" in line:
        line = _URL_PASSWORD.sub(_mask_value, line)
    if _has_secret_name(line):
        for rule in (_QUOTED_ASSIGNMENT, _QUOTED_COMPARISON):
            line = rule.sub(_mask_named_value, line)
        line = _UNQUOTED_SETTING.sub(_mask_setting, line)
        for rule in _SECRET_CONTEXTS:
            line = rule.sub(_mask_value, line)
        return _mask_formats(line) if _LONG_TOKEN.search(line) or _has_secret_format(line) else line
    return _mask_formats(line) if _has_secret_format(line) else line


def _mask_base64_lines(match: re.Match[str]) -> str:
    """Mask a run of lines that are only base64, as in a key or a certificate."""
    return "".join(f"\n{line[:1]}{PLACEHOLDER}" for line in match[0].split("\n")[1:])


def _mask_value(match: re.Match[str]) -> str:
    """Mask the value in a match, unless it is a placeholder."""
    value = match["value"]
    if _ORDINARY_VALUE.match(value):
        return match[0]
    start, end = (at - match.start() for at in match.span("value"))
    return match[0][:start] + PLACEHOLDER + match[0][end:]


def _mask_named_value(match: re.Match[str]) -> str:
    """The same, if the name or the value is that of a secret."""
    if _ORDINARY_VALUE.match(match["value"]) or not _is_secret(match["name"], match["value"]):
        return match[0]
    return _mask_value(match)


def _mask_setting(match: re.Match[str]) -> str:
    """The same without quotes, where a value may also be another name."""
    name, value = match["name"], match["value"]
    code = re.search(r"[(){}\[\],;]", value) or re.fullmatch(r"[A-Za-z_.]+\d?", value)
    return match[0] if code and not (name.isupper() and value.isalnum()) else _mask_named_value(match)


def _is_secret(name: str, value: str) -> bool:
    """Whether a named value is secret: any value of a strong name; of others, long random ones but UUIDs."""
    if _STRONG_SECRET_NAME.search(name):
        return True
    if len(value) < 16 or _UUID.fullmatch(value):
        return False
    return any(one.calculate_shannon_entropy(value) > one.entropy_limit for one in _load_entropy_detectors())


def _mask_formats(line: str) -> str:
    """Mask what matches a format of detect-secrets, or one that it does not know."""
    spans = sorted(span for span in _find_format_spans(line) if PLACEHOLDER not in line[slice(*span)])
    at = 0
    parts = []
    for start, end in spans:
        if start >= at:
            parts += [line[at:start], PLACEHOLDER]
        at = max(at, end)
    return "".join(parts) + line[at:]


def _find_format_spans(line: str) -> Iterator[tuple[int, int]]:
    for match in _OTHER_FORMATS.finditer(line):
        yield match.span()
    for plugin in _load_format_detectors():
        for rule in plugin.denylist:
            for match in rule.finditer(line):
                if getattr(plugin, "is_formally_valid", bool)(match[0]):
                    yield _find_secret_span(match)


def _find_secret_span(match: re.Match[str]) -> tuple[int, int]:
    """The span of the secret in a match: its longest group, or all to the end of the token if it has none."""
    group = max(
        range(match.re.groups + 1), key=lambda i: (i > 0 and len(match[i] or "") >= 16, len(match[i] or ""))
    )
    start, end = match.span(group)
    rest = _TOKEN_TAIL.match(match.string, end)
    return start, rest.end() if rest and not match.re.groups else end


class _FormatDetector(Protocol):
    """What is used of a detector of detect-secrets that recognises a format."""

    denylist: Iterable[re.Pattern[str]]


class _EntropyDetector(Protocol):
    """What is used of a detector of detect-secrets that measures entropy."""

    entropy_limit: float

    def calculate_shannon_entropy(self, data: str) -> float: ...


@contextmanager
def _stub_requests() -> Iterator[None]:
    """Import detect-secrets without `requests`, which it only uses to try keys out on their services.

    With an empty module in its place no connection can be made, and loading takes a third of the time.
    """
    if "requests" in sys.modules:
        yield
        return
    stand_in = ModuleType("requests")
    stand_in.Response = object  # type: ignore[attr-defined]
    stand_in.exceptions = SimpleNamespace(RequestException=OSError)  # type: ignore[attr-defined]
    sys.modules["requests"] = stand_in
    try:
        yield
    finally:
        sys.modules.pop("requests", None)


@cache
def _load_format_detectors() -> "list[_FormatDetector]":
    """The detectors of detect-secrets that recognise a format."""
    with _stub_requests():
        modules = [import_module(f"detect_secrets.plugins.{name}") for name in _DETECTOR_PLUGINS]
        regex_based = import_module("detect_secrets.plugins.base").RegexBasedDetector
    found = [kind for module in modules for kind in vars(module).values() if isinstance(kind, type)]
    kinds = [kind for kind in found if issubclass(kind, regex_based) and kind is not regex_based]
    return [cast(_FormatDetector, kind()) for kind in kinds]


@cache
def _load_entropy_detectors() -> "list[_EntropyDetector]":
    """The detectors of detect-secrets that measure the entropy of a value."""
    with _stub_requests():
        entropy = import_module("detect_secrets.plugins.high_entropy_strings")
    return [entropy.Base64HighEntropyString(), entropy.HexHighEntropyString()]
