#!/usr/bin/env bash
# The same sweep on a cluster, where its points run side by side: a group of runs, and a table with the best first.
# Needs: a cluster (`distrain doctor` says what it lacks), the image in a registry: `bash examples/sweep-cluster.sh IMAGE`.
# Expect: three runs named rate-1, rate-2 and rate-3; `distrain list --group rate` watches them.
set -euo pipefail
distrain submit examples/sample.yaml --name rate --yes --sweep optimizer.learning_rate=1e-4,4e-4,1e-3 \
    --set image.repository="$1"
for number in 1 2 3; do distrain wait "rate-$number"; done
distrain compare rate
