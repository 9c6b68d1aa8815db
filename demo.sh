#!/usr/bin/env bash
# Builds metacdn and runs its demo: three nodes and a proxy on this machine. Arguments go to `metacdn demo`, so
# `./demo.sh --help` lists them. What the build needs and is missing is installed first.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
# shellcheck source=scripts/install.sh
source scripts/install.sh

find_cargo
need_build_tools
install_missing_packages

echo "building metacdn (the first time takes some minutes)"
cargo build --release --locked
exec "${CARGO_TARGET_DIR:-target}/release/metacdn" demo "$@"
