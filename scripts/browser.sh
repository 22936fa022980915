# Read by scripts/check-browser and scripts/build-web, after scripts/debian.sh: a standard library for browsers.
#
# Where rustc has none and rustup cannot add it, it is built from Debian's package rust-src of the same version, in
# target/browser.
# shellcheck shell=bash
target=wasm32-unknown-unknown folder=$PWD/target/browser cargo=cargo
has_std() { [ -d "$("$1" --print target-libdir --target $target)" ]; }

# Unpacks rust-src of the version $1 to $scratch/rust-src; fails where Debian has none.
fetch_source() {
  command -v apt-get >/dev/null || return 1
  local key=/usr/share/keyrings/debian-archive-keyring.gpg state="$scratch/apt" mirror version suite
  [ -f $key ] || return 1
  # The machine's own mirror, whatever release it is of.
  mirror=$(grep -rhoE 'https?://[^ ]+/debian/?( |$)' /etc/apt/sources.list /etc/apt/sources.list.d 2>/dev/null | head -n 1 || true)
  [ -n "$mirror" ] || return 1
  mkdir -p "$state/lists/partial" "$state/cache/archives/partial" && touch "$state/status"
  for suite in sid trixie-backports forky trixie; do
    echo "deb [signed-by=$key] $mirror $suite main"
  done >"$state/sources"
  local options=(-q -o "Dir::Etc::SourceList=$state/sources" -o Dir::Etc::SourceParts=/dev/null -o "Dir::State::Lists=$state/lists"
    -o "Dir::Cache=$state/cache" -o "Dir::State::status=$state/status" -o APT::Sandbox::User=root)
  apt-get "${options[@]}" update >/dev/null 2>&1 || true
  version=$(apt-cache "${options[@]}" madison rust-src 2>/dev/null | awk -F' *[|] *' -v of="$1" 'index($2, of "+") == 1 { print $2; exit }')
  [ -n "$version" ] || return 1
  (cd "$scratch" && apt-get "${options[@]}" download "rust-src=$version") && dpkg -x "$scratch"/rust-src_*.deb "$scratch/rust-src"
}

# A copy of the toolchain that has the standard library; the machine's own stays as it is.
build_std() {
  local sysroot version copy="$folder/toolchain" crate="$scratch/std"
  sysroot=$(rustc --print sysroot)
  version=$(rustc --version | awk '{ print $2 }')
  fetch_source "$version" || return 1
  rm -rf "$copy" && mkdir -p "$folder"
  cp -al "$sysroot" "$copy" 2>/dev/null || { rm -rf "$copy" && cp -a "$sysroot" "$copy"; }
  mkdir -p "$copy/lib/rustlib/src/rust" "$copy/lib/rustlib/$target/lib" "$crate/src"
  cp -a "$(find "$scratch/rust-src" -type d -path '*/library' -prune -print -quit)" "$copy/lib/rustlib/src/rust/"
  printf '[package]\nname = "std-of-browsers"\nedition = "2024"\n' >"$crate/Cargo.toml" && touch "$crate/src/lib.rs"
  # With bitcode, as optimising across crates wants it.
  (cd "$crate" && RUSTC_BOOTSTRAP=1 RUSTFLAGS=-Cembed-bitcode=yes RUSTC="$copy/bin/rustc" CARGO_TARGET_DIR="$crate/target" \
    "$copy/bin/cargo" build -q --release --target $target -Zbuild-std=std,panic_abort,proc_macro)
  cp "$crate/target/$target/release/deps/"*.r{lib,meta} "$copy/lib/rustlib/$target/lib/"
}

# Sets `cargo` and PATH to a toolchain that compiles for $target; fails where Debian has no rust-src of rustc's version.
need_browser_std() {
  if ! has_std rustc; then rustup target add $target >/dev/null 2>&1 || true; fi
  if has_std rustc; then return; fi
  cargo=$folder/toolchain/bin/cargo
  if ! [ "$("$folder/toolchain/bin/rustc" --version 2>/dev/null)" = "$(rustc --version)" ] || ! has_std "$folder/toolchain/bin/rustc"; then
    build_std || return 1
  fi
  PATH=$folder/toolchain/bin:$PATH
}
