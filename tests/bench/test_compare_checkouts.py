"""What two versions make of a history is compared by suggestion, label and number."""

from tests.bench.compare_checkouts import Made, list_differences, list_numbers, list_shortages

BEFORE = Made({"a": ("Fix x", "Add y"), "b": ("Add z",)}, {"c": ("d",)}, {"auc": 0.5, "old": 1.0})


def test_the_same_is_told_in_three_lines() -> None:
    assert list(list_differences(BEFORE, BEFORE)) == [
        "suggestions: 2 of 2 are equal; 0 only before, 0 only after",
        "labels: 1 of 1 are equal; 0 only before, 0 only after",
        "metrics: 2 of 2 are equal; 0 only before, 0 only after",
    ]


def test_each_difference_is_listed() -> None:
    after = Made({"a": ("Add y", "Fix x"), "b": ("Add z",)}, {"c": ("d", "e")}, {"auc": 0.6, "new": 2.0})
    told = "\n".join(list_differences(BEFORE, after))
    assert "suggestions: 1 of 2 are equal" in told and "a: Fix x | Add y -> Add y | Fix x" in told
    assert "c: d -> d | e" in told and "auc: 0.5 -> 0.6" in told
    assert "- old: 1" in told and "+ new: 2" in told


def test_times_and_sizes_are_no_metrics() -> None:
    found = {
        "test": {"auc": [0.5, 1]},
        "seconds": {"mine": 3},
        "peak_memory": 9,
        "cost": {"p50_ms": 4},
        "n": 2,
    }
    assert dict(list_numbers(found)) == {"test.auc[0]": 0.5, "test.auc[1]": 1.0, "n": 2.0}


def test_names_that_only_end_alike_are_metrics() -> None:
    assert dict(list_numbers({"valid": 1, "grid": 2, "id": 3, "run_id": 4})) == {"valid": 1.0, "grid": 2.0}


def test_nothing_is_shown_by_too_little() -> None:
    assert list(list_shortages([BEFORE, BEFORE], 1)) == []
    without = Made({"a": (), "b": ()}, {}, BEFORE.metrics)
    assert list(list_shortages([BEFORE, without], 1)) == [
        "suggestions: 0 are too few to compare, 1 are needed",
        "labels: 0 are too few to compare, 1 are needed",
    ]
