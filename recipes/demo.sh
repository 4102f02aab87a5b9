#!/usr/bin/env bash
# The whole way once, on a laptop: simulate cubes, look at one, pretrain, export, score, report.
# usage: recipes/demo.sh [folder]     (skyframe must be on PATH; `make demo` sees to that)
set -euo pipefail
out=${1:-demo}
say() { printf '\n== %s\n' "$*"; "$@"; }
begun=$SECONDS
rm -rf "$out"; mkdir -p "$out/cubes"

# Two climates to learn from; places and a year that pretraining never sees to be scored on.
say skyframe simulate "$out/cubes/train_oceanic" --extent 2.56x2.56 --climate oceanic --year 2021 --hr-share 0.5
say skyframe simulate "$out/cubes/train_continental" --extent 2.56x2.56 --climate continental --year 2021 --hr-share 0.5 --origin 0,80000
say skyframe simulate "$out/cubes/test_oceanic" --extent 1.92x1.92 --climate oceanic --year 2022 --hr-share 0.5 --origin 20000,0
say skyframe simulate "$out/cubes/test_continental" --extent 1.92x1.92 --climate continental --year 2022 --hr-share 0.5 --origin 20000,80000
say skyframe inspect "$out/cubes/train_oceanic"
say skyframe pretrain recipes/skysense_demo.yaml "data.cubes=[$out/cubes/train_*]" "train.run_dir=$out/runs"
say skyframe export "$out/runs/skysense_demo" "$out/encoders"
say skyframe evaluate quick "$out/encoders/model" "data.simulated.train=[$out/cubes/train_*]" "data.simulated.test=[$out/cubes/test_*]" --out "$out/evaluation"
say skyframe report "$out/runs/skysense_demo" --encoder "$out/encoders/model" --scene "$out/cubes/test_oceanic" --results "$out/evaluation/results.csv" --out "$out/report.html"
printf '\nThe report is %s (%s s for everything after the installation).\n' "$out/report.html" "$((SECONDS - begun))"
