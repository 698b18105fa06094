# Runs on a host, in any POSIX shell: finds a Python for a script, or looks without one.
#
# Arguments: `fast` or `thorough`, the script's text (on standard input it would cost a round trip more), the
# interpreter or virtual environment and the work directory, both as the inventory has them; the rest is the script's.
# Prints the same JSON object as `look.py`, which the first Python of these that is 3.7 or later runs: the inventory's,
# then those of the environments that were prepared below the work directory. `fast` becomes the inventory's, if there
# is one, and fails if that does. Changes nothing.

mode=$1
script=$2
path=$3
workdir=$4
shift 4
case $path in '~/'*) path=$HOME/${path#'~/'} ;; esac
case $workdir in '~/'*) workdir=$HOME/${workdir#'~/'} ;; esac
if [ -d "$path" ]; then path=$path/bin/python; fi

# An old Python leaves the script to the next one. The first entry of sys.path is the current directory, the user's
# home: files in there are not our modules.
ENTER='import sys
if sys.version_info < (3, 7):
    sys.stderr.write("%d.%d.%d" % sys.version_info[:3])
    sys.exit(77)
sys.path = [entry for entry in sys.path if entry]
exec(sys.argv.pop(1))'
if [ "$mode" = fast ] && command -v "$path" >/dev/null 2>&1; then exec "$path" -c "$ENTER" "$script" '' "$workdir" "$@"; fi

NEWLINE='
'
python='' version='' trouble="there is no Python at $path"

for candidate in "$path" "$workdir"/env/*/bin/python; do
  if [ "$candidate" != "$path" ] && [ ! -e "${candidate%/bin/python}/.complete" ]; then continue; fi
  command -v "$candidate" >/dev/null 2>&1 || continue
  if [ "$candidate" = "$path" ]; then trouble=''; fi
  { said=$("$candidate" -c "$ENTER" "$script" "$trouble" "$workdir" "$@" 2>&1 >&3 3>&-); status=$?; } 3>&1
  if [ "$status" = 0 ]; then exit 0; fi
  [ "$candidate" = "$path" ] || continue
  if [ "$status" = 77 ]; then
    python=$(command -v "$path") version=$said trouble="Python $version is too old"
  else
    trouble="$path does not work: ${said##*"$NEWLINE"} (exit status $status)"
  fi
done

# No Python has answered. What follows starts a process for each value, but few hosts come here.
clean() { printf '%s' "$1" | tr -d '"\\\000-\037'; }
listed() {
  text=
  for entry; do
    name=${entry##*/}
    case $name in '*' | *.*) continue ;; esac
    text="$text${text:+,}\"$(clean "$name")\""
  done
  printf '[%s]' "$text"
}
environments() {
  for mark in "$workdir"/env/*/.complete; do
    if [ -e "$mark" ]; then set -- "$@" "${mark%/.complete}"; fi
  done
  listed "$@"
}

parent=$workdir
while [ ! -d "$parent" ]; do
  parent=${parent%/*}
  parent=${parent:-/}
done
if [ -w "$parent" ]; then writable=true; else writable=false; fi
# The column before the percentage: names of devices and directories may hold spaces.
free=$(df -Pk "$parent" | awk 'NR == 2 { for (i = 2; i <= NF; i++) if ($i ~ /^[0-9]+%$/) print int($(i - 1) / 1024) }')
if [ -r /proc/meminfo ]; then
  memory=$(awk '/^MemTotal:/ { print int($2 / 1024) }' /proc/meminfo)
else
  memory=$(($(sysctl -n hw.memsize 2>/dev/null || echo 0) / 1048576))
fi
printf '{"home":"%s","user":"%s","hostname":"%s","workdir":"%s",' \
  "$(clean "$HOME")" "$(clean "$(id -un)")" "$(clean "$(uname -n)")" "$(clean "$workdir")"
printf '"python":"%s","python_version":"%s","python_bits":%s,"trouble":"%s",' \
  "$(clean "$python")" "$(clean "$version")" "$(getconf LONG_BIT 2>/dev/null || echo 0)" "$(clean "$trouble")"
printf '"system":"%s","platform":"%s","machine":"%s","cpu":"%s","cpus":%s,' \
  "$(uname -s)" "$(clean "$(uname -sr)")" "$(uname -m)" \
  "$(clean "$(cat /proc/device-tree/model 2>/dev/null)")" "$(getconf _NPROCESSORS_ONLN 2>/dev/null || echo null)"
printf '"memory_mb":%s,"disk_free_mb":%s,"writable":%s,"packages":{},' "${memory:-null}" "${free:-0}" "$writable"
printf '"code":%s,"envs":%s,"wall_ns":%s000000000}\n' \
  "$(listed "$workdir"/code/*)" "$(environments)" "$(date +%s)"
