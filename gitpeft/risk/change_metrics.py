"""Change metrics: the numbers that describe a change, computed alike in training and in the hook.

The fourteen of Kamei et al., "A Large-Scale Empirical Study of Just-in-Time Quality Assurance" (TSE 2013),
and a few more. Submodules and lock, minified, vendored or otherwise generated files count in none of them; a
binary file has no lines. The moment of a change is its committer's time, not the author's: what matters is
when it came into this history. Of a staged change it is the time that git would record now. A period, such as
the last year, ends at that moment: an earlier commit with a later date is in none. Merges are not changes. A
file's history is followed through renames (not copies), along all parents.

=======  ===============================================  ===============================================
name     here                                             in the data of Zeng et al. (ISSTA 2021)
=======  ===============================================  ===============================================
ns       first directories of the files                   the same
nd       directories                                      the same
nf       files                                            different file *names*: two `__init__.py` are one
entropy  of the changed lines' distribution over files,   the same
         in bits, not divided by log2(nf)
la, ld   lines added, removed                             the same, but lines of new files do not count
lt       lines before the change, of all files            the same
fix      the message says so (`history.fix_detection`)    an issue's type, or words in the message
ndev     authors (mail address) of earlier changes        by name, this change's own too; lines' authors
                                                          (blame) stand for what came before 2011
age      days since each file was last changed, mean;     since its youngest line was written (blame): a
         0 for a new file                                 deletion does not count; 0 for a new file
nuc      different earlier changes of the files           changes of each file, this one too, summed
exp      the author's earlier changes                     file changes by the author's name, this one too
rexp     sum of 1/(1+n), n full years since each          sum of 1/(1+d), d days (with fractions)
sexp     of them, those in the same first directories     different files touched there, ever
=======  ===============================================  ===============================================
"""

import math
from collections.abc import Sequence

from gitpeft.history.context import YEAR_SECONDS, HistoryContext, MeasuredChange, find_subsystem
from gitpeft.lazy import field_names, lazy_dataclass

DAY_SECONDS = 86400
RECENT_SECONDS = 90 * DAY_SECONDS


def _make_word_set(text: str) -> frozenset[str]:
    return frozenset(text.split())


_NO_CODE_ENDINGS = _make_word_set(
    "md markdown rst txt text adoc json json5 yaml yml toml ini cfg conf properties xml csv tsv lock html "
    "htm css scss less sass svg png jpg gif ico po pot mo snap sum log diff patch editorconfig gitignore "
    "gitattributes env pem crt key tex bib in"
)
_NO_CODE_FOLDERS = _make_word_set(
    "doc docs documentation example examples sample samples demo demos website site benchmark benchmarks "
    "bench .github .circleci ci artwork po locale locales i18n"
)
_BUILD_FILES = frozenset(("setup.py", "conf.py", "go.mod", "cmakelists.txt", "noxfile.py"))


@lazy_dataclass(frozen=True, slots=True)
class ChangeMetrics:
    """The metrics in the table above and, of all files together, `fixes` in the last year, `recent` changes
    (last 90 days), `functions` touched, `new` files, and `tests`, the share of the changed lines in tests.

    The metrics that begin with `code_` count files with code of the product alone (`is_code_file`): lines
    added and removed, files, their lines before the change, new files. `real_added` and `real_removed` leave
    out blank lines, comments and moved lines of code (see `risk.real_lines`).
    """

    ns: int = 0
    nd: int = 0
    nf: int = 0
    entropy: float = 0.0
    la: int = 0
    ld: int = 0
    lt: int = 0
    fix: int = 0
    ndev: int = 0
    age: float = 0.0
    nuc: int = 0
    exp: int = 0
    rexp: float = 0.0
    sexp: int = 0
    fixes: int = 0
    recent: int = 0
    functions: int = 0
    new: int = 0
    tests: float = 0.0
    code_added: int = 0
    code_removed: int = 0
    code_files: int = 0
    code_lines: int = 0
    code_new: int = 0
    real_added: float = 0.0
    real_removed: float = 0.0


