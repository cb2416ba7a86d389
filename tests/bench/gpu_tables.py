"""Markdown tables from what gpu.py measured."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

GIB = 2**30

Rows = Sequence[Mapping[str, Any]]


def make_tables(found: Mapping[str, Any]) -> str:
    """A table for each step that has rows, after lines on the machine and on each step that is not done."""
    steps = found["steps"]
    results = {name: row["result"] for name, row in steps.items() if row.get("result")}
    parts = [_describe_machine(found, results.get("machine", []))]
    parts += [
        f"`{name}` {row['state']}: {row['why']}." for name, row in steps.items() if row["state"] != "done"
    ]
    parts += [make(results[name]) for name, make in _TABLES.items() if name in results]
    return "\n\n".join(parts)


def _describe_machine(found: Mapping[str, Any], rows: Rows) -> str:
    machine: dict[str, Any] = {key: value for row in rows for key, value in row.items()}
    if "matrix_rate" not in machine:
        return "The machine was not described."
    card = f"{machine['card']}, {machine['memory'] / GIB:.0f} GiB" if "card" in machine else "a CPU, no GPU"
    size = ", toy sizes" if found["toy"] else ""
    versions = ", ".join(f"{name} {machine[name]}" for name in ("python", "torch", "transformers", "peft"))
    missing = f"; not installed: {', '.join(machine['missing'])}" if machine["missing"] else ""
    return f"{card}{size}; {machine['matrix_rate'] / 1e12:.2f} TFLOP/s in bf16; {versions}{missing}."


def _tabulate(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)


def _parity(result: Rows) -> str:
    parts = [(kind, part) for kind in ("float32", "bfloat16", "usual") for part in ("loss", "norm", "vector")]
    rows = [
        (row["name"], row["failed"], *[""] * len(parts), "") if "failed" in row else
        (row["name"], f"{row['loss']:.4f}", *(f"{row[kind][part]:.1e}" for kind, part in parts),
         f"no: {row['missed']}" if "missed" in row else "yes")
        for row in result
    ]  # fmt: skip
    kinds = {"float32": "fp32", "bfloat16": "bf16", "usual": "bf16 on the CPU"}
    names = {"loss": "loss", "norm": "norm of the gradient", "vector": "gradient"}
    head = ["", "loss on the CPU", *(f"{kinds[kind]}: {names[part]}" for kind, part in parts)]
    return _tabulate([*head, "within bounds"], rows)


def _waits(result: Rows) -> str:
    [row] = result
    return (
        f"In {row['steps']} steps of LoRA on `mini` the host waited {row['waits']} times, and {row['reads']} "
        f"times for losses; {row['launches_per_step']:,.0f} launches a step, the device was busy "
        f"{row['busy_share']:.0%} of the time. Attention: {_list_names(row['attention'])}."
    )


def _list_names(names: Sequence[str]) -> str:
    return ", ".join(f"`{name}`" for name in names) or "no kernel of that name"


def _shapes(result: Rows) -> str:
    head = (
        "batches of `mini`",
        "shapes",
        "first time, s",
        "again, s",
        "of that once a shape, ms",
        "attention",
    )
    return _tabulate(head, [(row["name"], *_shape_cells(row)) for row in result])


def _shape_cells(row: Mapping[str, Any]) -> tuple[str, ...]:
    if "failed" in row:
        return (row["failed"], "", "", "", "")
    first, again = row["first_seconds"], row["again_seconds"]
    once = 1e3 * (first - again) / row["shapes"]
    return (row["shapes"], f"{first:.2f}", f"{again:.2f}", f"{once:.1f}", _list_names(row["attention"]))


def _speed(result: Rows) -> str:
    head = ("base", "batch", "tokens/s", "s a step", "memory", "of the bf16 rate")
    return _tabulate(head, [(row["base"], row["batch"], *_cells(row)) for row in result])


def _cells(row: Mapping[str, Any]) -> tuple[str, ...]:
    if "failed" in row:
        return (row["failed"], "", "", "")
    share = f"{row['matrix_share']:.1%}" if row.get("matrix_share") is not None else ""
    step = f"{row['seconds_per_step']:.3f}" if "seconds_per_step" in row else ""
    return (f"{row['tokens_per_second']:,.0f}", step, f"{row['reserved'] / GIB:.2f} GiB", share)


def _memory(result: Rows) -> str:
    [row] = result
    return (
        f"With too little memory, {row['steps']} steps were finished in {row['parts']} parts each on "
        f"{row['device']}: {'; '.join(row['notes'])}. {row['left']:,} bytes were left afterwards."
    )


def _large(result: Rows) -> str:
    head = ("0.5 billion weights in 24 GB", "trained", "parts", "tokens/s", "s a step", "memory",
            "of the bf16 rate")  # fmt: skip
    rows = [(row["method"], _trained(row), row.get("parts", ""), *_cells(row)) for row in result]
    return _tabulate(head, rows)


def _trained(row: Mapping[str, Any]) -> str:
    return "" if "failed" in row else f"{row['trainable']:,} ({row['share']:.2%})"


def _resume(result: Rows) -> str:
    said = ", ".join(f"{row['name']} {row['loss']:.4f} on {row['device']}" for row in result)
    stopped = next((f", stopped at {row['stopped_at']}" for row in result if "stopped_at" in row), "")
    return f"Loss after {result[0]['steps']} steps{stopped}: {said}."


def _init(result: Rows) -> str:
    rows = [(row["name"], f"{row['seconds']:.1f}") for row in result]
    return _tabulate(("step of `gitpeft init`", "s"), rows)


def _study(result: Rows) -> str:
    head = ("method", "trained", "tokens/s", "s a step", "memory", "of the bf16 rate")
    return _tabulate(head, [(row["name"], _trained(row), *_cells(row)) for row in result])


def _recipe(result: Rows) -> str:
    head = ("26 M recipe", "tokens/s", "", "memory", "of the bf16 rate", "start-up, s")
    rows = [(_name_run(row), *_cells(row), f"{row.get('startup_seconds', 0.0):.1f}") for row in result]
    return _tabulate(head, rows)


def _name_run(row: Mapping[str, Any]) -> str:
    return ": ".join((row["name"], *row.get("notes", ())))


def _corpus(result: Rows) -> str:
    head = ("run of `smol`", "tokens/s", "s a step", "memory", "of the bf16 rate", "pairs/s", "start-up, s",
            "a checkpoint: waited, written, s")  # fmt: skip
    return _tabulate(head, [(_name_run(row), *_cells(row), *_corpus_cells(row)) for row in result])


def _corpus_cells(row: Mapping[str, Any]) -> tuple[str, ...]:
    if "failed" in row:
        return ("", "", "")
    waited = f"{row['checkpoint_waited']:.3f}, {row['checkpoint_written']:.3f}"
    return (f"{row['pairs_per_second']:,.1f}", f"{row['startup_seconds']:.1f}", waited)


_TABLES: dict[str, Callable[[Rows], str]] = {
    "parity": _parity, "waits": _waits, "shapes": _shapes, "speed": _speed, "memory": _memory,
    "large": _large, "resume": _resume, "init": _init, "study": _study, "recipe": _recipe, "corpus": _corpus,
}  # fmt: skip
