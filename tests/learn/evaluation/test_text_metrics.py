"""The metrics against a published figure, values worked out by hand, and their own definitions."""

import math
import re
import subprocess
import sys
from pathlib import Path
from xml.sax.saxutils import unescape

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from rapidfuzz.distance import Levenshtein

from gitpeft.learn.evaluation.text_metrics import (
    TEXT_METRICS,
    ConfidenceInterval,
    MetricScores,
    _resample_means,
    _tokenise_text,
    b_norm,
    bootstrap_mean,
    compute_saving,
    edit_similarity,
    first_word_match,
    kept_offers,
    keystrokes_saved,
    nearly_kept_offers,
    offered_share,
    paired_bootstrap,
    rouge_l,
    score_messages,
)

CHECKOUT = Path(__file__).resolve().parents[3]
NNGEN = CHECKOUT.parent / "shared" / "data" / "metrics" / "nngen"


@pytest.mark.skipif(
    not NNGEN.is_dir(), reason="the NNGen messages are not beside the checkout (../shared/data)"
)
def test_b_norm_of_nngen_is_the_published_figure() -> None:
    hypotheses = (NNGEN / "nngen.cleaned.test.msg").read_text(encoding="utf-8").splitlines()
    references = (NNGEN / "cleaned.test.msg").read_text(encoding="utf-8").splitlines()
    assert len(hypotheses) == len(references) == 2521
    assert round(bootstrap_mean(b_norm(hypotheses, references), seed=0, n=1).mean, 4) == 23.0375


@pytest.mark.parametrize(
    ("hypothesis", "reference", "expected"),
    [
        ("Fix the bug in parser", "fix THE bug in parser", 100),
        ("fix", "Fix", 100),
        # 1-grams 2/2, 2-grams (0+1)/(1+1), then 1/1 and 1/1; lengths 2 and 3
        ("fix bug", "fix the bug", 100 * 0.5**0.25 * math.exp(1 - 4 / 3)),
        # add foo _ bar | add foo - bar: 3/4 · (1+1)/(3+1) · (0+1)/(2+1) · (0+1)/(1+1) = 1/16
        ("add foo_bar", "Add foo-bar", 50),
        # a repeated word counts once: 1/3 · 1/3 · 1/2 · 1; the hypothesis is the longer one, so no penalty
        ("the the the", "the cat", 100 * (1 / 18) ** 0.25),
        ("nothing shared", "fix the bug", 0),
        ("", "fix the bug", 0),
        ("fix", "", 0),
    ],
)
def test_b_norm_by_hand(hypothesis: str, reference: str, expected: float) -> None:
    assert b_norm([hypothesis], [reference]) == pytest.approx([expected])


def mteval_tokens(text: str) -> list[str]:
    """The definition in full: lower-case, split off punctuation, then normalise as mteval-v11a.pl does."""
    text = " ".join(re.findall(r"[\w]+|[^\s\w]", text.lower()))
    text = unescape(text.replace("<skipped>", "").replace("-\n", "").replace("\n", " "), {"&quot;": '"'})
    text = f" {text} "
    text = re.sub(r"([\{-\~\[-\` -\&\(-\+\:-\@\/])", r" \1 ", text)
    text = re.sub(r"([^0-9])([\.,])", r"\1 \2 ", text)
    text = re.sub(r"([\.,])([^0-9])", r" \1 \2", text)
    return re.sub(r"([0-9])(-)", r"\1 \2 ", text).split()


@given(st.text() | st.text(alphabet="aB_1.,-'`<>&;quot\n /é$"))
@example("<skipped> &quot;1.5,2-3&quot; it's a__b snake_case 1.e5 x-\ny İ")
def test_tokens_are_those_of_mteval(text: str) -> None:
    assert _tokenise_text(text) == mteval_tokens(text)


def test_rouge_l_by_hand() -> None:
    # "fix bug" is the longest common subsequence: precision 2/2, recall 2/3; "café" is read as "caf"
    assert rouge_l(["fix bug", "caf", "", "x"], ["Fix the bug!", "café", "a", "y"]) == pytest.approx(
        [80, 100, 0, 0]
    )


def test_edit_similarity_by_hand() -> None:
    assert edit_similarity(["kitten", "Fix", "", "a"], ["sitting", "fix", "abc", "a"]) == pytest.approx(
        [100 * 4 / 7, 100 * 2 / 3, 0, 100]
    )


def test_keystrokes_saved_by_hand() -> None:
    offers = ["kitten", "", "Fix typo", "Fix typo in a file that nobody knows", "Fix typo in readme"]
    written = ["sitting", "abc", "Fix typo", "Fix typo", "Fix typo in README"]
    assert keystrokes_saved(offers, written) == pytest.approx([100 * 4 / 7, 0, 100, 0, 100 * 12 / 18])
    assert kept_offers(offers, written) == [0, 0, 100, 0, 100]
    assert nearly_kept_offers(offers, written) == [100, 0, 100, 0, 100]
    assert offered_share(offers, written) == [100, 0, 100, 100, 100]


