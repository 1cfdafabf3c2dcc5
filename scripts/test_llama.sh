#!/bin/sh
# kronq beside stock llama.cpp (make test-llama; never part of make test: hours on two cores). What is done is kept in build/test-llama and not done again.
#     CALIB=c4.txt HELD_OUT=wiki.txt scripts/test_llama.sh [imatrix] [formats] [seeds] [tiny] [exports]      (all, in this order)
# CALIB: at least 3 x 98304 tokens of text; HELD_OUT: 5 windows of 2048 tokens and more. CHECKPOINT: of `kronq quantize MODEL`, for exports (made when absent).
# PYTHON needs gguf, numpy; for exports tokenizers and transformers; for tiny torch. Figures: docs/evidence/gguf-quality.md and gguf-agreement.md.
set -eu
kronq=${KRONQ:-build/release/kronq}
model=${MODEL:-models/SmolLM2-135M-Instruct.Q4_1.gguf}
llama=${LLAMA:-build/llama.cpp}
work=${WORK:-build/test-llama}
python=${PYTHON:-python3}
jobs=${THREADS:-$(nproc)}
: "${CALIB:?a calibration text, as in CALIB=c4.txt HELD_OUT=wiki.txt make test-llama}" "${HELD_OUT:?a held-out text}"
export OMP_WAIT_POLICY=passive PYTHON="$python"
here=$(cd "$(dirname "$0")/.." && pwd)

[ -x "$llama/build/bin/llama-tokenize" ] || "$here/scripts/build_llama.sh" "$llama"
mkdir -p "$work"
formats() { "$python" "$here/bench/llama/formats.py" --kronq "$kronq" --llama "$llama" --model "$model" --calib "$CALIB" --held-out "$HELD_OUT" --work "$work" --threads "$jobs" "$@"; }

imatrix() { # the same text in the same chunks: ours against theirs, and what llama-quantize makes of each
    head -c 100000 "$CALIB" > "$work/short.txt"
    [ -f "$work/dithered-0.gguf" ] || "$python" "$here/scripts/make_dithered.py" "$model" "$work/dithered-0.gguf"
    [ -f "$work/short.theirs.gguf" ] || "$llama/build/bin/llama-imatrix" -m "$work/dithered-0.gguf" -f "$work/short.txt" -c 1024 -b 1024 --no-ppl -t "$jobs" \
        -o "$work/short.theirs.gguf" > "$work/short.log" 2>&1
    chunks=$("$python" -c 'import gguf, sys; print(gguf.GGUFReader(sys.argv[1]).get_field("imatrix.chunk_count").contents())' "$work/short.theirs.gguf")
    [ -f "$work/short.ours.gguf" ] || "$kronq" imatrix "$work/dithered-0.gguf" --text "$work/short.txt" --tokens $((chunks * 1024)) -o "$work/short.ours.gguf" --quiet
    "$python" "$here/bench/llama/compare_imatrix.py" "$work/short.ours.gguf" "$work/short.theirs.gguf"
    for who in ours theirs; do
        "$llama/build/bin/llama-quantize" --imatrix "$work/short.$who.gguf" --pure --token-embedding-type q8_0 "$work/dithered-0.gguf" "$work/short.$who.q4_0.gguf" Q4_0 "$jobs" \
            > "$work/short.$who.log" 2>&1
    done
    "$python" "$here/bench/llama/compare_files.py" "$work/short.ours.q4_0.gguf" "$work/short.theirs.q4_0.gguf"
}
seeds() { formats --cells Q4_0 --seeds 0,1,2 --perplexity; }
tiny() { "$python" "$here/bench/llama/tiny.py" --kronq "$kronq" --llama "$llama" --work "$work/tiny"; }
exports() {
    checkpoint=${CHECKPOINT:-$work/checkpoint}
    [ -f "$checkpoint/config.json" ] || "$kronq" quantize "$model" -o "$checkpoint" --bits 2 --text "$CALIB" --tokens 98304 --quiet --resume
    "$python" "$here/bench/llama/exports.py" "$checkpoint" --held-out "$HELD_OUT" --kronq "$kronq" --llama "$llama" --work "$work" --threads "$jobs"
}
[ $# -gt 0 ] || set -- imatrix formats seeds tiny exports
for stage in "$@"; do
    case $stage in
        imatrix | seeds | tiny | exports) "$stage" ;;
        formats) formats --perplexity ;;
        *) echo "$0: no stage $stage" >&2; exit 2 ;;
    esac
done
