#!/bin/sh
# The adapter of this folder, trained on a GPU machine that has no network and is lent for minutes. No GPU has run it yet.
#
#   at home:  gpu.sh pack CLONES WORK PARTS    code, base and examples (16-bit ids) in parts, the checkpoint if there is one, and
#                                              this script; each file has at most 64 MiB, and may travel alone
#   there:    sh PARTS/gpu.sh train PARTS PLACE BACK
#                                              one stage of at most eight minutes in PLACE, all told; again, it goes on there.
#                                              BACK gets the adapter and the checkpoint in bfloat16, at most 4 x 16 MiB
#   at home:  gpu.sh collect BACK WORK         into WORK/run, from where any machine goes on; `gitpeft base
#                                              build … --finish` makes the adapter and its reranker of it
#
# Killed at any moment, each goes on when it is started again.
# There it needs torch with CUDA, transformers, peft, typer and rich; neither git nor this checkout. Where a checkout
# travels along, it has 8 MB without weights: git sparse-checkout set --no-cone '/*' '!*.safetensors' '!*.onnx'
# BASE: the folder of the base (default: this one). DEVICE: cuda, or cpu to rehearse. PYTHON: the interpreter.
# SECONDS_LEFT: of a stage, unpacking and packing up included (default: 480).
set -eu
here=$(cd "$(dirname "$0")" && pwd)
base=${BASE:-$here} python=${PYTHON:-python3}
part=47m # leaves room for a checkout without weights in a call of 64 MiB
saving=30 narrowing=30 # seconds at the end of a stage
state=state.safetensors adapter=adapter_model.safetensors sums=SHA256SUMS

fail() { echo "gpu.sh: $*" >&2; exit 1; }

# A checkpoint as it travels, with its checksums: narrow RUN FOLDER
narrow() {
    rm -rf "$2"
    "$python" -c 'import sys; from pathlib import Path
from gitpeft.learn.pretraining.adapter_checkpoint import narrow_checkpoint
narrow_checkpoint(Path(sys.argv[1]), Path(sys.argv[2]))' "$1" "$2"
    for name in "$adapter" log.jsonl; do
        if [ -f "$1/$name" ]; then cp "$1/$name" "$2/"; fi
    done
    sum_files "$2"
}

# The checksums of all files of a folder, among them: sum_files FOLDER
sum_files() {
    found=$(cd "$1" && sha256sum ./*)
    echo "$found" > "$1/$sums"
}

# No file larger than so many MiB, and no more than so many files: check_sizes FOLDER MIB FILES WHAT
check_sizes() {
    large=$(find "$1" -type f -size +"$(($2 * 1048576))"c -exec basename {} \;)
    [ -z "$large" ] || fail "$4: larger than $2 MiB:" $large
    count=$(find "$1" -type f | wc -l)
    [ "$count" -le "$3" ] || fail "$4: $count files, at most $3 of $2 MiB can travel"
}

pack() {
    clones=$1 work=$2 parts=$3
    "$python" -m gitpeft base build "$base/recipe.toml" --corpus "$clones" --work "$work" --out "$base" --examples-only
    rm -rf "$parts"; mkdir -p "$parts"
    code=$("$python" -c 'import gitpeft, pathlib; print(pathlib.Path(gitpeft.__file__).parents[1])')
    tar cf "$parts/code.tar" --exclude=__pycache__ --exclude=_models -C "$code" gitpeft
    cp "$here/gpu.sh" "$parts/"
    (cd "$base" && tar cf - config.json model.safetensors tokenizer.json recipe.toml) | split -b "$part" - "$parts/base.tar."
    tar cf - -C "$work" examples | split -b "$part" - "$parts/examples.tar."
    if [ -f "$work/run/$state" ]; then
        narrow "$work/run" "$work/narrow"
        tar cf "$parts/run.tar" -C "$work/narrow" .
        rm -rf "$work/narrow"
    fi
    check_sizes "$parts" "${LARGEST:-64}" 9 "what was packed"
    sum_files "$parts" # last: with it, all is there
}

unpack() {
    parts=$1 place=$2
    [ -f "$parts/$sums" ] || fail "$parts has no $sums: give gpu.sh pack again, and copy all that it makes"
    (cd "$parts" && sha256sum --quiet -c "$sums") || fail "a part is missing or damaged: copy the parts again"
    rm -rf "$place/base" "$place/code" "$place/work"; mkdir -p "$place/base" "$place/code" "$place/work/run"
    tar xf "$parts/code.tar" -C "$place/code"
    cat "$parts"/base.tar.* | tar xf - -C "$place/base"
    cat "$parts"/examples.tar.* | tar xf - -C "$place/work"
    if [ -f "$parts/run.tar" ]; then tar xf "$parts/run.tar" -C "$place/work/run"; fi
    touch "$place/unpacked"
}

train() {
    parts=$1 place=$2 back=$3
    ends=$(($(date +%s) + ${SECONDS_LEFT:-480}))
    [ -f "$place/unpacked" ] || unpack "$parts" "$place"
    export PYTHONPATH="$(cd "$place/code" && pwd)${PYTHONPATH:+:$PYTHONPATH}"
    left=$((ends - $(date +%s) - saving - narrowing))
    [ "$left" -gt 0 ] || fail "unpacked, but no time is left to train: give the command again, or more SECONDS_LEFT"
    # TERM finishes the batch and saves; what is killed goes on from its last checkpoint
    timeout -s TERM -k "$saving" "$left" "$python" -P -m gitpeft base build "$place/base/recipe.toml" --profile gpu \
        --device "${DEVICE:-cuda}" --corpus "$place" --work "$place/work" --out "$place/base" ||
        echo "gpu.sh: the stage ended early; what follows is its last checkpoint" >&2
    [ -f "$place/work/run/$state" ] || fail "there is no checkpoint, so nothing was trained: see what was said above"
    narrow "$place/work/run" "$place/narrow"
    mkdir -p "$back"; rm -f "$back"/back.tar.*
    tar cf - -C "$place/narrow" . | split -b 16m - "$back/back.tar."
    check_sizes "$back" 16 4 "what has to come back"
}

collect() {
    back=$1 work=$2
    rm -rf "$work/new"; mkdir -p "$work/new"
    cat "$back"/back.tar.* | tar xf - -C "$work/new" || fail "what came back is damaged: copy it again"
    (cd "$work/new" && sha256sum --quiet -c "$sums") || fail "what came back is damaged or incomplete: copy it again"
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
