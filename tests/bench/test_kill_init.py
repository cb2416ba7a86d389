"""What a run after a kill did anew is found in its progress events and the files of the run."""

from tests.bench.kill_init import Kept, list_redone

BEFORE = Kept(700, ["a"], {("run", "train"): 1, ("run", "risk"): 2})


def event(step: str, detail: str = "") -> dict[str, str]:
    return {"step": step, "detail": detail}


def test_a_run_that_goes_on_does_nothing_anew() -> None:
    others = (event("mine", told) for told in ("", "indexing 900/901 commits", "300 new of 1,300 commits"))
    events = [event("mine", "256/300 commits"), *others, event("examples"), event("risk")]
    events += [event("train", "already trained"), event("export")]
    assert list(list_redone(BEFORE, BEFORE, events, 300)) == []


def test_what_is_done_anew_is_named() -> None:
    events = [event("mine", "256/1,000 commits"), event("labels", "messages"), event("train", "loss 1.00")]
    after = Kept(1000, ["a"], {("run", "train"): 3, ("run", "risk"): 2})
    assert list(list_redone(BEFORE, after, events, 300)) == [
        "256/1,000 commits were to be read where 300 were missing",
        "fixes were traced (messages)",
        "the model was trained (loss 1.00)",
        "the result of train was written",
    ]


def test_a_step_that_had_not_ended_may_be_done() -> None:
    events = [event("labels", "messages"), event("train", "loss 1.00"), event("export")]
    assert list(list_redone(Kept(1000, [], {}), Kept(1000, [], {}), events, 0)) == []
