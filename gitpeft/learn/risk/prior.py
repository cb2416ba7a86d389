"""The risk score that many public histories taught, adapted to a repository.

`models/risk/prior.json` is a risk model whose features are ranks: the place of a change among the recent
commits of its own repository, not how large it is in absolute numbers. So it needs no bug of a repository,
and hardly any history: where few commits are known, the distribution of the public histories stands in.
`tests/bench/build_risk_prior.py` fits it.
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import cache

import numpy as np
from numpy.typing import NDArray

from gitpeft.bundle.embedded import find_embedded_base
from gitpeft.risk.change_metrics import ChangeMetrics
from gitpeft.risk.model import WORDS_FEATURE, RiskModel

PRIOR_FOLDER, PRIOR_FILE = "risk", "prior.json"
PRIOR_COMMITS = 50
"""How many commits of a repository the public histories count for in the distribution of a metric."""

QUANTILE_COUNT = 101

RECENT_COMMITS = 1000
"""The commits of a repository that a change is ranked among, the newest ones."""

Array = NDArray[np.float64]


@cache
def load_prior() -> RiskModel:
    """The packaged model. OSError or GitpeftError where the installation is damaged."""
    import json

    text = (find_embedded_base(PRIOR_FOLDER) / PRIOR_FILE).read_text(encoding="utf-8")
    return RiskModel.from_dict(json.loads(text))


def adapt_prior(recent: Sequence[ChangeMetrics], *, words: bool) -> RiskModel:
    """The prior for a repository, from the metrics of its recent commits; labels are not needed.

    Its words count only with `words`, that is where the text of changes is known.
    """
    prior = load_prior()
    ranks = {
        name: blend_quantiles([float(getattr(one, name)) for one in recent], usual)
        for name, usual in prior.ranks.items()
    }
    adapted = replace(prior, ranks=ranks, report={})
    return adapted if words else _leave_out_words(adapted)


def _leave_out_words(model: RiskModel) -> RiskModel:
    kept = [i for i, name in enumerate(model.features) if name != WORDS_FEATURE]
    return replace(
        model,
        features=tuple(model.features[i] for i in kept),
        weights=tuple(model.weights[i] for i in kept),
        means=tuple(model.means[i] for i in kept),
        words=(),
    )


def blend_quantiles(
    values: Sequence[float] | Array, usual: Sequence[float] | Array, count: int = QUANTILE_COUNT
) -> tuple[float, ...]:
    """Evenly spaced quantiles of values and the usual ones, which count as `PRIOR_COMMITS` values."""
    both = np.concatenate([np.array(values, dtype=float), np.array(usual, dtype=float)])
    weights = np.concatenate([np.ones(len(values)), np.full(len(usual), PRIOR_COMMITS / len(usual))])
    order = np.argsort(both, kind="stable")
    upto = np.cumsum(weights[order]) - weights[order] / 2
    places = np.linspace(upto[0], upto[-1], count)
    found = both[order][np.minimum(np.searchsorted(upto, places - 1e-9), len(both) - 1)]
    return tuple(round(float(one), 6) for one in found)
