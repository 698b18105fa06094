# Runs on a host, in any POSIX shell: makes a virtual environment by uv, all of it or nothing. Needs no Python but the
# one that is named.
#
#   WORKDIR DIGEST UV.gz PYTHON [option of `uv pip sync` …]    standard input: the locked requirements, with hashes
#
# It is made beside its place, marked complete, and renamed: two controllers at once do no harm, and what a killed one
# left never looks like an environment. Prints what uv
# prints, `python VERSION` once it runs and, last, `complete VERSION`.
set -eu
exec 2>&1

workdir=$1 digest=$2 uv=${3%.gz} python=$4
shift 4
place=$workdir/env/$digest
mine=$workdir/env/.$digest.$(uname -n)
draft=$mine.$$

export UV_CACHE_DIR="$workdir/cache/uv" UV_PYTHON_INSTALL_DIR="$workdir/python" UV_NO_PROGRESS=1 NO_COLOR=1
unset VIRTUAL_ENV CONDA_PREFIX UV_PYTHON UV_SYSTEM_PYTHON

mkdir -p "$workdir/env"
for left in "$mine".*; do
    if ! kill -0 "${left##*.}" 2>/dev/null; then rm -rf "$left"; fi
done
trap 'rm -rf "$draft"' EXIT
trap 'exit 1' HUP INT TERM

if [ ! -x "$uv" ]; then
    mkdir "$draft"
    gzip -dc "$uv.gz" >"$draft/uv"
    chmod 555 "$draft/uv"
    mv -f "$draft/uv" "$uv"
    rmdir "$draft"
fi

# A user's uv.toml is heard (mirrors, certificates), a project's that happens to lie above the home directory is not.
"$uv" venv --quiet --relocatable --no-project --python "$python" "$draft"
cat >"$draft/requirements.txt"
"$draft/bin/python" -I -c 'import platform; print("python", platform.python_version(), flush=True)'
"$uv" pip sync --require-hashes --only-binary :all: --python "$draft/bin/python" "$@" "$draft/requirements.txt"

# rename(2), because mv would move the draft into an environment that another controller has made meanwhile.
"$draft/bin/python" -I -c '
import os, platform, shutil, sys
draft, place = sys.argv[1:]
with open(os.path.join(draft, ".complete"), "w") as file:
    file.write(platform.python_version() + "\n")
if not os.path.exists(os.path.join(place, ".complete")):
    shutil.rmtree(place, ignore_errors=True)
try:
    os.rename(draft, place)
except OSError:
    if not os.path.exists(os.path.join(place, ".complete")):
        raise
' "$draft" "$place"
echo "complete $(cat "$place/.complete")"
