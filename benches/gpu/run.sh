#!/usr/bin/env bash
# Proves the CUDA path on a bare machine with an NVIDIA GPU, in less than nine minutes and without a
# network: kernels and stored vectors, speed beside the card's ceilings and transformers, memory.
#
#   benches/gpu/run.sh [--pieces DIR] [--out DIR] [--stages "kernels golden-fp16 …"] [--minutes N]
#   benches/gpu/run.sh --dry-run      the same on the CPU with tiny models, to try the script itself
#
# Needs what pack.sh made, or a built program; Python with PyTorch and transformers for some stages.
# Every stage is cut off at its limit, and one that cannot run says so and steps aside. Results:
# OUT/results.json, OUT/table.md, and what each stage said in OUT/STAGE.log.
set -uo pipefail
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)

all_stages="kernels golden-fp16 golden-fp32 models ceilings passes passes-reranker transformers http memory memcheck racecheck onnx"
target=${CARGO_TARGET_DIR:-$root/target}
pieces=$target/gpu-pieces
out=$target/gpu-results
stages=$all_stages
minutes=8.5
device=cuda
size=full
while [ $# -gt 0 ]; do
    case $1 in
        --pieces) pieces=$2; shift 2 ;;
        --out) out=$2; shift 2 ;;
        --stages) stages=$2; shift 2 ;;
        --minutes) minutes=$2; shift 2 ;;
        --dry-run) device=cpu; size=tiny; shift ;;
        *) echo "error: there is no option \`$1\`; see the head of $0" >&2; exit 2 ;;
    esac
