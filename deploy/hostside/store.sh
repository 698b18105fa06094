# Runs on a host, in any POSIX shell: the store of big files, `<store>/<sha256>/<name>`. Needs no Python.
#
#   look STORE                                     standard input: lines `sha256 name`; changes nothing
#   add STORE SHA256 NAME SEED OFFSET SIZE    standard input: the file from OFFSET on
#
# A file is renamed into place only once its SHA-256 fits. While it arrives it is `NAME.part.NODE.PID`, of the process
# that receives it: two controllers never write into one file, and what a broken push left (the SEED: NODE.PID, or -)
# is taken over, from a process that may still be there as a copy.
set -u

sum() {
    if command -v sha256sum >/dev/null 2>&1; then sha256sum; else shasum -a 256; fi <"$1" | cut -c 1-64
}

size() {
    wc -c <"$1" | tr -d ' '
}

# Prints `free KIB`, then for each file `complete SHA256` or, for each of its parts, `part SHA256 BYTES NODE.PID`.
look() {
    there=$1
    until [ -d "$there" ]; do there=$(dirname "$there"); done
    df -Pk "$there" | awk 'NR == 2 { print "free", $4 }'
    while read -r sha name; do
        if [ -f "$1/$sha/$name" ]; then
            echo "complete $sha"
        else
            for part in "$1/$sha/$name".part.*; do
                if [ -f "$part" ]; then echo "part $sha $(size "$part") ${part##*.part.}"; fi
            done
        fi
    done
}

# Makes $part hold exactly the first $offset bytes that the seed has.
take_over() {
    from=$name.part.$seed
    owner=${seed##*.}
    if [ "${seed%.*}" = "$node" ] && ! kill -0 "$owner" 2>/dev/null && [ "$(size "$from")" -eq "$offset" ]; then
        mv "$from" "$part"
    else
        head -c "$offset" "$from" >"$part"
    fi
}

# Prints how it went: `stored`, `short` (the stream ended early), `damaged`, or `moved` (the seed is not what it was).
add() {
    sha=$2 name=$3 seed=$4 offset=$5 size=$6
    node=$(uname -n)
    part=$name.part.$node.$$
    mkdir -p "$1/$sha" && cd "$1/$sha" || exit 1
    if [ "$seed" = - ]; then : >"$part"; else take_over; fi || { rm -f "$part"; echo moved; return; }
    if [ "$(size "$part")" -ne "$offset" ]; then rm -f "$part"; echo moved; return; fi
    # A disk that is full is given its room back: the host must stay usable.
    cat >>"$part" || { rm -f "$part"; exit 1; }
    if [ "$(size "$part")" -lt "$size" ]; then echo short; return; fi
    if [ "$(sum "$part")" != "$sha" ]; then rm -f "$part" "$name.part.$seed"; echo damaged; return; fi
    chmod 444 "$part"
    mv -f "$part" "$name" || [ -f "$name" ] || exit 1
    rm -f "$name".part.*
    echo stored
}

verb=$1
shift
"$verb" "$@"
