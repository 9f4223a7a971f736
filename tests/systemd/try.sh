#!/bin/bash
# The unit files of docs/ under the real systemd: Debian 12 in a small virtual machine without hardware acceleration.
# Needs root, qemu-system-x86, debootstrap, busybox-static and package lists; nothing is changed on this machine.
#
#   tests/systemd/try.sh DIRECTORY-OF-netd-AND-netctl [DIRECTORY-FOR-THE-ROOT]
#
# Prints what was tried and what came of it; exit code 0 if all was right.
set -euo pipefail
programs=$(realpath "$1")
work=${2:-/var/tmp/netd-systemd}
here=$(dirname "$(readlink -f "$0")")
docs=$here/../../docs
mkdir -p "$work"
root=$work/root
if [ ! -x "$root/usr/bin/systemctl" ]; then
    debootstrap --variant=minbase --include=systemd,systemd-sysv,iproute2,kmod,linux-image-cloud-amd64 bookworm "$root" >"$work/debootstrap.log"
    rm -f "$root"/lib/systemd/system/e2scrub*
    rm -rf "$root"/var/cache/apt/* "$root"/var/lib/apt/lists/* "$root"/usr/share/{doc,man,locale}/*
fi
version=$(ls "$root/lib/modules")
for name in netd netctl; do
    install -m 755 "$programs/$name" "$root/usr/local/sbin/$name"
    strip --strip-debug "$root/usr/local/sbin/$name"
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
ln -sf /lib/systemd/systemd "$root/init"
ln -sf /dev/null "$root/etc/systemd/system/serial-getty@ttyS0.service"
grep -q '^netd:' "$root/etc/group" || echo 'netd:x:999:' >>"$root/etc/group"
(cd "$root" && find . \( -path ./boot -o -path './lib/modules/*/kernel/fs' -o -path './usr/lib/modules/*/kernel/fs' \) -prune -o -print | busybox cpio -o -H newc 2>/dev/null) >"$work/initrd"
timeout --foreground 1500 qemu-system-x86_64 -accel tcg -cpu max -m 2048 -smp 2 -nographic -no-reboot -nic none \
    -kernel "$root/boot/vmlinuz-$version" -initrd "$work/initrd" \
    -append "console=ttyS0 loglevel=4 panic=-1 systemd.show_status=0" </dev/null | sed -u 's/\r//' | tee "$work/log"
grep -q '^ALL RIGHT$' "$work/log"
