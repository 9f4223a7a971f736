#!/bin/bash
# Runs under the systemd of try.sh.
set -uo pipefail
exec >>/dev/console 2>&1
export PATH=/usr/local/sbin:/usr/sbin:/usr/bin
wrong=0
say() { # WHAT COMMAND...: right if the command succeeds within two minutes
    local what=$1 n
    shift
    for n in $(seq 240); do
        if "$@" >/dev/null 2>&1; then
            echo "right: $what"
            return
        fi
        sleep 0.5
    done
    echo "WRONG: $what"
    wrong=1
}
show() { systemctl show netd -p "$1" --value; }
is() { [ "$(show "$1")" = "$2" ]; }
differs() { [ "$(show "$1")" != "$2" ]; }
grew() { [ "$(show NRestarts)" -gt "$1" ]; }
namespaces() { # opened by netd: what it holds of containers
    ls -l "/proc/$(show MainPID)/fd" | grep -c net:
}
echo "systemd $(systemctl --version | head -n 1), Linux $(uname -r)"

systemctl start netd || {
    journalctl -u netd --no-pager | tail -n 40
    echo "WRONG: it does not start"
    exit 1
}
say "Type=notify: started when ready" is ActiveState active
say "status text" systemctl show netd -p StatusText --value
echo "  $(show StatusText)"
ip netns add box
netctl network create web --ipv6 >/dev/null || wrong=1
netctl attach /run/netns/box --name box --network web --publish 8080:80 >/dev/null || wrong=1
say "an attach under the restrictions of the unit" ip netns exec box ip addr show eth0
say "names" netctl dns query box --as box
say "the socket belongs to root alone or its group" test "$(stat -c %a /run/netd/netd.sock)" = 660

pid=$(show MainPID)
systemctl reload netd || wrong=1
say "reload: the same process, active again" is MainPID "$pid"
say "reload ended" is ActiveState active
say "reload: the daemon read its configuration again" sh -c 'journalctl -u netd --no-pager | grep -q "configuration read again"'

systemctl restart netd
say "restart: another process" differs MainPID "$pid"
say "restart: the container is still there" netctl inspect box
say "restart: nothing to repair" sh -c 'plan=$(netctl plan) && [ -z "$plan" ]'

systemctl stop netd
say "stopped: the link stays" ip netns exec box ip addr show eth0
say "stopped: the records stay" test -n "$(ls /run/netd)"
systemctl start netd
say "started again: the container is still there" netctl inspect box

before=$(show NRestarts)
kill -9 "$(show MainPID)"
say "kill -9: restarted" grew "$before"
say "kill -9: active" is ActiveState active
say "kill -9: the container is still there" netctl inspect box

# The watchdog: a process that stands still is ended and started again.
mkdir -p /run/systemd/system/netd.service.d
printf '[Service]\nWatchdogSec=8\n' >/run/systemd/system/netd.service.d/short.conf
systemctl daemon-reload
systemctl restart netd
sleep 20
say "watchdog: a daemon that lives is left alone" is NRestarts 0
kill -STOP "$(show MainPID)"
say "watchdog: one that stands still is restarted" grew 0
say "watchdog: active again" is ActiveState active
say "watchdog: the container is still there" netctl inspect box

# Socket activation: the socket is systemd's, and stays.
systemctl stop netd
rm -f /run/netd/netd.sock
systemctl start netd.socket
say "socket activation: asking starts the daemon" netctl status
say "socket activation: active" is ActiveState active
say "socket activation: the container is still there" netctl inspect box
systemctl stop netd
say "socket activation: the socket outlives the daemon" test -S /run/netd/netd.sock
say "socket activation: asking starts it again" netctl status

netctl detach box >/dev/null || wrong=1
netctl purge --force >/dev/null || wrong=1
say "purged: no rules of ours" sh -c '! ip link | grep -q nd'
if [ $wrong = 0 ]; then echo "ALL RIGHT"; else journalctl -u netd --no-pager | tail -n 60; fi