done
deadline=$(awk -v minutes="$minutes" -v now="$SECONDS" 'BEGIN { printf "%d", now + minutes * 60 }')
python=${PYTHON:-python3}
mkdir -p "$out"
rm -f "$out"/*.json "$out"/*.log
work=$(mktemp -d)
server=
stop() {
    # Only what was started here.
    if [ -n "$server" ]; then kill "$server" 2> /dev/null; wait "$server" 2> /dev/null; fi
    server=
}
trap 'stop; rm -rf "$work"' EXIT

say() { printf '%4d s  %s\n' "$SECONDS" "$*"; }
text_as_json() { "$python" -c 'import json, sys; print(json.dumps(sys.argv[1]))' "$1"; }
wanted() { [[ " $stages " == *" $1 "* ]]; }

# The stage has nothing to show, and this is why.
skip() {
    local name=$1 reason=$2
    say "SKIPPED $name: $reason"
    echo "{\"skipped\": $(text_as_json "$reason")}" > "$out/$name.json"
}

# Runs a command for at most so many seconds of those that are left.
stage() {
    local name=$1 limit=$2 left started code last
    shift 2
    wanted "$name" || return 0
    left=$((deadline - SECONDS))
    if [ "$left" -lt 5 ]; then skip "$name" "no time is left"; return 0; fi
    [ "$limit" -le "$left" ] || limit=$left
    say "$name, for at most $limit s"
    started=$SECONDS
    timeout --kill-after=5 "$limit" "$@" > "$out/$name.json" 2> "$out/$name.log"
    code=$?
    last=$(grep -v '^$' "$out/$name.log" | tail -n 1)
    case $code in
        0) say "$name: done in $((SECONDS - started)) s" ;;
        124 | 137) skip "$name" "cut off after $limit s" ;;
        *)
            say "FAILED $name ($code): $last"
            echo "{\"rows\": [{\"name\": \"$name\", \"good\": false, \"told\": $(text_as_json "it ended with $code: $last")}]}" \
                > "$out/$name.json"
            ;;
    esac
}

# Joins the pieces, when there are some, after every one of them was checked.
unpack() {
    [ -f "$pieces/SHA256SUMS" ] || return 0
    say "joining the pieces in $pieces"
    if ! (cd "$pieces" && sha256sum --check --quiet SHA256SUMS); then
        echo "error: a piece is missing or damaged; send those that are named above once more" >&2
        exit 1
    fi
    local archive name
    for archive in "$pieces"/*.tar.gz.000; do
        name=$(basename "$archive" .tar.gz.000)
        mkdir -p "$work/bundle/$name"
        cat "$pieces/$name".tar.gz.[0-9][0-9][0-9] | tar -xz -C "$work/bundle/$name" || exit 1
    done
}
unpack

retort=${RETORT:-$work/bundle/programs/retort}
[ -x "$retort" ] || retort=$target/release/retort
benches=${RETORT_BENCHES:-$work/bundle/programs/retort-benches}
if [ ! -x "$benches" ]; then
    benches=$(find "$target/release/deps" -maxdepth 1 -name 'benches-*' -type f -perm -u+x \
        -printf '%T@ %p\n' 2> /dev/null | sort -n | tail -n 1 | cut -d' ' -f2-)
fi
[ -x "$retort" ] && [ -x "$benches" ] || { echo "error: neither pieces nor built programs are here; see the head of $here/pack.sh" >&2; exit 1; }

export RETORT_OFFLINE=1
if [ "$device" = cuda ] && [ -d "$work/bundle/onnxruntime" ]; then
    export RETORT_RUNTIME_LIBRARY=$work/bundle/onnxruntime
    # What pack.sh left out may have come with PyTorch.
    of_python=$("$python" -c 'import site; print(":".join(f"{p}/nvidia/cu13/lib" for p in site.getsitepackages()))' 2> /dev/null)
    export LD_LIBRARY_PATH=$work/bundle/nvidia-small:$work/bundle/nvidia-cublas:${of_python:-}:${LD_LIBRARY_PATH:-}
fi

gpu=
if [ "$device" = cuda ]; then
    gpu=$(nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader 2> /dev/null | head -n 1)
    if [ -z "$gpu" ]; then
        for name in $stages; do skip "$name" "no NVIDIA GPU answers here (\`nvidia-smi\`)"; done
        # shellcheck disable=SC2086
        "$python" "$here/report.py" "$out" $stages
        exit
    fi
    say "$gpu"
    "$retort" doctor --device cuda > "$out/doctor.txt" 2>&1 || true
fi
torch=$("$python" -c 'import torch, transformers, safetensors; print(torch.__version__)' 2> /dev/null)
models=$work/models
longest=8192
[ "$size" = full ] || longest=512
part=("$benches" --gpu)

golden() {
    local dtype=$1 minilm=()
    if [ -d "$work/bundle/minilm" ]; then
        minilm=(--minilm "$work/bundle/minilm" --minilm-golden "$root/tests/golden/minilm")
    else
        say "MiniLM is not among the pieces: golden-$dtype goes without it"
    fi
    stage "golden-$dtype" 60 "${part[@]}" golden --device "$device" --dtype "$dtype" \
        --checkpoints "$root/tests/golden/checkpoints" "${minilm[@]}"
}

sanitizer() {
    local tool=$1 program
    wanted "$tool" || return 0
    program=$(command -v compute-sanitizer || ls /usr/local/cuda/bin/compute-sanitizer 2> /dev/null)
    if [ -z "$program" ]; then skip "$tool" "no compute-sanitizer is here; it comes with CUDA's toolkit"; return 0; fi
    stage "$tool" 60 "$program" --tool "$tool" --error-exitcode 9 --print-limit 3 --log-file "$out/$tool.txt" \
        "${part[@]}" kernels --rounds 1
}

# Every stage below that needs the models says so itself.
needs_models() {
    local name
    for name in "$@"; do
        wanted "$name" && skip "$name" "there are no models: stage \`models\` did not make them"
    done
    return 0
}

start_server() {
    local port
    port=$("$python" -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
    url=http://127.0.0.1:$port
    "$retort" serve --device "$device" --port "$port" --verify off --model "m3=$models/m3" \
        --model "rr=$models/rr" > "$out/server.log" 2>&1 &
    server=$!
    "$retort" ps --ready --wait=60 --url "$url" > /dev/null 2> "$out/ready.log"
}

if [ "$device" = cuda ]; then
    stage kernels 45 "${part[@]}" kernels --rounds 20
else
    wanted kernels && skip kernels "a dry run has no GPU"
fi
golden fp16
golden fp32
if [ -n "$torch" ]; then
    stage models 60 "$python" "$here/models.py" --out "$models" --size "$size" --device "$device"
    stage ceilings 25 "$python" "$here/transformers_speed.py" --models "$models" --part ceilings --device "$device"
else
    for name in models ceilings; do wanted "$name" && skip "$name" "$python has no torch, transformers and safetensors"; done
fi
if [ -f "$models/mix.json" ]; then
    passes=(passes --device "$device" --mix "$models/mix.json" --longest "$longest")
    stage passes 60 "${part[@]}" "${passes[@]}" --model "$models/m3"
    stage passes-reranker 25 "${part[@]}" "${passes[@]}" --model "$models/rr"
    stage transformers 60 "$python" "$here/transformers_speed.py" --models "$models" --part transformers --device "$device"
    if wanted http || wanted memory; then
        if start_server; then
            tokens=1500000
            [ "$size" = full ] || tokens=20000
            stage http 75 "${part[@]}" traffic --address "${url#http://}" --mix "$models/mix.json" \
                --tokens "$tokens" --longest "$longest" --reranker rr
            seconds=$((deadline - SECONDS - 15))
            [ "$seconds" -le 120 ] || seconds=120
            [ "$size" = full ] || seconds=8
            watched=()
            [ "$device" = cuda ] || watched=(--pid "$server")
            stage memory $((seconds + 10)) "${part[@]}" memory --address "${url#http://}" --seconds "$seconds" \
                --longest "$longest" "${watched[@]}"
        else
            for name in http memory; do
                wanted "$name" && skip "$name" "the service did not become ready: $(tail -n 1 "$out/server.log")"
            done
        fi
        stop
    fi
else
    needs_models passes passes-reranker transformers http memory onnx
fi
if [ "$device" = cuda ]; then
    sanitizer memcheck
    sanitizer racecheck
else
    for name in memcheck racecheck; do wanted "$name" && skip "$name" "a dry run has no GPU"; done
fi
if [ -f "$models/mix.json" ] && wanted onnx; then
    if timeout 90 "$python" "$here/models.py" --out "$models" --onnx --device "$device" > "$out/export.log" 2>&1; then
        stage onnx 40 "${part[@]}" "${passes[@]}" --model "$models/m3-onnx" --label onnx --what mix
    else
        skip onnx "PyTorch could not export the model: $(tail -n 1 "$out/export.log")"
    fi
fi

say "all stages are through"
# shellcheck disable=SC2086
"$python" "$here/report.py" "$out" $stages
