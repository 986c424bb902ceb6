#!/bin/sh
# The engines' tests on 64-bit Arm, the phones' instruction set: z, folds, kernels, both engines.
#
#   tests/on_arm.sh PYTHON [ARG ...]     a Python on Arm with numpy, numba, tqdm and pytest: the one
#                                        of an Arm machine, or a command that runs one by emulation
#
# Twice: with NEON alone, and with the bfdot instruction too (QEMU_CPU tells QEMU to have it).
# NumPy warns there of floating-point flags that its casts and products raise on Arm; not errors.
set -eu
cd "$(dirname "$0")/.."
export PYTHONPATH=".:tests" QEMU_CPU=max NUMBA_CACHE_DIR="${TMPDIR:-/tmp}/tinyzo-on-arm"
for features in +neon,+fp-armv8 +neon,+fp-armv8,+bf16; do
    echo "== $features"
    NUMBA_CPU_NAME=generic NUMBA_CPU_FEATURES="$features" \
        "$@" -m pytest -q -p no:cacheprovider -W ignore::RuntimeWarning tests/engine
done
