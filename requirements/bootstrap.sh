#!/bin/sh
# Create a virtual environment with a supported Python and the locked uv in it:
#
#   sh requirements/bootstrap.sh FOLDER [PYTHON]
#
# PYTHON is a version or a path; the default is the first supported version that is installed, else a download by
# uv. An environment that is complete is left as it is. Needs any Python of 3.8 or later with venv or pip, or uv.
set -eu
folder=$1
wanted=${2:-}
supported="3.11 3.12 3.13"
locked=$(dirname "$0")/uv.lock

fail() {
    echo "error: $1" >&2
    exit 1
}

quietly() {
    "$@" >/dev/null 2>&1
}

is_supported() {
    quietly "$1" -c "import sys; sys.exit('%d.%d' % sys.version_info[:2] not in '$supported'.split())"
}

installer() { # print the path of a uv: that of PATH, else the locked one, installed into a folder of its own
    if quietly uv --version; then
        command -v uv
        return
    fi
    python=
    for name in python3 python python3.13 python3.12 python3.11 python3.10 python3.9 python3.8; do
        if quietly "$name" -c 'import sys; sys.exit(sys.version_info < (3, 8))'; then
            python=$name
            break
        fi
    done
    [ -n "$python" ] || fail "no Python 3.8 or later and no uv on PATH: install one (Debian, Ubuntu: apt-get install python3-venv)"
    "$python" -m venv "$folder.uv" >/dev/null 2>&1 || {
        rm -rf "$folder.uv"
        quietly "$python" -m pip --version ||
            fail "$python has neither venv nor pip: install one of them (Debian, Ubuntu: apt-get install python3-venv), or uv"
    }
    if [ -d "$folder.uv" ]; then
        "$folder.uv/bin/python" -m pip install $pip_options -r "$locked" >&2
    else
        "$python" -m pip install $pip_options --target "$folder.uv" -r "$locked" >&2
    fi || fail "pip cannot install uv: see its message above; PIP_INDEX_URL and PIP_PROXY name an index and a proxy"
    echo "$folder.uv/bin/uv"
}
pip_options="--quiet --disable-pip-version-check --only-binary :all: --require-hashes"

if is_supported "$folder/bin/python" && [ -x "$folder/bin/uv" ]; then
    exit 0
fi
trap 'rm -rf "$folder.uv"' EXIT
uv=$(installer)
made=
for python in ${wanted:-$supported}; do
    if quietly "$uv" venv --clear --no-python-downloads --python "$python" "$folder"; then
        made=yes
        break
    fi
done
if [ -z "$made" ]; then
    python=${wanted:-3.11}
    quietly "$uv" venv --clear --python "$python" "$folder" ||
        fail "no Python $python on this machine, and uv could not download it: install Python 3.11, 3.12 or 3.13, or give one by 'make install PYTHON=/path/to/python3.12'"
fi
is_supported "$folder/bin/python" || fail "Python $python is not supported: give one of $supported by PYTHON="
"$uv" pip install --quiet --python "$folder/bin/python" --require-hashes -r "$locked"
