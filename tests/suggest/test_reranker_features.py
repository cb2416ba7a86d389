"""The reranker's features, each computed by hand."""

import math
from collections.abc import Sequence

import pytest

from gitpeft.suggest.reranker_features import (
    GENERATED,
    RERANKER_FEATURES,
    RETRIEVED,
    DraftMessage,
    RerankingContext,
    compute_features,
)

CHANGE = """ src/http_cache.py +3 -1
Adocs/usage.md +9 -0
#src/http_cache.py
@def drop(self)
+        timeout = 30
+        self.dropStaleEntries(maxAge)
-        expired = []"""
RECENT = ["Fix the parser", "fix router", "Add a test for the config of the app", "Drop it"]


def measure(
    message: str, *, among: Sequence[DraftMessage] = (), origin: str = GENERATED, **context: object
) -> dict[str, float]:
    """The features, by name, of a message that comes first among others."""
    drafts = [DraftMessage(message, origin, ()), *among]
    earlier = {one.message: one for one in drafts if one.origin == RETRIEVED}
    compared = RerankingContext(**{"change": CHANGE, **context})  # type: ignore[arg-type]
    return dict(zip(RERANKER_FEATURES, compute_features(drafts, earlier, compared)[0], strict=True))


def earlier(message: str, similarity: float = 0.5, age: int = 3) -> DraftMessage:
    return DraftMessage(message, RETRIEVED, ("b",), similarity=similarity, age=age)


def test_length_and_its_distance_from_the_usual() -> None:
    assert measure("drop it now")["words"] == 3
    assert measure("drop it now")["off_length"] == 3.0, "six words where nothing is known"
    assert measure("drop it now", recent=RECENT)["off_length"] == 0.5  # 2, 2, 3, 9
    assert measure("a b c d", recent=["x y", "x", "x y z"])["off_length"] == 2


def test_origin_similarity_and_age() -> None:
    new = measure("drop the cache", among=[earlier("add cache")])
    assert (new["is_retrieved"], new["is_exemplar"], new["similarity"], new["age"]) == (0, 0, 0, 0)
    drafts = [DraftMessage("add cache", GENERATED, ()), DraftMessage("x", RETRIEVED, ())]
    known = {"add cache": earlier("add cache", 0.7, 9)}
    same = dict(
        zip(RERANKER_FEATURES, compute_features(drafts, known, RerankingContext(CHANGE))[0], strict=True)
    )
    assert (same["is_retrieved"], same["is_exemplar"]) == (0, 1)
    assert (same["similarity"], same["age"]) == (0.7, math.log1p(9))


def test_agreement_with_other_candidates() -> None:
    others = [DraftMessage("drop cache", GENERATED, ()), earlier("add cache", 0.95), earlier("x y", 0.0)]
    found = measure("Drop the cache", among=others)
    assert found["agreement"] == pytest.approx((0.8 + 0.4 + 0) / 3)
    assert found["echo"] == pytest.approx(1.0 * 0.4 / 1.05)
    copied = [DraftMessage("add cache", GENERATED, ()), DraftMessage("x y", RETRIEVED, ())]
    known = {"add cache": earlier("add cache", 0.95), "x y": earlier("x y", 0.0)}
    first = DraftMessage("Drop the cache", GENERATED, ())
    echo = dict(
        zip(
            RERANKER_FEATURES,
            compute_features([first, *copied], known, RerankingContext(CHANGE))[0],
            strict=True,
        )
    )["echo"]
    assert echo == found["echo"], "a generated copy counts like the retrieved message"
    assert measure("drop the cache")["agreement"] == measure("drop the cache")["echo"] == 0


def test_words_that_stand_in_the_change() -> None:
    """Names are split, endings are cut; words of one or two letters do not count."""
    assert measure("drops stale entry in an age")["in_change"] == pytest.approx(
        3 / 4
    )  # entr(y) is not entri(es)
    assert measure("timeouts expire")["in_change"] == 1
    assert measure("removed file", change=" a.py +1 -1\n#a.py\n-remove_files()")["in_change"] == 1
    assert measure("it is")["in_change"] == 0
    assert measure("")["in_change"] == 0


@pytest.mark.parametrize(
    "name", ["dropStaleEntries", "drop_stale", "DROP_STALE", "Stale.drop()", "http_cache.py"]
)
def test_a_name_of_the_change_is_not_novel(name: str) -> None:
    found = measure(name)
    assert found["in_change"] == 1 and found["novel"] == 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (" a.go +1 -1\n#a.go\n+type HTTPServer struct", "http server"),
        (" a.go +1 -1\n#a.go\n+new JSONEncoder2", "JSON encoder"),
        ("Adocs/usage.md +9 -0", "docs"),
        ("AREADME.md +9 -0", "readme"),
        (" a.md +1 -1\n#a.md\n+Änderung am файл", "Änderung файл"),
    ],
)
def test_names_are_split_as_people_read_them(change: str, message: str) -> None:
    assert measure(message, change=change)["in_change"] == 1


def test_words_that_stand_in_a_path() -> None:
    assert measure("document the http cache usage")["in_paths"] == pytest.approx(3 / 5)
    assert measure("httpCache.py")["in_paths"] == 1
    assert measure("timeout")["in_paths"] == 0, "a word of the lines is none of a path"


def test_novel_words() -> None:
    found = measure("drop wonderful cache entries", among=[earlier("wonderful things")])
    assert found["novel"] == 0
    assert measure("drop wonderful cache entries")["novel"] == pytest.approx(1 / 4)


def test_openings_of_recent_subjects() -> None:
    assert measure("FIX it", recent=RECENT)["opening"] == math.log1p(2)
    assert measure("remove it", recent=RECENT)["opening"] == measure("fix it")["opening"] == 0


def test_words_of_the_previous_subject() -> None:
    assert measure("drop the cache", previous="drop cache")["previous"] == pytest.approx(0.8)
    assert measure("drop the cache")["previous"] == 0


def test_invented_numbers() -> None:
    assert [measure(text)["invents_number"] for text in ("wait 30 s", "wait 31 s", "wait")] == [0, 1, 0]
    assert measure("see 12", previous="fix #12")["invents_number"] == 0


def test_empty_input() -> None:
    assert compute_features([], {}, RerankingContext("")) == []
    assert all(math.isfinite(x) for x in measure("", change="").values())
    assert all(math.isfinite(x) for x in measure("…", change="~3 more files", recent=["", "…"]).values())
