#!/bin/sh
# Compiles kernels/step.cu for this CPU (g++ 12 or later) and runs it over awkward shapes; no GPU, about a minute.
set -e
here=$(cd "$(dirname "$0")" && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
# Files of this folder take the place of their namesakes: the compiler looks beside the including file first.
cp "$here"/../*.cu "$here"/../*.cuh "$work"
cp "$here"/* "$work"
g++ -std=c++17 -O2 -mf16c -w -I"$work" "$work/step.cpp" -o "$work/step"
"$work/step" 1 256 256 2 1 17 3 12        # Q4_K, a vocabulary of no whole row group
"$work/step" 2 512 512 4 2 130 5 -1 32 1  # mixed types
"$work/step" 1 256 2304 2 1 90 2 -1 3 5   # a last stage of one tile, a shallow ring
"$work/step" 1 256 256 2 1 40 18 14 5 7   # CTAs that own nothing
