#!/usr/bin/env bash
# Fuzzes: fuzz/run.sh [SECONDS for each target, 600] [TARGET...]
#
# With the stable toolchain: libFuzzer is compiled by its crate, the instrumentation is a pass of LLVM that stable rustc
# takes by name. There is no address sanitizer (that flag is not stable); the code under test has no `unsafe`. What libFuzzer
# finds new is kept beside the corpus only if CORPUS=keep; without, the corpus is read and left alone.
set -euo pipefail
cd "$(dirname "$0")"
seconds=${1:-600}
[ $# -gt 0 ] && shift
targets=("$@")
[ ${#targets[@]} -gt 0 ] || targets=(answer parse frames cni records probe)

host=$(rustc -vV | sed -n 's/^host: //p')
passes=(-Cpasses=sancov-module)
for option in level=4 inline-8bit-counters pc-table trace-compares; do
    passes+=("-Cllvm-args=-sanitizer-coverage-$option")
done
# A target is named so that the flags do not reach build scripts.
RUSTFLAGS="--cfg fuzzing ${passes[*]}" cargo build --release --locked --target "$host"
built=${CARGO_TARGET_DIR:-target}/$host/release

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
for target in "${targets[@]}"; do
    echo "=== fuzz $target for $seconds s"
    new=$work/$target
    [ "${CORPUS:-}" = keep ] && new=corpus/$target
    mkdir -p "$new" artifacts
    "$built/$target" -max_total_time="$seconds" -max_len=4200 -timeout=5 -rss_limit_mb=1024 -print_final_stats=1 \
        -artifact_prefix="artifacts/$target-" "$new" "corpus/$target" 2>"$work/$target.log" || {
        tail -n 40 "$work/$target.log"
        echo "fuzz $target FAILED: the input is in fuzz/artifacts"
        exit 1
    }
    grep -E '^(stat::number_of_executed_units|stat::new_units_added)|INITED|DONE' "$work/$target.log"
done
