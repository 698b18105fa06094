# Runs on a host: removes what the toolkit keeps in a work directory, by name, and the directory itself once it is empty.
# Argument: the work directory. Whatever else lies in it is somebody else's and stays.
set -eu
cd "$1" 2>/dev/null || { echo "there is no $1"; exit 0; }
for name in campaigns code data env store cache python keys; do
    if [ -d "$name" ] && [ ! -h "$name" ]; then chmod -R u+rwX "$name"; fi  # a store's files are read-only
    rm -rf -- "./$name"
done
cd /
if rmdir "$1" 2>/dev/null; then echo "removed $1"; else echo "removed what is ours in $1; other files lie there"; fi
