#!/bin/sh
# netd beside the real firewalld, ufw and Docker, on a network and a mount table of their own. Needs root, and apt-get for
# the packages, which go into an overlay and never onto the machine.
#
#   tests/firewalls/try.sh DIRECTORY-OF-netd-AND-netctl [DIRECTORY-FOR-THE-OVERLAY]
#
# Prints, after each thing that the other program did, which of four ways packets take, how many repairs netd made, and
# its warnings.
set -eu
programs=$(realpath "$1")
overlay=${2:-/var/tmp/netd-firewalls}
if [ "${INSIDE:-}" = "" ]; then
    mkdir -p "$overlay/up" "$overlay/work" "$overlay/root"
    INSIDE=mounted exec unshare --mount --pid --fork --kill-child "$0" "$programs" "$overlay"
fi
if [ "$INSIDE" = mounted ]; then
    root=$overlay/root
    mount -t overlay overlay -o "lowerdir=/,upperdir=$overlay/up,workdir=$overlay/work" "$root"
    mount -t proc proc "$root/proc"
    mount --rbind /dev "$root/dev"
    mount --rbind /sys "$root/sys"
    if [ ! -x "$root/usr/sbin/firewalld" ]; then
        # Nothing of it is started here.
        printf '#!/bin/sh\nexit 101\n' >"$root/usr/sbin/policy-rc.d"; chmod +x "$root/usr/sbin/policy-rc.d"
        chroot "$root" sh -c 'apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -qqy \
            --no-install-recommends firewalld ufw docker.io iptables dbus iproute2 nftables python3'
    fi
    mount -t tmpfs tmpfs "$root/run"
    mount -t tmpfs tmpfs "$root/tmp"
    mkdir -p "$root/run/programs" "$root/run/dbus" "$root/run/out"
    mount --bind "$overlay" "$root/run/out"
    mount --bind "$programs" "$root/run/programs"
    cp "$0" "$root/run/try.sh"
    INSIDE=root exec unshare --net chroot "$root" /run/try.sh /run/programs "$overlay"
fi

export PATH="$programs:$PATH" NETD_SOCKET=/run/netd.sock
say() { printf '\n== %s\n' "$*"; }

ip link set lo up
mount --make-shared /run 2>/dev/null || true
for host in outside server client; do ip netns add $host; ip -n $host link set lo up; done
ip link add up0 type veth peer name eth0 netns outside
ip addr add 192.0.2.1/24 dev up0; ip link set up0 up
ip -n outside addr add 192.0.2.2/24 dev eth0; ip -n outside link set eth0 up
mkdir -p /run/netd /run/state
netd --run-dir /run/netd --state-dir /run/state --socket /run/netd.sock >/run/netd.log 2>&1 &
daemon=$!
for _ in $(seq 100); do netctl status >/dev/null 2>&1 && break; sleep 0.1; done
netctl network create web >/dev/null
netctl attach /run/netns/server --name server --network web --publish 8080:80 >/dev/null
netctl attach /run/netns/client --name client --network web >/dev/null
server=$(ip -n server -4 -o addr show eth0 | awk '{sub("/.*", "", $4); print $4}')
ip netns exec server python3 -c '
import socketserver
class Echo(socketserver.BaseRequestHandler):
    def handle(self): self.request.sendall(b"server")
socketserver.ThreadingTCPServer.allow_reuse_address = True
socketserver.ThreadingTCPServer(("", 80), Echo).serve_forever()' &
ip netns exec outside python3 -c '
import socketserver
class Echo(socketserver.BaseRequestHandler):
    def handle(self): self.request.sendall(b"outside")
socketserver.ThreadingTCPServer(("", 80), Echo).serve_forever()' &
sleep 1

ask() { # FROM TO PORT
    run="ip netns exec $1"; [ "$1" = host ] && run=
    $run python3 -c "
import socket, sys
try:
    with socket.create_connection(('$2', $3), 2) as s:
        s.settimeout(2)
        sys.exit(0 if s.recv(16) else 1)
except OSError: sys.exit(1)" && echo yes || echo NO
}
events() { netctl -o json events | grep -c '"repaired"' || true; }
look() {
    sleep 1.5
    printf '%s\n' "published port from outside: $(ask outside 192.0.2.1 8080); from the host: $(ask host 127.0.0.1 8080)" \
        "container to container: $(ask client "$server" 80); container to outside: $(ask client 192.0.2.2 80)" \
        "plan: $(netctl -o json plan | python3 -c 'import json, sys; print(len(json.load(sys.stdin)["ops"]))') lines; repairs so far: $(events)"
    netctl -o json status | python3 -c 'import json, sys; [print("warning:", w) for w in json.load(sys.stdin).get("warnings", [])]'
}

say "nothing else on the host"; look
say "nft flush ruleset"; nft flush ruleset; look

say "firewalld, nftables backend"
mkdir -p /run/dbus; dbus-daemon --system --fork --nopidfile
firewalld --nofork --nopid >/run/firewalld.log 2>&1 &
fw=$!
for _ in $(seq 100); do firewall-cmd --state >/dev/null 2>&1 && break; sleep 0.2; done
firewall-cmd --state; look
say "what the warning says"; firewall-cmd --permanent --zone=trusted --add-interface=nd-+; firewall-cmd --reload; look
say "and taken back"; firewall-cmd --permanent --zone=trusted --remove-interface=nd-+
say "firewall-cmd --reload"; firewall-cmd --reload; look
say "firewall-cmd --complete-reload"; firewall-cmd --complete-reload; look
say "firewalld, zone of up0 set to drop"; firewall-cmd --zone=drop --change-interface=up0; look
say "firewalld, bridges trusted"; for link in $(ip -o link show type bridge | awk -F': ' '{print $2}'); do firewall-cmd --zone=trusted --add-interface="$link"; done; look
nft list ruleset > /run/firewalld.nft
say "firewalld ends"; kill $fw; wait $fw || true; look

say "ufw enable"; ufw --force enable; look
nft list ruleset > /run/ufw.nft 2>/dev/null || true
say "what the warnings say"
netctl -o json status | python3 -c 'import json, sys
for warning in json.load(sys.stdin)["warnings"]: print("\n".join(warning.split("`")[1::2]))' >/run/remedy.sh
sh /run/remedy.sh; look
say "ufw reload"; ufw reload; look
say "ufw disable"; ufw --force disable; nft flush ruleset; look

say "dockerd"
mkdir -p /run/docker
dockerd --storage-driver=vfs --data-root=/run/docker/data --exec-root=/run/docker/exec --pidfile=/run/docker/pid \
    --host=unix:///run/docker.sock >/run/dockerd.log 2>&1 &
docker=$!
for _ in $(seq 100); do docker --host=unix:///run/docker.sock info >/dev/null 2>&1 && break; sleep 0.2; done
docker --host=unix:///run/docker.sock network ls || tail -5 /run/dockerd.log; look
docker --host=unix:///run/docker.sock network create beside || true; look
nft list ruleset > /run/docker.nft 2>/dev/null || true
say "dockerd ends"; kill $docker; wait $docker || true; look
kill $daemon
cp /run/*.nft /run/*.log /run/out/
