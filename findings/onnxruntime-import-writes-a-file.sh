#!/usr/bin/env bash
# onnxruntime: importing it writes a file into the temporary folder, which stays.
#
# No model is loaded. TMPDIR/.ses holds a time and a UUID, and the next import keeps it: whoever watches what
# a program leaves behind, or runs with a read-only disk, meets it.
# Exits 0 where that is still so, 1 where the behaviour changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet onnxruntime==1.32.0
mkdir "$folder/tmp"
export TMPDIR="$folder/tmp"
"$folder/venv/bin/python" -c 'import onnxruntime; print("onnxruntime", onnxruntime.__version__)'
left=$(ls -A "$TMPDIR")
echo "left in the temporary folder by the import: ${left:-nothing}"
[ "$left" = .ses ] || exit 1
first=$(cat "$TMPDIR/.ses")
echo "$first"
"$folder/venv/bin/python" -c 'import onnxruntime'
[ "$(cat "$TMPDIR/.ses")" = "$first" ] || exit 1
echo "the same after another import"
