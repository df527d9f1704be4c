#!/usr/bin/env bash
# Packs what run.sh needs on a machine without a network: the programs, ONNX Runtime for CUDA, the
# libraries of NVIDIA's that it loads, and MiniLM; in pieces of at most 60 MiB with their hashes.
#
#   cargo build --release --bin retort && cargo bench --no-run
#   benches/gpu/pack.sh [--out DIR] [--only "programs onnxruntime nvidia-small nvidia-cublas minilm"]
#
# `--only` leaves out what the other machine has already: cuBLAS, which is most of it, comes with
# PyTorch where that was built for CUDA 13.
set -euo pipefail
root=$(cd "$(dirname "$0")/../.." && pwd)

piece_bytes=${PIECE_BYTES:-$((60 * 1024 * 1024))}
# Of Debian 12. A program that asks for a newer one does not start there.
glibc_max=2.36
target=${CARGO_TARGET_DIR:-$root/target}
out=$target/gpu-pieces
only="programs onnxruntime nvidia-small nvidia-cublas minilm"
while [ $# -gt 0 ]; do
    case $1 in
        --out) out=$2; shift 2 ;;
        --only) only=$2; shift 2 ;;
        *) echo "error: there is no option \`$1\`; see the head of $0" >&2; exit 2 ;;
    esac
done

fail() { echo "error: $*" >&2; exit 1; }
wants() { [[ " $only " == *" $1 "* ]]; }

retort=${RETORT:-$target/release/retort}
benches=${RETORT_BENCHES:-}
if [ -z "$benches" ]; then
    benches=$(find "$target/release/deps" -maxdepth 1 -name 'benches-*' -type f -perm -u+x \
        -printf '%T@ %p\n' 2> /dev/null | sort -n | tail -n 1 | cut -d' ' -f2-)
fi
[ -x "$retort" ] || fail "no program at $retort; run \`cargo build --release --bin retort\`"
[ -x "$benches" ] || fail "no benches in $target/release/deps; run \`cargo bench --no-run\`"

staging=$(mktemp -d)
trap 'rm -rf "$staging"' EXIT
mkdir -p "$out"
rm -f "$out"/*.tar.gz.[0-9][0-9][0-9] "$out/SHA256SUMS"

# The newest symbol version of glibc that a program asks for.
newest_glibc() { objdump -T "$1" | grep -o 'GLIBC_[0-9][0-9.]*' | cut -d_ -f2 | sort -uV | tail -n 1; }

# Archives a folder as NAME.tar.gz in pieces; the same files give the same bytes.
pieces() {
    local name=$1 folder=$2
    tar --create --sort=name --owner=0 --group=0 --mtime=@0 --directory "$folder" . \
        | gzip -n -6 | split --bytes="$piece_bytes" --numeric-suffixes --suffix-length=3 \
            - "$out/$name.tar.gz."
    echo "$name: $(find "$out" -name "$name.tar.gz.*" | wc -l) pieces"
}

if wants programs; then
    mkdir "$staging/programs"
    cp "$retort" "$staging/programs/retort"
    cp "$benches" "$staging/programs/retort-benches"
    for program in "$staging"/programs/*; do
        newest=$(newest_glibc "$program")
        [ "$(printf '%s\n%s\n' "$newest" "$glibc_max" | sort -V | tail -n 1)" = "$glibc_max" ] \
            || fail "$(basename "$program") asks for glibc $newest, newer than $glibc_max: build it on Debian 12"
        strip --strip-debug "$program" 2> /dev/null || echo "note: no strip here; the program stays large"
    done
    pieces programs "$staging/programs"
fi

# What `retort pull` prints has the place of each thing in its last column.
if [ "$only" != programs ]; then
    pulled=$("$retort" pull sentence-transformers/all-MiniLM-L6-v2 --cuda)
    place() { grep "^ *$1" <<< "$pulled" | awk '{ print $NF }'; }
fi
if wants onnxruntime; then
    library=$(place 'ONNX Runtime')
    mkdir "$staging/onnxruntime"
    cp "$library" "$(dirname "$library")"/libonnxruntime_providers_{shared,cuda}.so \
        "$staging/onnxruntime/"
    pieces onnxruntime "$staging/onnxruntime"
fi
# Copies libraries of CUDA into an archive of their own.
nvidia() {
    local archive=$1 name
    shift
    wants "$archive" || return 0
    mkdir "$staging/$archive"
    for name in "$@"; do cp "$(place 'CUDA')/lib$name" "$staging/$archive/"; done
    pieces "$archive" "$staging/$archive"
}
nvidia nvidia-small cudart.so.13 curand.so.10
nvidia nvidia-cublas cublas.so.13 cublasLt.so.13 nvrtc.so.13 nvrtc-builtins.so.13.0
if wants minilm; then
    mkdir "$staging/minilm"
    cp -rL "$(place 'sentence-transformers')/." "$staging/minilm/"
    pieces minilm "$staging/minilm"
fi

(cd "$out" && sha256sum -- *.tar.gz.[0-9][0-9][0-9] > SHA256SUMS)
largest=$(find "$out" -name '*.tar.gz.*' -printf '%s\n' | sort -n | tail -n 1)
echo "in $out: $(wc -l < "$out/SHA256SUMS") pieces, $(du -sh "$out" | cut -f1), the largest $((largest / 1048576)) MiB"
