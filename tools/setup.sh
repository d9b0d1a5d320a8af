#!/bin/sh
# Sets up what the Makefile's targets need: .venv, the pinned packages, FFCV, DALI, numba's cache. Each step is done
# once, and one that was interrupted is done again by the next call. Outside .venv only a compiler, Python's headers and
# FFCV's system libraries (and, where Debian left it out, Python's venv module) are installed, and only where the user
# is root.
set -eu
cd "$(dirname "$0")/.."
mkdir -p .setup
exec 9>.setup/lock
flock 9 2>/dev/null || true  # two at a time would spoil .venv

say() { printf 'setup: %s\n' "$*"; }
fail() { printf 'error: %s\n' "$*" >&2; exit 2; }

# apt_install PACKAGE...: fails where there is no apt-get, the user is not root, or apt-get itself fails.
apt_install() {
    command -v apt-get >/dev/null 2>&1 && [ "$(id -u)" = 0 ] || return 1
    say "installing $* with apt-get (log: .setup/apt.log)"
    { DEBIAN_FRONTEND=noninteractive apt-get update &&
      DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends "$@"; } >.setup/apt.log 2>&1 ||
        { tail -n 3 .setup/apt.log >&2; return 1; }
}

find_python() {
    for python in ${PYTHON:-python3 python3.13 python3.12 python3.11 python3.10}; do
        "$python" -c 'import sys; sys.exit(sys.version_info < (3, 10))' >/dev/null 2>&1 && return
    done
    fail "${PYTHON:-python3} is not Python 3.10 or newer; install one and name it: make PYTHON=/path/to/python3"
}

make_venv() {
    [ ! -e .venv/.installing ] && .venv/bin/python -m pip --version >/dev/null 2>&1 && return
    find_python
    version=$("$python" -c 'import sys; print("python%d.%d" % sys.version_info[:2])')
    "$python" -c 'import ensurepip, venv' >/dev/null 2>&1 || apt_install "$version-venv" ||
        fail "$python lacks its venv module; type: sudo apt-get install -y $version-venv"
    say "creating .venv with $("$python" --version)"
    "$python" -m venv --clear .venv || fail ".venv could not be created"
}

# The mark outlives a pip that was killed: it may leave a package half copied that it later takes for whole.
pip_install() {
    touch .venv/.installing
    quiet=-q
    [ -t 1 ] && quiet=
    status=0
    PYTHONWARNINGS=ignore .venv/bin/python -m pip install $quiet --disable-pip-version-check --no-input \
        --no-build-isolation -c constraints.txt "$@" || status=$?
    rm .venv/.installing
    return $status
}

install_packages() {
    wanted=$({ pwd; cat pyproject.toml constraints.txt; } | cksum)
    [ "$(cat .venv/.packages 2>/dev/null)" = "$wanted" ] && return
    say "installing the pinned packages into .venv; PyTorch with its CUDA libraries takes several GB"
    pip_install pip setuptools wheel && pip_install -e '.[dev]' ||
        fail "pip could not install the packages (its own words are above); make setup goes on where it stopped"
    echo "$wanted" >.venv/.packages
}

# Prints the Debian packages of a compiler and Python's headers, where they are missing.
missing_compiler() {
    command -v c++ >/dev/null 2>&1 || echo build-essential
    .venv/bin/python -c 'if 1:
        import os, sys, sysconfig
        if not os.path.exists(os.path.join(sysconfig.get_paths()["include"], "Python.h")):
            print("python%d.%d-dev" % sys.version_info[:2])'
}

# Prints the Debian packages that FFCV's build still lacks.
missing_libraries() {
    missing_compiler
    command -v pkg-config >/dev/null 2>&1 || echo pkg-config
    pkg-config --exists libturbojpeg 2>/dev/null || echo libturbojpeg0-dev
    pkg-config --exists opencv4 2>/dev/null || echo libopencv-dev
}

# Triton and torch.compile build with them what launches their kernels.
install_compiler() {
    missing=$(missing_compiler)
    if [ -n "$missing" ] && ! apt_install $missing; then
        say "to train on a GPU, or with train.compile=on, a compiler and Python's headers are needed, too; type"
        say "    sudo apt-get update && sudo apt-get install -y" $missing
    fi
}

install_ffcv() {
    [ "$(cat .venv/.ffcv 2>/dev/null)" = "$(cat .venv/.packages)" ] && return
    missing=$(missing_libraries)
    if [ -n "$missing" ] && ! apt_install $missing; then
        say "FFCV is left out, since system packages that it is built with are missing; to have it, type"
        say "    sudo apt-get update && sudo apt-get install -y" $missing
        say "and the same make command again. Without it the slower folder loader reads the images."
        return
    fi
    say "building FFCV (about a minute)"
    if pip_install -e '.[ffcv]' >.setup/ffcv.log 2>&1 &&
        .venv/bin/python -c 'import ffcv' >>.setup/ffcv.log 2>&1; then
        cp .venv/.packages .venv/.ffcv
    else
        say "FFCV could not be built; .setup/ffcv.log says why. The slower folder loader reads the images."
    fi
}

# The tests use DALI's CPU backend. There is no wheel of it for every platform, and nothing else needs it.
install_dali() {
    [ "$(cat .venv/.dali 2>/dev/null)" = "$(cat .venv/.packages)" ] && return
    say "installing DALI"
    if pip_install -e '.[dali-cuda13]' >.setup/dali.log 2>&1; then
        cp .venv/.packages .venv/.dali
    else
        say "DALI could not be installed; .setup/dali.log says why. Everything but data.source=dali works without it."
    fi
}

# Once: what changes later is compiled when it first runs.
compile_cpu() {
    [ "$(cat .venv/.compiled 2>/dev/null)" = "$(cat .venv/.packages)" ] && return
    say "compiling the loops of the CPU"
    if .venv/bin/python tools/compile_cpu.py >.setup/compile.log 2>&1; then
        cp .venv/.packages .venv/.compiled
    else
        say "that failed, and .setup/compile.log says why; they are compiled when they first run"
    fi
}

make_venv
install_packages
install_compiler
install_ffcv
install_dali
compile_cpu
