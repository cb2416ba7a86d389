"""Markdown tables from what gpu.py measured."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

GIB = 2**30


def make_tables(found: Mapping[str, Any]) -> str:
    """All tables that the finished steps give, after lines on the machine and on each step that failed."""
    steps = found["steps"]
    results = {name: row["result"] for name, row in steps.items() if row["state"] == "done"}
    parts = [_describe_machine(found, results.get("machine", {}))]
    parts += [
        f"`{name}` {row['state']}: {row['why']}." for name, row in steps.items() if row["state"] != "done"
    ]
    for name, make in _TABLES.items():
        if name in results:
            parts.append(make(results[name]))
    return "\n\n".join(parts)


def _describe_machine(found: Mapping[str, Any], machine: Mapping[str, Any]) -> str:
    if not machine:
        return "The machine was not described."
    card = f"{machine['card']}, {machine['memory'] / GIB:.0f} GiB" if "card" in machine else "a CPU, no GPU"
    size = ", toy sizes" if found["toy"] else ""
    versions = ", ".join(f"{name} {machine[name]}" for name in ("python", "torch", "transformers", "peft"))
    return f"{card}{size}; {machine['matrix_rate'] / 1e12:.2f} TFLOP/s in bf16; {versions}."


def _tabulate(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)


def _parity(result: Mapping[str, Any]) -> str:
    rows = [
        (name, f"{row['loss']:.4f}", *(f"{one:.1e}" for kind in ("float32", "bfloat16") for one in row[kind]),
         "yes" if row["ok"] else "no")
        for name, row in result.items() if name != "missed"
    ]  # fmt: skip
    head = ("", "loss on the CPU", "fp32: loss", "gradient", "bf16: loss", "gradient", "within bounds")
    return _tabulate(head, rows)


def _waits(result: Mapping[str, Any]) -> str:
    return (
        f"In {result['steps']} steps of LoRA on `mini` the host waited {result['waits']} times; "
        f"{result['launches_per_step']:,.0f} launches a step, the device was busy {result['busy_share']:.0%} "
        "of the time."
    )


def _speed(result: Sequence[Mapping[str, Any]]) -> str:
    head = ("base", "batch", "tokens/s", "s a step", "memory", "of the bf16 rate")
    return _tabulate(head, [(row["base"], row["batch"], *_cells(row)) for row in result])


def _cells(row: Mapping[str, Any]) -> tuple[str, ...]:
    if "failed" in row:
        return (row["failed"], "", "", "")
    share = f"{row['matrix_share']:.1%}" if row.get("matrix_share") is not None else ""
    step = f"{row['seconds_per_step']:.3f}" if "seconds_per_step" in row else ""
    return (f"{row['tokens_per_second']:,.0f}", step, f"{row['reserved'] / GIB:.2f} GiB", share)


def _memory(result: Mapping[str, Any]) -> str:
    return (
        f"With too little memory, {result['steps']} steps were finished in {result['parts']} parts each on "
        f"{result['device']}: {'; '.join(result['notes'])}. {result['left']:,} bytes were left afterwards."
    )


def _resume(result: Mapping[str, Any]) -> str:
    said = ", ".join(f"{name} {loss:.4f}" for name, loss in result["losses"].items())
    return f"Loss after {result['steps']} steps, stopped at {result['stopped_at']}: {said}."


def _init(result: Mapping[str, Any]) -> str:
    rows = [(name, f"{seconds:.1f}") for name, seconds in result["seconds"].items()]
    return _tabulate(("step of `gitpeft init`", "s"), [*rows, ("together", f"{result['total']:.1f}")])


def _study(result: Sequence[Mapping[str, Any]]) -> str:
    head = ("method", "trained", "tokens/s", "s a step", "memory", "of the bf16 rate")
    rows = [
        (row["method"], "" if "failed" in row else f"{row['trainable']:,} ({row['share']:.2%})", *_cells(row))
        for row in result
    ]
    return _tabulate(head, rows)


def _recipe(result: Sequence[Mapping[str, Any]]) -> str:
    head = ("26 M recipe", "tokens/s", "", "memory", "of the bf16 rate", "start-up, s")
    rows = [
        (row["compiled"] or "not compiled", *_cells(row), f"{row.get('startup_seconds', 0.0):.1f}")
        for row in result
    ]
    return _tabulate(head, rows)


def _corpus(result: Sequence[Mapping[str, Any]]) -> str:
    head = ("run of `smol`", "tokens/s", "s a step", "memory", "of the bf16 rate", "pairs/s", "start-up, s",
            "a checkpoint: waited, written, s")  # fmt: skip
    rows = [(row["compiled"] or "not compiled", *_cells(row), *_corpus_cells(row)) for row in result]
    return _tabulate(head, rows)


def _corpus_cells(row: Mapping[str, Any]) -> tuple[str, ...]:
    if "failed" in row:
        return ("", "", "")
    waited = f"{row['checkpoint_waited']:.3f}, {row['checkpoint_written']:.3f}"
    return (f"{row['pairs_per_second']:,.1f}", f"{row['startup_seconds']:.1f}", waited)


_TABLES: dict[str, Callable[[Any], str]] = {
    "parity": _parity, "waits": _waits, "speed": _speed, "memory": _memory, "resume": _resume, "init": _init,
    "study": _study, "recipe": _recipe, "corpus": _corpus,
}  # fmt: skip
