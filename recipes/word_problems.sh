#!/usr/bin/env bash
# A real LLaMA learns when to vote: SmolLM2-135M-Instruct on word problems, from download to table. See
# recipes/word_problems.py for the problems, recipes/school.py for the lessons of the base model.
#
#     DEVICE=cpu bash recipes/word_problems.sh     # hours on two cores; the same command continues where it stopped
#     bash recipes/word_problems.sh                # on one GPU
#
# What has been seen on two cores of a CPU. The base before and after its lessons in counting: right samples of 500
# training problems from level 1 to 5, %; what the plurality of eight adds, points; and what ASV-SFT from it writes:
#     no counting: nearly all mistakes are sums   82 74 72 57 53   +4 to 12   a third malformed
#     30 steps, lr 3e-4, no sheets beside         63 42 42 27 19              it forgot how to calculate
#     40 steps, lr 2e-4, a quarter sheets         72 61 58 40 34   +5 to 12   a sixth malformed, mostly long votes
#     40 more, some votes with whole trials       74 63 48 38 18   +6 to 11   54 % votes, 29 % single trials
#     200 steps, lr 3e-4, twice the sheets        89 75 76 69 57   +2 to 6    31 % votes, 5 % malformed
# The last one is the lesson below, from the base without counting; it teaches what marks a trial, too. From it, IBPO
# moves the votes from easy to hard problems. On responses sampled at top-p 0.9, as in the paper, it lost them instead:
# results/smollm2.
#
# The output of each program goes to $OUT_DIR/NAME.txt (default runs/words). On a GPU two run side by side: a model of
# this size leaves most of it idle. PYTHON names the interpreter; SMOLLM2 the .gguf file, if it is here and need not be
# downloaded.
set -euo pipefail
cd "$(dirname "$0")/.."
export OMP_NUM_THREADS=1 PYTHONUNBUFFERED=1 PYTORCH_CUDA_ALLOC_CONF=expandable_segments:True
OUT=${OUT_DIR:-runs/words}
DEVICE=${DEVICE:-cuda}
PYTHON=${PYTHON:-python3}

data=(--train 4000 --validation 500 --test 1000)
school=(--steps 60 --batch 48 --lr 3e-4)  # what to calculate
sums=(--sheets 3 --batch 48)              # how, in two terms
count=(--counting 1.5 --sheets 3 --batch 24)  # and which answers agree
sft=(--sft-distinct 2 --sft-problems 500 --sft-samples 8 --sft-votes 300 --sft-regular 160 --sft-steps 16
     --sft-batch 24 --sft-lr 1e-4)
rl=(--prompts 16 --accumulate 2 --samples 8 --steps 36 --lr 5e-6 --warmup 3 --share-ties --valid-every 0
    --rl-top-p 1)
limits=(--max-new-tokens 1200 --slots 2048 --cache-gib 24)
[ "$DEVICE" = cpu ] && limits=(--max-new-tokens 1200 --slots 128 --cache-gib 4)
micro=$([ "$DEVICE" = cpu ] && echo 1024 || echo 8192)

mkdir -p "$OUT"
say() { echo "$(date +%T) $*"; }
log() { "${@:2}" >"$OUT/$1.txt" 2>&1 || { say "$1 failed:"; tr '\r' '\n' <"$OUT/$1.txt" | tail -5; return 1; }; say "$1 done"; }
train() {
    "$PYTHON" train.py --model "$OUT/base" --data "$OUT/train.jsonl" --out "$OUT" --device "$DEVICE" --dtype bf16 \
        --micro-tokens "$micro" "${limits[@]}" "${sft[@]}" "${rl[@]}" "$@"
}
answer() {  # models...: their answers to the test problems, kept in OUT/eval
    "$PYTHON" eval.py "$@" --data "$OUT/test.jsonl" --problems 1000 --out "$OUT/eval" --device "$DEVICE" --dtype bf16 \
        "${limits[@]}"
}

[ -e runs/smollm2/tokenizer_config.json ] || log download "$PYTHON" recipes/smollm2.py ${SMOLLM2:+--file "$SMOLLM2"}
[ -e "$OUT/test.jsonl" ] || log problems "$PYTHON" recipes/word_problems.py --out "$OUT" "${data[@]}"
learn() { "$PYTHON" recipes/school.py --data "$OUT/train.jsonl" --device "$DEVICE" "$@"; }
log school learn --model runs/smollm2 --out "$OUT/school" "${school[@]}"
log sheets learn --model "$OUT/school/base" --out "$OUT/sheets" "${sums[@]}" --steps 40 --lr 2e-4
log sheets-2 learn --model "$OUT/sheets/base" --out "$OUT/sheets-2" "${sums[@]}" --steps 90 --lr 3e-4
log counting learn --model "$OUT/sheets-2/base" --out "$OUT" "${count[@]}" --steps 200 --lr 3e-4
log asv-sft train --stage asv-sft
ibpo() {  # at a constant rate, from ASV-SFT, whose rate falls
    log "ibpo-$1" train --stage ibpo --budget "vote=0.$1" --start "$OUT/asv-sft" --no-decay
}
if [ "$DEVICE" = cuda ]; then
    ibpo 50 & first=$!
    log sv-sft train --stage sv-sft || { wait "$first"; exit 1; }
    wait "$first"
else
    ibpo 50
    log sv-sft train --stage sv-sft
fi
log table answer "$OUT/base" "$OUT/sv-sft" "$OUT/asv-sft" "$OUT/ibpo-50"
tr '\r' '\n' <"$OUT/table.txt" | grep -vE "response/s|s/response" | tail -60
