#!/usr/bin/env bash
# A run that is killed in the middle and resumed ends with the same weights as one that was left alone.
# Needs: two CPU cores, 3 GB of memory, `distrain` on PATH; from the project's folder, `bash examples/resume.sh [FOLDER]`.
# Expect: its last line says that the weights are the same, byte for byte, after a minute or two.
set -euo pipefail
folder=${1:-out/resume}
run=(distrain train examples/sample.yaml --processes 2 --schedule.max_steps 24 --checkpoint.every_steps 8
    --evaluation.samples 64)

"${run[@]}" --output_dir "$folder/whole"

"${run[@]}" --output_dir "$folder/killed" &
until [ -d "$folder/killed/checkpoint-8" ]; do
    kill -0 $!
    sleep 0.2
done
kill -KILL $!
wait $! || echo "killed after its first checkpoint"

"${run[@]}" --output_dir "$folder/killed" --resume
for file in "$folder"/whole/final/*.safetensors; do
    cmp "$file" "$folder/killed/final/${file##*/}"
done
echo "the same weights, byte for byte"
