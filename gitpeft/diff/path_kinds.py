"""What a file is for, as far as its path tells, and which files are shown first."""

import re
from functools import lru_cache

from gitpeft.diff.patch import FileChange
from gitpeft.lazy import lazy_pattern

_TEST = lazy_pattern(
    r"(?:^|/)(?:tests?|specs?|__tests__|testing|testdata|fixtures|e2e)/"
    r"|(?:_test|\.test|\.spec|_spec|Tests?)\.\w+$"
    r"|(?:^|/)(?:test_|conftest)[^/]*$",
)
_CI = lazy_pattern(
    r"(?:^|/)\.(?:github/(?:workflows|actions)|circleci|gitlab-ci|travis|appveyor|azure|cirrus|buildkite)"
    r"|(?:^|/)(?:azure-pipelines|appveyor|codecov|Jenkinsfile|dependabot)[^/]*$|(?:^|/)\.github/dependabot"
)
_DOCS = lazy_pattern(
    r"\.(?:md|rst|adoc|mdx|markdown)$|(?:^|/)(?:docs?|documentation|docs_src|website)/"
    r"|(?:^|/)(?:readme|change(?:s|log)|history|news|authors|contribut\w+|licen[cs]e|copying)\b[^/]*$",
    re.IGNORECASE,
)
_BUILD = lazy_pattern(
    r"(?:^|/)(?:pyproject\.toml|setup\.(?:py|cfg)|tox\.ini|requirements[^/]*\.txt|package\.json|go\.mod|cargo\.toml"
    r"|makefile[^/]*|cmakelists\.txt|[^/]*\.cmake|build\.gradle[^/]*|pom\.xml|gemfile[^/]*|[^/]*\.gemspec"
    r"|composer\.json|dockerfile[^/]*|[^/]*\.csproj|mix\.exs|\.pre-commit-config\.yaml|meson\.build"
    r"|\.eslintrc[^/]*|tsconfig[^/]*\.json|\.gitignore|\.editorconfig)$",
    re.IGNORECASE,
)
_CHANGELOG = lazy_pattern(
    r"(?:^|/)(?:change(?:s|log)|history|news|releases?)\b[^/]*$|(?:^|/)(?:newsfragments?|changes?|changelogs?(?:\.d)?|\.changeset)/",
    re.IGNORECASE,
)
_CODE_PATH = lazy_pattern(
    r"\.(?:ya?ml|json|toml|cfg|ini|lock|sh|ps1|html?|css|py|js|mjs|ts|tsx|jsx|go|rs|c|h|cc|cpp|hpp|java|kt|rb|php|cs)$"
)
PROSE_PATH = lazy_pattern(r"\.(?:md|rst|adoc|mdx|markdown|txt)$", re.IGNORECASE)


_KINDS = (("CI", _CI), ("tests", _TEST), ("docs", _DOCS), ("build", _BUILD))


def is_changelog(path: str) -> bool:
    """Whether a file tells people what has changed."""
    return _CHANGELOG.search(path) is not None and not _CODE_PATH.search(path)


@lru_cache(4096)
def classify_path(path: str) -> str:
    """What a file is for: CI, tests, docs, build, or "" for the code itself."""
    return next((name for name, pattern in _KINDS if pattern.search(path)), "")


def rank_file(change: FileChange) -> tuple[int, int]:
    """Sort key of the files that a prompt shows: code first, then tests, then the rest; the larger first."""
    rank = 3 if change.kind != "text" else {"": 0, "tests": 1}.get(classify_path(change.path), 2)
    return rank, -(change.added + change.removed)
