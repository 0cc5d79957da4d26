#!/usr/bin/env bash
# A real LLaMA learns when to vote: SmolLM2-135M-Instruct on word problems, from download to table. See
# recipes/word_problems.py for the problems.
#
#     bash recipes/word_problems.sh                # on one GPU
#     DEVICE=cpu bash recipes/word_problems.sh     # many hours; the same command continues where it stopped
#
# No results yet. In a first attempt on an H200, school took 400 steps and IBPO a learning rate of 3e-5. After so much
# school the model was right in 62 % at level 5, the plurality of eight in 68 %, so a vote had little to add, and within
# three steps at that rate hardly any response was a vote. It was stopped after nine minutes, half-way through IBPO. The
# values below are those to try next.
#
# Several programs run side by side on one GPU: a model of this size leaves most of it idle. Each prints into
# runs/words/NAME.txt. PYTHON names the interpreter; SMOLLM2 the .gguf file, if it is here and need not be downloaded.
set -euo pipefail
cd "$(dirname "$0")/.."
export OMP_NUM_THREADS=1 PYTHONUNBUFFERED=1 PYTORCH_CUDA_ALLOC_CONF=expandable_segments:True
OUT=${OUT_DIR:-runs/words}
DEVICE=${DEVICE:-cuda}
PYTHON=${PYTHON:-python3}

data=(--train 10000 --validation 500 --test 2000)
school=(--steps 120 --batch 64 --lr 1e-4)
sft=(--sft-distinct 1 --sft-problems 1500 --sft-samples 12 --sft-votes 1200 --sft-regular 1200 --sft-steps 160 --sft-lr 5e-5)
rl=(--prompts 16 --accumulate 4 --samples 16 --steps 22 --lr 5e-6 --rl-top-p 0.9 --warmup 4 --valid-every 0)
limits=(--max-new-tokens 1000 --slots 2048)
if [ "$DEVICE" = cpu ]; then limits=(--max-new-tokens 1000 --slots 128); fi  # 4 GB of keys and values

mkdir -p "$OUT"
say() { echo "$(date +%T) $*"; }
log() { "${@:2}" >"$OUT/$1.txt" 2>&1 || { say "$1 failed:"; tr '\r' '\n' <"$OUT/$1.txt" | tail -5; return 1; }; say "$1 done"; }
train() {
    "$PYTHON" train.py --model "$OUT/base" --data "$OUT/train.jsonl" --out "$OUT" --device "$DEVICE" --dtype bf16 \
        --micro-tokens 8192 --cache-gib 12 "${limits[@]}" "${sft[@]}" "${rl[@]}" "$@"
}
answer() {  # models...: their answers to the test problems, kept in OUT/eval
    "$PYTHON" eval.py "$@" --data "$OUT/test.jsonl" --problems 2000 --out "$OUT/eval" --device "$DEVICE" \
        --dtype bf16 --cache-gib 24 "${limits[@]}"
}

[ -e runs/smollm2/model.safetensors ] || log download "$PYTHON" recipes/smollm2.py ${SMOLLM2:+--file "$SMOLLM2"}
[ -e "$OUT/test.jsonl" ] || log problems "$PYTHON" recipes/word_problems.py --out "$OUT" "${data[@]}"
log school "$PYTHON" recipes/word_problems.py --out "$OUT" --sft runs/smollm2 --device "$DEVICE" "${school[@]}"
log asv-sft train --stage asv-sft
ibpo() { log "ibpo-$1" train --stage ibpo --budget "vote=0.$1"; }
references() { log sv-sft train --stage sv-sft && log answers answer "$OUT/base" "$OUT/sv-sft" "$OUT/asv-sft"; }
table() { log table answer "$OUT/base" "$OUT/sv-sft" "$OUT/asv-sft" "$@"; }
together() { for job in "$@"; do wait "$job"; done; }
if [ "$DEVICE" = cuda ]; then  # what matters most comes first
    ibpo 50 & a=$!
    references & b=$!
    together $a $b
    table "$OUT/ibpo-50"
    ibpo 25 & a=$!
    ibpo 75 & b=$!
    together $a $b
else
    ibpo 50; references; ibpo 25; ibpo 75
fi
table "$OUT/ibpo-25" "$OUT/ibpo-50" "$OUT/ibpo-75"
tr '\r' '\n' <"$OUT/table.txt" | grep -v "response/s" | tail -60