METRIC_NAMES = field_names(ChangeMetrics)
KAMEI_METRICS = METRIC_NAMES[:14]
METRIC_LABELS = {
    "ns": "subsystems changed",
    "nd": "folders changed",
    "nf": "files changed",
    "entropy": "spread over files (entropy, bits)",
    "la": "lines added",
    "ld": "lines removed",
    "lt": "lines in the files before",
    "fix": "the message says it is a fix",
    "ndev": "authors of earlier changes",
    "age": "days since the last change",
    "nuc": "earlier changes of the files",
    "exp": "author's earlier changes",
    "rexp": "author's recent changes (weighted)",
    "sexp": "author's changes in these subsystems",
    "fixes": "fixes of the files in the last year",
    "recent": "changes of the files in 90 days",
    "functions": "functions touched",
    "new": "new files",
    "tests": "share of changed lines in tests",
    "code_added": "lines of code added",
    "code_removed": "lines of code removed",
    "code_files": "code files changed",
    "code_lines": "lines in the code files before",
    "code_new": "new code files",
    "real_added": "lines of code added, without comments",
    "real_removed": "lines of code removed, without comments",
}
"""What people call each metric."""


def compute_change_metrics(context: HistoryContext, change: MeasuredChange) -> ChangeMetrics:
    """Compute the metrics of a change in the context of the history before it."""
    files = change.counted_files
    paths = [file.origin or file.path for file in files]
    areas = frozenset(find_subsystem(file.path) for file in files)
    sizes = [file.added + file.removed for file in files]
    tested = sum(size for file, size in zip(files, sizes, strict=True) if is_test_file(file.path))
    code = [file for file in files if is_code_file(file.path)]
    exp, rexp = context.measure_experience(change.author, change.time)
    return ChangeMetrics(
        ns=len(areas),
        nd=len({file.path.rpartition("/")[0] for file in files}),
        nf=len(files),
        entropy=compute_entropy(sizes),
        la=sum(file.added for file in files),
        ld=sum(file.removed for file in files),
        lt=sum(file.lines for file in files),
        fix=int(change.fix),
        ndev=context.count_developers(paths),
        age=_mean_file_age(context, paths, change.time),
        nuc=context.count_changes(paths),
        exp=exp,
        rexp=rexp,
        sexp=context.count_subsystem_changes(change.author, areas),
        fixes=context.count_fixes(paths, (change.time - YEAR_SECONDS, change.time)),
        recent=context.count_changes(paths, (change.time - RECENT_SECONDS, change.time)),
        functions=sum(len(file.functions) for file in files),
        new=sum(file.status == "A" for file in files),
        tests=tested / max(1, sum(sizes)),
        code_added=(added := sum(file.added for file in code)),
        code_removed=(removed := sum(file.removed for file in code)),
        code_files=len(code),
        code_lines=sum(file.lines for file in code),
        code_new=sum(file.status == "A" for file in code),
        real_added=added * change.real_shares[0],
        real_removed=removed * change.real_shares[1],
    )


def compute_entropy(sizes: Sequence[int]) -> float:
    """Shannon entropy of a distribution given by counts, in bits."""
    total = sum(sizes)
    shares = [size / total for size in sizes if size]
    return max(0.0, -sum(share * math.log2(share) for share in shares))


def is_test_file(path: str) -> bool:
    """Whether a file contains tests, judged by its path."""
    *folders, name = path.lower().split("/")
    stem = name.partition(".")[0]
    return (
        any(
            folder in ("test", "tests", "spec", "specs", "__tests__", "testing", "testdata")
            for folder in folders
        )
        or stem.startswith("test_")
        or stem.endswith(("_test", "_spec", "test"))
        or ".test." in name
        or ".spec." in name
    )


def is_code_file(path: str) -> bool:
    """Whether a file is code of the product, judged by its path: no test, document, data, build or example.

    A stricter form, which asks a lexer, decides what SZZ traces (`learn.szz.candidate_lines`).
    """
    *folders, name = path.lower().split("/")
    stem, dot, ending = name.rpartition(".")
    is_prose = not (stem and dot) or ending in _NO_CODE_ENDINGS or name in _BUILD_FILES
    return not is_prose and _NO_CODE_FOLDERS.isdisjoint(folders) and not is_test_file(path)


def _mean_file_age(context: HistoryContext, names: Sequence[str], now: int) -> float:
    """Mean days since the last change of each file; 0 for one without an earlier change."""
    last = [context.find_last_change_time(name, now) for name in names]
    return sum((now - time) / DAY_SECONDS for time in last if time is not None) / max(1, len(names))