@given(st.text(max_size=12), st.text(min_size=1, max_size=12))
def test_the_saving_is_that_of_an_independent_edit_distance(offer: str, written: str) -> None:
    distance = Levenshtein.distance(offer, written)
    assert compute_saving(offer, written) == pytest.approx(max(0.0, 1 - distance / len(written)))


def test_shares_of_what_is_offered_leave_abstentions_out() -> None:
    scores = score_messages(["Fix typo", "", "", "Add"], ["Fix typo", "Add x", "Fix y", "Remove the cache"])
    assert scores.n == 4
    assert scores.metrics["kept"].mean == 50 and scores.metrics["keystrokes_saved"].mean == 25
    assert scores.metrics["coverage"].mean == 50
    nothing = score_messages(["", ""], ["Fix typo", "Add x"])
    assert "kept" not in nothing.metrics and nothing.metrics["coverage"].mean == 0


def test_first_word_by_hand() -> None:
    hypotheses = ["Fix it", "  fix", "fix: it", "", "fix", "STRASSE"]
    references = ["fix that", "Fix\tall", "fix it", "", "fixes", "straße"]
    assert first_word_match(hypotheses, references) == [100, 100, 0, 0, 0, 100]


@pytest.mark.parametrize("name", TEXT_METRICS)
@given(pairs=st.lists(st.tuples(st.text(max_size=30), st.text(max_size=30)), max_size=5))
def test_every_metric_stays_between_0_and_100(name: str, pairs: list[tuple[str, str]]) -> None:
    scores = TEXT_METRICS[name]([a for a, _ in pairs], [b for _, b in pairs])
    assert len(scores) == len(pairs)
    assert all(0 <= score <= 100 + 1e-9 for score in scores)


@pytest.mark.parametrize("name", TEXT_METRICS)
def test_lists_of_different_length_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match="zip"):
        TEXT_METRICS[name](["a", "b"], ["a"])


def test_the_bootstrap_interval_is_that_of_the_mean() -> None:
    scores = np.random.default_rng(7).normal(50, 10, size=400).tolist()
    found = bootstrap_mean(scores, seed=1)
    assert found == bootstrap_mean(scores, seed=1) != bootstrap_mean(scores, seed=2)
    assert found.mean == pytest.approx(np.mean(scores))
    half = 1.96 * np.std(scores) / math.sqrt(len(scores))  # what the central limit theorem expects
    assert found.mean - found.low == pytest.approx(half, rel=0.15)
    assert found.high - found.mean == pytest.approx(half, rel=0.15)


def test_resampling_in_batches_gives_as_many_means_as_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules[bootstrap_mean.__module__], "_MAX_RESAMPLED_SCORES", 30)
    means = _resample_means(np.arange(10.0), np.random.default_rng(0), 7)
    assert means.shape == (7,)
    assert 0 <= means.min() < means.max() <= 9


def test_a_paired_difference_is_sharper_than_two_intervals() -> None:
    random = np.random.default_rng(3)
    baseline = random.uniform(0, 100, size=300)
    better = baseline + random.normal(1, 2, size=300)
    apart = bootstrap_mean(better.tolist(), seed=0), bootstrap_mean(baseline.tolist(), seed=0)
    assert apart[0].low < apart[1].high
    difference = paired_bootstrap(better.tolist(), baseline.tolist(), seed=0)
    assert difference.excludes_zero
    assert difference.mean == pytest.approx(float((better - baseline).mean()))
    assert not paired_bootstrap([1, 2, 3], [3, 2, 1], seed=0).excludes_zero


def test_nothing_to_resample_is_an_error() -> None:
    with pytest.raises(ValueError, match="no scores"):
        bootstrap_mean([], seed=0)
    with pytest.raises(ValueError, match="zip"):
        paired_bootstrap([1.0], [1.0, 2.0], seed=0)


def test_scores_sum_up_every_metric() -> None:
    scores = MetricScores.from_metrics(
        {
            name: metric(["fix bug", "Add docs"], ["fix bug", "remove docs"])
            for name, metric in TEXT_METRICS.items()
        },
        seed=5,
    )
    assert scores.n == 2
    assert set(scores.metrics) == set(TEXT_METRICS)
    assert scores.metrics["first_word"] == ConfidenceInterval(50, 0, 100)
    assert scores.as_dict()["first_word"] == {"mean": 50, "low": 0, "high": 100}


def test_importing_the_metrics_loads_neither_scorer() -> None:
    program = (
        "import gitpeft.learn.evaluation.text_metrics, sys;"
        "print('rouge_score' in sys.modules, 'rapidfuzz' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=CHECKOUT, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["False", "False"]
