#!/usr/bin/env bash
# A sweep on one machine: a run for each learning rate, one after the other, then a table with the best first.
# Needs: two CPU cores, 3 GB of memory, `distrain` on PATH; from the project's folder, `bash examples/sweep.sh [FOLDER]`.
# Expect: three runs of three epochs, about three minutes each. Started again, it goes on with the run that is missing.
set -euo pipefail
folder=${1:-out/sweep}
for rate in 1e-4 4e-4 1e-3; do
    distrain train examples/sample.yaml --processes 2 --optimizer.learning_rate "$rate" \
        --output_dir "$folder/rate-$rate" --resume
done
distrain compare "$folder"/rate-* --page "$folder/compared.html"
