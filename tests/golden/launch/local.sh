#!/bin/bash
# nano on this machine
set -eo pipefail
cd /data

source site.sh
export A="$HOME/x"

export PYTHONUNBUFFERED=1

exec /opt/sky/bin/python -m skyframe pretrain /data/runs/nano/launch/1/recipe.yaml resume=auto
