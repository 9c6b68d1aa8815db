# shellcheck shell=bash
# Installs what a script of this repository needs and does not find. Sourced by demo.sh and test.sh.

# Debian packages to install, collected by need_package and need_command.
MISSING_PACKAGES=()

# need_package PACKAGE REASON
need_package() {
    echo "missing: $1 ($2)"
    MISSING_PACKAGES+=("$1")
}

# need_command COMMAND PACKAGE REASON: COMMAND comes with PACKAGE.
need_command() {
    command -v "$1" >/dev/null || need_package "$2" "$3"
}

# Installs what was collected, as root or by sudo; without either it says what to run and exits 1.
install_missing_packages() {
    if [ "${#MISSING_PACKAGES[@]}" -eq 0 ]; then return; fi
    local as_root=()
    if [ "$(id -u)" -ne 0 ]; then as_root=(sudo); fi
    if ! command -v apt-get >/dev/null; then
        echo "This is not Debian: install what Debian calls ${MISSING_PACKAGES[*]}, then run this again." >&2
        exit 1
    fi
    if [ "${#as_root[@]}" -gt 0 ] && ! can_sudo; then
        echo "Run this as root, then run this script again:" >&2
        echo "  apt-get update && apt-get install --yes --no-install-recommends ${MISSING_PACKAGES[*]}" >&2
        exit 1
    fi
    echo "installing Debian packages: ${MISSING_PACKAGES[*]}"
    # Errors are written to the other stream; the rest is a line for every step of every package.
    "${as_root[@]}" apt-get update --quiet=2 >/dev/null
    "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive \
        apt-get install --yes --quiet=2 --no-install-recommends "${MISSING_PACKAGES[@]}" >/dev/null
    MISSING_PACKAGES=()
}

# Without a terminal nobody can type a password.
can_sudo() {
    command -v sudo >/dev/null && { [ -t 0 ] || sudo --non-interactive true 2>/dev/null; }
}

# What `cargo build` needs beside Rust: TLS (aws-lc), the catalogue (SQLite) and WebP are C, compiled by Cargo itself. JPEG
# (libjpeg-turbo) has a build of its own; `--no-default-features` does without it and these three.
need_build_tools() {
    if ! echo '#include <stdlib.h>' | cc -fsyntax-only -xc - 2>/dev/null; then
        need_package gcc "the C compiler that builds aws-lc and SQLite"
        need_package libc6-dev "the C headers that aws-lc and SQLite include"
    fi
    need_command cmake cmake "configures libjpeg-turbo"
    need_command make make "builds libjpeg-turbo"
    case "$(uname -m)" in
    x86_64 | i?86) need_command nasm nasm "assembles what makes libjpeg-turbo fast" ;;
    esac
}

# Finds cargo where its installer puts it too, or says how to get it and exits 1.
find_cargo() {
    if ! command -v cargo >/dev/null && [ -x "$HOME/.cargo/bin/cargo" ]; then PATH="$HOME/.cargo/bin:$PATH"; fi
    if command -v cargo >/dev/null; then return; fi
    echo "Rust 1.95 is needed. This installs it for you alone:" >&2
    echo "  curl --proto '=https' --tlsv1.2 -sSf https://sh.rustup.rs | sh -s -- -y --default-toolchain 1.95.0" >&2
    exit 1
}
