#!/bin/bash
# The unit files of docs/ under the real systemd: Debian 12's, as process 1 of namespaces of its own.
# Needs root, debootstrap and package lists. What it leaves on this machine: the directory for the root, for the next time.
#
#   tests/systemd/try.sh DIRECTORY-OF-netd-AND-netctl [DIRECTORY-FOR-THE-ROOT]
#
# Prints what was tried and what came of it; exit code 0 if all was right. Takes half a minute.
set -euo pipefail
programs=$(realpath "$1")
work=${2:-/var/tmp/netd-systemd}
here=$(dirname "$(readlink -f "$0")")
docs=$here/../../docs
mkdir -p "$work"
root=$work/root
if [ ! -x "$root/usr/bin/systemctl" ]; then
    debootstrap --variant=minbase --include=systemd,systemd-sysv,iproute2 bookworm "$root" >"$work/debootstrap.log"
fi
rm -rf "$root"/var/lib/netd "$root"/var/log/journal
for name in netd netctl; do
    install -m 755 "$programs/$name" "$root/usr/local/sbin/$name"
done
install -m 644 "$docs/netd.service" "$docs/netd.socket" "$root/etc/systemd/system/"
install -m 755 "$here/inside.sh" "$root/usr/local/sbin/inside"
cat >"$root/etc/systemd/system/inside.service" <<'UNIT'
[Service]
Type=exec
ExecStart=/usr/local/sbin/inside
ExecStopPost=/usr/bin/systemctl --no-block poweroff
[Install]
WantedBy=multi-user.target
UNIT
ln -sf /etc/systemd/system/inside.service "$root/etc/systemd/system/multi-user.target.wants/inside.service"
grep -q '^netd:' "$root/etc/group" || echo 'netd:x:999:' >>"$root/etc/group"

# A group of its own in systemd's hierarchy: what process 1 does with groups stays below it.
hierarchy=/sys/fs/cgroup
[ -d $hierarchy/systemd ] && hierarchy=$hierarchy/systemd
group=$hierarchy/netd-try
mkdir -p "$group"
clean_up() {
    find "$group" -name cgroup.procs -exec cat {} + 2>/dev/null | xargs -r kill -9 2>/dev/null || true
    # A group that has just lost its last process is busy for a moment.
    for _ in $(seq 50); do
        find "$group" -depth -type d -exec rmdir {} \; 2>/dev/null
        [ -d "$group" ] || break
        sleep 0.1
    done
}
trap clean_up EXIT
: >"$work/log"

export root log=$work/log hierarchy
# shellcheck disable=SC2016  # expanded inside
enter='
echo $$ >"$hierarchy/netd-try/cgroup.procs"
exec unshare --pid --fork --mount --net --uts --ipc --cgroup --kill-child bash -euc "$within"
'
# shellcheck disable=SC2016
export within='
mount --make-rprivate /
mount --bind "$root" "$root"
mount -t proc proc "$root/proc"
mount -t sysfs sysfs "$root/sys"
for dir in run tmp dev; do mount -t tmpfs -o mode=755 "$dir" "$root/$dir"; done
chmod 1777 "$root/tmp"
for node in null zero full random urandom tty; do
    touch "$root/dev/$node"
    mount --bind "/dev/$node" "$root/dev/$node"
done
touch "$root/dev/console"
mount --bind "$log" "$root/dev/console"
ln -s /proc/self/fd "$root/dev/fd"
if [ "$hierarchy" = /sys/fs/cgroup ]; then
    mount -t cgroup2 cgroup2 "$root/sys/fs/cgroup"
else
    mount -t tmpfs -o mode=755 cgroup "$root/sys/fs/cgroup"
    mkdir "$root/sys/fs/cgroup/systemd"
    mount -t cgroup -o none,name=systemd systemd "$root/sys/fs/cgroup/systemd"
fi
ip link set lo up
cd "$root"
pivot_root . mnt
umount -l /mnt
# As process 1 of a machine has it: the namespaces that ip-netns mounts are seen by services.
mount --make-rshared /
export container=netd-try
exec /lib/systemd/systemd --show-status=0 --log-target=null
'
timeout 600 bash -euc "$enter" </dev/null &
runs=$!
tail -n +1 --pid=$runs -F "$log" 2>/dev/null &
wait $runs || true
wait
grep -q '^ALL RIGHT$' "$log"
