#!/bin/sh
# The adapter of this folder, trained on a GPU machine that has no network and is lent for minutes. No GPU has run it yet.
#
#   at home:  gpu.sh pack CLONES WORK PARTS    the base in two parts, the examples (16-bit ids) and the checkpoint; each
#                                              file has at most 64 MiB, and may travel alone
#   there:    gpu.sh train PARTS PLACE BACK    one stage of at most eight minutes in PLACE; again, it goes on there.
#                                              BACK gets the adapter and the checkpoint in bfloat16, at most 4 x 16 MiB
#   at home:  gpu.sh collect BACK WORK         into WORK/run, from where any machine goes on
#
# BASE: the folder of the base (default: this one). DEVICE: cuda, or cpu to rehearse. PYTHON: the interpreter.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
base=${BASE:-$here} python=${PYTHON:-python3}
state=state.safetensors adapter=adapter_model.safetensors

fail() { echo "gpu.sh: $*" >&2; exit 1; }

# A checkpoint as it travels: narrow RUN FOLDER
narrow() {
    "$python" -c 'import sys; from pathlib import Path
from gitpeft.learn.pretraining.adapter_run import narrow_checkpoint
narrow_checkpoint(Path(sys.argv[1]), Path(sys.argv[2]))' "$1" "$2"
    cp "$1/$adapter" "$1/log.jsonl" "$2/"
}

# No file larger than so many MiB: check_sizes FOLDER MIB
check_sizes() {
    large=$(find "$1" -type f -size +"$(($2 * 1024))"k)
    [ -z "$large" ] || fail "more than $2 MiB: $large"
}

pack() {
    clones=$1 work=$2 parts=$3
    "$python" -m gitpeft base build "$base/recipe.toml" --corpus "$clones" --work "$work" --out "$base" --examples-only
    rm -rf "$parts"; mkdir -p "$parts"
    (cd "$base" && tar cf - config.json model.safetensors tokenizer.json recipe.toml adapter) | split -b 52m - "$parts/base.tar."
    tar cf "$parts/examples.tar" -C "$work" examples
    if [ -f "$work/run/$state" ]; then
        narrow "$work/run" "$work/narrow"
        tar cf "$parts/run.tar" -C "$work/narrow" .
        rm -rf "$work/narrow"
    fi
    (cd "$parts" && sha256sum ./* > SHA256SUMS)
    check_sizes "$parts" 64
}

unpack() {
    parts=$1 place=$2
    (cd "$parts" && sha256sum --quiet -c SHA256SUMS) || fail "a part is missing or damaged: copy the parts again"
    mkdir -p "$place/base" "$place/work/run"
    cat "$parts"/base.tar.* | tar xf - -C "$place/base"
    tar xf "$parts/examples.tar" -C "$place/work"
    if [ -f "$parts/run.tar" ]; then tar xf "$parts/run.tar" -C "$place/work/run"; fi
    touch "$place/unpacked"
}

train() {
    parts=$1 place=$2 back=$3
    [ -f "$place/unpacked" ] || unpack "$parts" "$place"
    # TERM finishes the batch and saves; what is killed goes on from its last checkpoint
    timeout -s TERM -k 60 480 "$python" -m gitpeft base build "$place/base/recipe.toml" --profile gpu \
        --device "${DEVICE:-cuda}" --corpus "$place" --work "$place/work" --out "$place/base" ||
        echo "gpu.sh: the stage ended early; what follows is its last checkpoint" >&2
    [ -f "$place/work/run/$state" ] || fail "there is no checkpoint"
    rm -rf "$back" "$place/narrow"; mkdir -p "$back"
    narrow "$place/work/run" "$place/narrow"
    tar cf - -C "$place/narrow" . | split -b 16m - "$back/back.tar."
    [ "$(find "$back" -type f | wc -l)" -le 4 ] || fail "more than four files would have to come back"
}

collect() {
    back=$1 work=$2
    rm -rf "$work/new"; mkdir -p "$work/new"
    cat "$back"/back.tar.* | tar xf - -C "$work/new"
    [ -f "$work/new/$state" ] || fail "no checkpoint came back"
    rm -rf "$work/run.before"
    if [ -d "$work/run" ]; then mv "$work/run" "$work/run.before"; fi
    mv "$work/new" "$work/run"
}

case ${1:-} in
pack | train) [ $# -eq 4 ] || fail "see the first lines of this script" ;;
collect) [ $# -eq 3 ] || fail "see the first lines of this script" ;;
*) fail "pack, train or collect: see the first lines of this script" ;;
esac
"$@"
