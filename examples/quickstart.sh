#!/bin/sh
# The first ten minutes with netd, as one command on a fresh checkout:
#
#     examples/quickstart.sh
#
# It builds netd and plays a story on a throw-away host, a network namespace: two containers find each other by name,
# a port is published, the daemon is killed and comes back, and in the end nothing is left. The packets are real; your
# machine's own network is not touched. It needs Linux, cargo, and root or user namespaces.
#
# NETD_BIN_DIR=DIR takes netd, netctl and nslab from DIR and builds nothing.
set -eu

# Shown in bold on a terminal.
bold= plain=
if [ -t 1 ] && [ -z "${NO_COLOR-}" ]; then
    bold=$(printf '\033[1m') plain=$(printf '\033[0m')
fi

die() {
    printf 'quickstart: %s\n' "$*" >&2
    exit 1
}

# Seconds since boot: a clock that needs no program.
now() {
    read -r clock _ </proc/uptime
    clock=${clock%.*}
}

# --- Outside: build, then run this script once more on a throw-away host -------------------------

build_and_enter() {
    [ -r /proc/uptime ] || die "netd needs Linux (there is no /proc/uptime here)"
    case $0 in
    */*) cd -P -- "${0%/*}/.." ;;
    *) cd -P .. ;;
    esac
    case $PWD/ in
    /run/*) die "the throw-away host has a /run of its own and would hide $PWD: move the checkout elsewhere" ;;
    esac
    now
    QUICKSTART_STARTED=$clock
    if [ -n "${NETD_BIN_DIR-}" ]; then
        set -- "$NETD_BIN_DIR/nslab"
        [ -x "$1" ] || die "NETD_BIN_DIR: there is no program $1"
    else
        command -v cargo >/dev/null || die "cargo is missing: install Rust from https://rustup.rs"
        printf '%sBuild netd and the small helper of this example. The first time takes minutes.%s\n' "$bold" "$plain"
        set -- build --release --locked -p netd -p netd-examples
        printf '$ cargo %s\n' "$*"
        cargo "$@" || die "the build failed; cargo says why above"
        # Cargo knows where it puts programs, whatever the configuration.
        set -- cargo run --quiet --release --locked -p netd-examples --bin nslab --
    fi
    now
    QUICKSTART_BUILT=$clock
    export QUICKSTART_STARTED QUICKSTART_BUILT
    exec "$@" host --timeout 120 -- sh examples/quickstart.sh --inside
}

# --- Inside: the words of the story ------------------------------------------------------------

number=0
title=
last=

# Begins a step.
step() {
    number=$((number + 1))
    title=$1
    shift
    printf '\n%s%d. %s%s\n' "$bold" "$number" "$title" "$plain"
    [ "$#" = 0 ] || printf '   %s\n' "$@"
}

# Runs a command that has to succeed; its output is shown and kept in $out.
run() {
    run_to 0 "$@"
}

# The same for a command that has to end with this exit code.
run_to() {
    wanted=$1
    shift
    show "$*"
    code=0
    out=$("$@" 2>&1) || code=$?
    [ -z "$out" ] || printf '%s\n' "$out"
    [ "$code" = "$wanted" ] || failed "exit code $code, not $wanted"
}

show() {
    last=$1
    printf '%s$ %s%s\n' "$bold" "$last" "$plain"
}

# Each of these has to be part of the last output.
has() {
    for words; do
        case $out in
        *"$words"*) ;;
        *) failed "\"$words\" is missing in the output" ;;
        esac
    done
}

# The last output has to be exactly this.
is() {
    [ "$out" = "$1" ] || failed "the output should be \"$1\""
}

failed() {
    {
        printf '\nquickstart: step %s failed: %s\n' "$number" "$title"
        printf 'command: %s\nproblem: %s\n' "$last" "$1"
        if [ -s "$log" ]; then
            printf 'log of the daemon:\n'
            while read -r line; do printf '  %s\n' "$line"; done <"$log"
        fi
    } >&2
    exit 1
}

log=/run/netd.log

start_daemon() {
    show "netd --state-dir /run/netd-state 2>>$log &"
    netd --state-dir /run/netd-state 2>>"$log" &
    daemon=$!
    # Nobody waits for a daemon that has ended.
    while [ ! -S /run/netd/netd.sock ] || ! netctl status >/dev/null 2>&1; do
        stat=") Z "
        [ ! -r "/proc/$daemon/stat" ] || read -r stat <"/proc/$daemon/stat"
        case $stat in
        *") Z "*) failed "the daemon ended at once" ;;
        esac
    done
    run netctl status --wait
}

# --- Inside: the story -------------------------------------------------------------------------

story() {
    ipv6=
    [ ! -e /proc/self/net/if_inet6 ] || ipv6=--ipv6

    step "This is netd"
    run netd --version
    has "netd "

    step "The host is a namespace" \
        "Its uplink (192.0.2.1) leads to a second machine, \`outside\` (192.0.2.2)." \
        "nslab is the helper of this example; with it you need no ip, dig or curl."
    run nslab links host
    has uplink
    links=$out

    step "Start the daemon" "It keeps its records below /run here, so that they vanish with the host."
    start_daemon

    step "Create a network" "It gets a free subnet by itself."
    # shellcheck disable=SC2086 # a flag or nothing
    run netctl network create web $ipv6
    has web bridge

    step "Make two containers" \
        "For netd a container is a network namespace: one has a name under /run/netns, one is a process."
    run nslab netns api
    run nslab process shop
    shop=$out

    step "Attach api, and publish its port 80 as port 8080 of the host"
    run netctl attach api --name api --network web --publish 8080:80
    has api web "8080->80/tcp"

    step "Look before you leap: what would it take to attach shop?" "A dry run prints the changes and makes none."
    run netctl attach "pid:$shop" --name shop --network web --dry-run
    has "add veth" "add address" "add dns"
    run netctl ps
    case $out in
    *shop*) failed "a dry run attached shop" ;;
    esac

    step "Attach shop"
    run netctl attach "pid:$shop" --name shop --network web
    has shop web

    step "Names: shop asks for api at 127.0.0.11"
    run nslab lookup shop api
    has "api has address"
    [ -z "$ipv6" ] || has "api has IPv6 address"

    step "shop reaches api over TCP" "api answers and says whom it sees."
    run nslab serve api 80
    run nslab get shop api:80
    has "api says hello to"

    step "The published port" "From the host itself, and from outside: there api sees the visitor's true address."
    run nslab get host 127.0.0.1:8080
    has "api says hello to"
    run nslab get outside 192.0.2.1:8080
    is "api says hello to 192.0.2.2"
    if [ -n "$ipv6" ]; then
        run nslab get outside '[2001:db8::1]:8080'
        is "api says hello to 2001:db8::2"
    fi

    step "The way out" "A container reaches the world under the address of its host."
    run nslab serve outside 80
    run nslab get shop 192.0.2.2:80
    is "outside says hello to 192.0.2.1"

    step "What is there?"
    run netctl ps
    has api shop "8080->80/tcp"
    run netctl network inspect web
    has api shop
    run netctl status
    has "ready:"

    step "Is all well?" "plan compares what should be with what the kernel has, and prints the repairs."
    run netctl plan
    is "healthy: nothing to do"

    step "Kill the daemon" "The kernel goes on: the published port still answers. (Names need the daemon.)"
    show "kill -9 $daemon"
    kill -9 "$daemon"
    wait "$daemon" 2>/dev/null || true
    run_to 3 netctl status
    run nslab get host 127.0.0.1:8080
    has "api says hello to"
    run nslab get outside 192.0.2.1:8080
    is "api says hello to 192.0.2.2"

    step "Start it again" "It finds everything as it was: nothing to repair, and names are back."
    start_daemon
    run netctl plan
    is "healthy: nothing to do"
    run nslab get shop api:80
    has "api says hello to"

    step "Take everything away"
    run netctl detach shop
    run netctl detach api
    run netctl network rm web
    run netctl plan
    is "healthy: nothing to do"
    show "kill $daemon"
    kill "$daemon"
    wait "$daemon" || failed "the daemon ended with exit code $?"

    step "Nothing is left" "The links of the host are those from the beginning, those of the containers gone."
    run nslab links host
    is "$links"
    for container in api shop; do
        run nslab links "$container"
        is "lo"
    done
}

epilogue() {
    now
    story=$((clock - QUICKSTART_BUILT))
    build=$((QUICKSTART_BUILT - QUICKSTART_STARTED))
    printf '\n%sIt works.%s The build took %d s, the story %d s.\n' "$bold" "$plain" "$build" "$story"
    nslab=$(command -v nslab) netctl=$(command -v netctl)
    printf '\nWhat to try next:\n'
    printf '  %-32s %s\n' \
        "${nslab#"$PWD"/} host -- sh" "a shell on such a host; begin with: netd --state-dir /run/netd-state &" \
        "${netctl#"$PWD"/} --help" "all commands; each has an example in its own --help" \
        "cargo test --workspace" "the tests, on throw-away hosts too"
}

if [ "${1-}" = --inside ]; then
    story
    epilogue
else
    build_and_enter
fi
