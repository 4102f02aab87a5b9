#!/usr/bin/env bash
# Make an environment with SkyFrame at TARGET, a new folder on a file system that all nodes see:
#   launch/install.sh [--use-site-torch] [--wheelhouse DIR] [--extras ingest,object] TARGET
# --use-site-torch  keep torch and CUDA as the loaded modules give them, and install only what is missing beside them
# --wheelhouse DIR  take every package from a folder that `make wheelhouse` filled; no network is touched
# --extras LIST     also what ingestion (ingest) or object stores (object) or foreign archives (archive) need
# PYTHON names the interpreter, by default python3. What goes wrong is one sentence, code 2, and no TARGET.
# The environment runs this checkout's code. Cluster file: `venv: TARGET`, with the same `modules:`. See docs/sites.md.
set -euo pipefail

refuse() { echo "install.sh: $1" >&2; exit 2; }

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
site='' wheels='' extras='' target='' made='' theirs=''
while [ $# -gt 0 ]; do
    case $1 in
    --use-site-torch) site=yes ;;
    --wheelhouse)
        wheels=${2-} && shift
        [ -n "$wheels" ] || refuse "--wheelhouse names no folder; give the one that \`make wheelhouse\` filled" ;;
    --extras)
        extras=${2-} && shift
        [ -n "$extras" ] || refuse "--extras names none; give a list such as ingest,object" ;;
    -*) refuse "$1 is no option, expected --use-site-torch, --wheelhouse DIR or --extras LIST; correct it" ;;
    *) [ -z "$target" ] || refuse "$target and $1 are given, expected one TARGET; leave one out"; target=$1 ;;
    esac
    shift
done
[ -n "$target" ] || refuse "no TARGET is given, expected a new folder on a file system that all nodes see; name one"
[ ! -e "$target" ] || refuse "$target is there already, expected a new folder; remove it or take another name"
python=$(command -v "${PYTHON:-python3}") ||
    refuse "${PYTHON:-python3} is not found; load the site's module of Python, or set PYTHON"
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
    refuse "$python is $("$python" -V), expected Python 3.11 or newer; load a newer one, or set PYTHON"
[ -z "$wheels" ] || ls "$wheels"/*.whl >/dev/null 2>&1 ||
    refuse "$wheels holds no wheels; fill it by \`make wheelhouse\` where there is a network"

# Personal settings and packages would decide otherwise what is installed, and what is imported on the nodes.
unset PIP_CONSTRAINT PIP_USER PIP_TARGET PIP_PREFIX
export PYTHONNOUSERSITE=1
if [ -n "$wheels" ]; then # and further places of wheels may be addresses
    unset PIP_FIND_LINKS
    export PIP_CONFIG_FILE=/dev/null
fi
if [ -n "$site" ]; then
    theirs=$("$python" "$root/launch/site_torch.py" found) || exit 2
fi

trap '[ -z "$made" ] || rm -rf "$target"' EXIT
made=yes
"$python" -m venv ${site:+--system-site-packages} "$target" ||
    refuse "$python makes no environment at $target, for the reason above; set PYTHON to one with venv and ensurepip"
target=$(cd "$target" && pwd)
ours=$target/bin/python
constraints=$root/constraints.txt
if [ -n "$site" ]; then
    packages=$("$ours" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
    "$python" "$root/launch/site_torch.py" layers >"$packages/site_torch.pth"
    constraints=$target/constraints.txt
    "$ours" "$root/launch/site_torch.py" pins "$root" >"$constraints" || exit 2
fi

# Modules are compiled now, once: otherwise every process of every node would try to at its first import.
install() {
    local words=(install --quiet --disable-pip-version-check --constraint "$constraints")
    [ -z "$wheels" ] || words+=(--no-index --find-links "$wheels" --no-build-isolation)
    "$ours" -m pip "${words[@]}" "$@" 2>"$target/pip.log" && return
    lines=$(sed -n 's/^ERROR: //p' "$target/pip.log" | tr '\n' ' ')
    lacking=$(sed -n 's/^ERROR: No matching distribution found for //p' "$target/pip.log")
    [ -z "$wheels" ] || [ -z "$lacking" ] ||
        refuse "$wheels holds no wheel of $lacking for $("$ours" -V); fill it by \`make wheelhouse\` on a like machine"
    refuse "pip cannot install $* (${lines:-$(tail -1 "$target/pip.log")}); correct that, or take other modules"
}
"$ours" -m pip uninstall --quiet --yes setuptools 2>/dev/null || true # Python 3.11 puts an old one before the site's
install 'setuptools>=70.1'
[ -n "$site" ] || install torch
install --editable "$root${extras:+[$extras]}"
if [ -n "$site" ]; then
    "$ours" "$root/launch/site_torch.py" prove "$theirs" || exit 2
fi
echo 'export PYTHONNOUSERSITE=1' >>"$target/bin/activate" # what lies in a home must not come before the site's
rm "$target/pip.log"
made=''
echo "installed: $("$target/bin/skyframe" --version), torch ${theirs:-$("$ours" "$root/launch/site_torch.py" found)}"
echo "cluster file: venv: $target${LOADEDMODULES:+  modules: [${LOADEDMODULES//:/, }]}"
