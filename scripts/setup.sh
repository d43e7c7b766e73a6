#!/usr/bin/env bash
# What a fresh Debian machine needs: `install` (virtual environment), `broker` (Mosquitto), `tools` (what the tests start).
# Debian packages are installed as root or with sudo; without either, one line says what to ask the administrator for.
set -euo pipefail
cd "$(dirname "$0")/.."
PYTHON="${PYTHON:-python3}"
VENV=.venv

say() { printf 'fieldloom: %s\n' "$*" >&2; }
die() { say "$*"; exit 1; }

# root: as we are; sudo: only when it needs no question, or somebody is there to answer it.
as_root() {
    if [ "$(id -u)" = 0 ]; then "$@"
    elif command -v sudo >/dev/null && { sudo -n true 2>/dev/null || [ -t 0 ]; }; then sudo "$@"
    else return 97; fi
}

debian() {
    local said; said="$(mktemp)"
    command -v apt-get >/dev/null || die "this is not Debian; install $* with your system's tools, then try again"
    if ! as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends "$@" >"$said" 2>&1; then
        as_root true || die "missing: $*; ask your administrator for: apt-get install -y $*, or run this as root or with sudo"
        as_root apt-get update -q >/dev/null 2>&1 || true
        as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends "$@" >"$said" 2>&1 || {
            tail -n 5 "$said" >&2
            die "Debian could not install $*; the lines above say why"
        }
    fi
    rm -f "$said"
}

# Debian starts the service of what it installs; ours are children of Fieldloom on free ports, so theirs must not take 1883.
without_services() {
    local policy=/usr/sbin/policy-rc.d
    if [ ! -e "$policy" ] && printf '#!/bin/sh\nexit 101\n' | as_root tee "$policy" >/dev/null 2>&1; then
        trap 'as_root rm -f /usr/sbin/policy-rc.d' EXIT  # also when apt fails: it would keep every later service from starting
        as_root chmod 755 "$policy"
    fi
    debian "$@"
}

have() { command -v "$1" >/dev/null || [ -x "/usr/sbin/$1" ] || [ -x "/usr/local/sbin/$1" ]; }

pip() {
    "$VENV/bin/pip" install -qq --disable-pip-version-check "$@" \
        || die "pip could not install the packages; the lines above say why: no network, a full disk, or another Python than 3.11 to 3.13?"
}

install() {
    command -v "$PYTHON" >/dev/null || [ "$PYTHON" != python3 ] || debian python3
    command -v "$PYTHON" >/dev/null || die "there is no $PYTHON; correct PYTHON, or leave it out"
    "$PYTHON" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || die "$PYTHON is older than 3.11; set PYTHON=python3.11 or newer"
    if [ ! -x "$VENV/bin/pip" ]; then
        "$PYTHON" -c 'import ensurepip, venv' 2>/dev/null || debian python3-venv
        "$PYTHON" -m venv --clear "$VENV"
    fi
    say "installing the locked packages into $VENV: about 300 MB to load and 900 MB on disk, once"
    pip --require-hashes -r requirements.lock
    pip --no-deps --no-build-isolation -e .
    say "compiling the rule loop and its like: one to two minutes, once"
    "$VENV/bin/fieldloom" warm
    touch "$VENV/.installed"
}

broker() {
    if have mosquitto || [ -n "${FIELDLOOM_MQTT_HOST:-}" ]; then return 0; fi  # with a broker of one's own none is needed
    say "installing Mosquitto from Debian"
    without_services mosquitto
}

tools() {
    broker
    local missing=()
    have influxd || missing+=(influxdb)
    have victoria-metrics || missing+=(victoria-metrics)
    have chromium || missing+=(chromium)
    have strace || missing+=(strace)
    have faketime || missing+=(faketime)
    have mosquitto_sub || missing+=(mosquitto-clients)
    have cc || missing+=(gcc libc6-dev)
    [ -e /usr/share/fonts/opentype/noto/NotoSansCJK-Regular.ttc ] || missing+=(fonts-noto-cjk)  # Chinese as glyphs, not boxes
    [ -e /usr/include/mosquitto.h ] || missing+=(libmosquitto-dev)
    if [ ${#missing[@]} -gt 0 ]; then
        say "installing for the tests: ${missing[*]}"
        without_services "${missing[@]}"
    fi
}

case "${1:-}" in
    install | broker | tools) "$1" ;;
    *) die "usage: scripts/setup.sh install|broker|tools" ;;
esac
