#!/bin/sh
# Builds the op library with AddressSanitizer and UndefinedBehaviorSanitizer and runs its tests against it.
# ONNX Runtime's memory arena is switched off, so that an access beyond the scratch memory of a call shows.
#
#   custom_ops/tools/sanitize.sh [build folder] [pytest arguments...]
set -eu
root=$(cd "$(dirname "$0")/../.." && pwd)
build=${1:-"$root/build/sanitize"}
[ $# -gt 0 ] && shift
cmake -S "$root/custom_ops" -B "$build" -DAXFORM_CUDA=OFF -DAXFORM_SANITIZE=address,undefined -DCMAKE_BUILD_TYPE=RelWithDebInfo
cmake --build "$build"
compiler=${CXX:-g++}
cd "$root"
# Leaks are not looked for: Python itself leaves memory behind. Growth and symbols are the normal build's tests.
LD_PRELOAD="$($compiler -print-file-name=libasan.so) $($compiler -print-file-name=libubsan.so)" \
ASAN_OPTIONS=detect_leaks=0:abort_on_error=1 \
UBSAN_OPTIONS=print_stacktrace=1:halt_on_error=1 \
AXFORM_OPS_LIBRARY="$build/libaxform_ops.so" \
AXFORM_OPS_NO_ARENA=1 \
"${PYTHON:-python}" -m pytest -p no:cacheprovider tests/custom_ops -k "not exported_symbols and not grow" "$@"
