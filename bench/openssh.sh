#!/bin/sh
# The yardstick: plain OpenSSH, all hosts in parallel, one shared connection each, its fastest cipher and key exchange (the
# post-quantum one that 9.2 prefers costs the client 70 ms of CPU for each connection).
#
#   openssh.sh STEP TRANSFER        STEP: look, push, pull or job; TRANSFER: tar or rsync
#
# From the environment: HOSTS (a file of lines NAME PORT DIRECTORY), KEY, KNOWN_HOSTS, CONTROL (a directory with a short
# name), TREE (what to push), OUT (where looks and pulled files go), LOOK (the script), PYTHON, LOGS (names to pull).
set -u
step=$1 transfer=$2
options="-F none -T -x -a -o BatchMode=yes -o IdentitiesOnly=yes -o IdentityFile=$KEY -o UserKnownHostsFile=$KNOWN_HOSTS"
if [ "$TUNED" = yes ]; then
    options="$options -o KexAlgorithms=curve25519-sha256 -o Ciphers=aes128-gcm@openssh.com -o Compression=no
 -o ControlPath=$CONTROL/%p"
    share="-o ControlMaster=yes -o ControlPersist=60"
else
    share=
fi

# $options and $share are split into words on purpose: none of them holds a space.
remote() { ssh $options -p "$port" 127.0.0.1 "$@"; }
first() { ssh $options $share -p "$port" 127.0.0.1 "$@"; }

look() { "$1" "$PYTHON - '' $directory/$transfer ''" <"$LOOK" >"$OUT/$name.look"; }
push() {
    if [ "$transfer" = tar ]; then
        remote "mkdir -p $directory/tar/tree && tar -xf - -C $directory/tar/tree" <"$OUT/tree.tar"
    else
        rsync -a --delete --mkpath -e "ssh $options -p $port" "$TREE/" "127.0.0.1:$directory/rsync/tree/"
    fi
}
pull() {
    mkdir -p "$OUT/$name"
    if [ "$transfer" = tar ]; then
        remote "tar -cf - -C $directory/logs $LOGS" | tar -xf - -C "$OUT/$name"
    else
        rsync -a -e "ssh $options -p $port" "127.0.0.1:$directory/logs/" "$OUT/$name/"
    fi
}
start() { remote "mkdir -p $directory/$transfer; setsid sleep 600 </dev/null >/dev/null 2>&1 & echo \$! >$directory/$transfer/pid"; }
close() { [ "$TUNED" = no ] || remote -O exit 2>/dev/null; }

one() {
    case $step in
    look) look remote ;;
    push) look first && push && close ;;
    pull) pull ;;
    job) look first && push && start && pull && close ;;
    esac || echo "$name" >>"$OUT/failed"
}

case $step-$transfer in
push-tar | job-tar) tar -cf "$OUT/tree.tar" -C "$TREE" . ;;
esac
while read -r name port directory; do
    one </dev/null &
done <"$HOSTS"
wait
[ ! -e "$OUT/failed" ]
