# Read by the scripts that check and build: steps, and the packages that a bare Debian machine (or one of its kin) lacks.
# shellcheck shell=bash
program=scripts/$(basename "$0")
step="preparation" skipped="" scratch=$(mktemp -d) beside=""
finish() {
  local status=$?
  if [ -n "$beside" ]; then
    kill -- "-$beside" 2>/dev/null || true
    wait "$beside" 2>/dev/null || true
  fi
  rm -rf "$scratch"
  if [ "$status" = 0 ]; then echo "$program: everything passed in $SECONDS s${skipped:+ (skipped, because not installed:$skipped)}"
  else echo "$program: FAILED at: $step"; fi
}
trap finish EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

die() { echo "$program: $*" >&2; exit 1; }
# Starts a command beside the script, in a process group of its own that does not outlive it; one at a time.
start_beside() { set -m; "$@" & beside=$!; set +m; }
# Waits for it; fails where it failed.
await_beside() {
  local status=0
  wait "$beside" || status=$?
  beside=""
  return $status
}
run() { step="$*"; printf '\n== %s [at %s s]\n' "$step" "$SECONDS"; "$@"; }

as_root() {
  if [ "$(id -u)" = 0 ]; then "$@"
  elif command -v sudo >/dev/null; then sudo "$@"
  else die "this needs root: $*. Run as root, install sudo, or install the packages yourself"; fi
}

# A copy of apt's sources that also holds the release's backports, taken from the machine's own entry: same mirror, same key.
# The machine's configuration stays as it is. Debian 12 only; its own Mesa is from 2022, its backports have Mesa 25.
backports_suite=""
prepare_apt() {
  command -v apt-get >/dev/null || die "$1 is missing and there is no apt-get here; install it, then run this again"
  [ ! -f "$scratch/ready" ] || return 0
  mkdir "$scratch/sources" && chmod 755 "$scratch" "$scratch/sources"
  cp /etc/apt/sources.list.d/*.list /etc/apt/sources.list.d/*.sources "$scratch/sources" 2>/dev/null || true
  [ ! -f /etc/apt/sources.list ] || cp /etc/apt/sources.list "$scratch/sources/main.list"
  local codename added="$scratch/sources/zz-backports"
  # shellcheck source=/dev/null
  codename=$(. /etc/os-release && echo "${VERSION_CODENAME:-}")
  if [ "$codename" = bookworm ]; then
    backports_suite=$codename-backports
    if ! grep -qs "$backports_suite" "$scratch"/sources/*; then
      local entry='deb[[:space:]]+(\[[^]]*\][[:space:]]+)?[^[:space:]]+[[:space:]]+'
      cat "$scratch"/sources/*.list 2>/dev/null |
        sed -nE "s/^($entry)$codename([[:space:]])/\1$backports_suite\3/p" >"$added.list" || true
      local file
      for file in "$scratch"/sources/*.sources; do
        [ -f "$file" ] || continue
        awk -v RS= -v ORS='\n\n' -v from="$codename" -v to="$backports_suite" '
          !/(^|\n)Enabled:[ \t]*no/ && $0 ~ "(^|\n)Suites:([^\n]*[ \t])?" from "([ \t\n]|$)" {
            sub(/(^|\n)Suites:[^\n]*/, "\nSuites: " to); print }' "$file"
      done >"$scratch/stanzas"
      mv "$scratch/stanzas" "$added.sources"
    fi
  fi
  apt_options=(-o Dir::Etc::SourceList=/dev/null -o "Dir::Etc::SourceParts=$scratch/sources" -o APT::Get::List-Cleanup=0)
  if ! as_root apt-get -q "${apt_options[@]}" update; then
    rm -f "$added".*; backports_suite=""
    as_root apt-get -q "${apt_options[@]}" update
  fi
  touch "$scratch/ready"
}
install() { as_root env DEBIAN_FRONTEND=noninteractive apt-get -q -y "${apt_options[@]}" install --no-install-recommends "$@"; }

vulkan_driver_present() {
  [ "$(uname)" = Linux ] || return 0 # elsewhere the system brings its own graphics API
  [ -z "${VK_DRIVER_FILES:-}${VK_ICD_FILENAMES:-}" ] || return 0
  [ -n "$(find /usr/lib /usr/lib64 /usr/local/lib -name libvulkan.so.1 -print -quit 2>/dev/null)" ] &&
    [ -n "$(find /usr/share/vulkan/icd.d /usr/local/share/vulkan/icd.d /etc/vulkan/icd.d -name '*.json' -print -quit 2>/dev/null)" ]
}

need_cargo() { command -v cargo >/dev/null || die "cargo is missing; install Rust (version in Cargo.toml) first"; }

need_c_compiler() {
  command -v cc >/dev/null && return
  prepare_apt "a C compiler (cc)"
  run install gcc libc6-dev
}

# Mesa's drivers: the software one, and AMD's, whose compiler needs no GPU.
install_mesa() {
  { [ -n "$backports_suite" ] && run install -t "$backports_suite" mesa-vulkan-drivers libvulkan1; } ||
    run install mesa-vulkan-drivers libvulkan1
}

need_vulkan_driver() {
  vulkan_driver_present && return
  prepare_apt "a Vulkan driver"
  echo "no Vulkan driver found: installing Mesa's software driver"
  install_mesa
}

# Node 18 or later, with npm.
need_node() {
  if command -v node >/dev/null && command -v npm >/dev/null; then
    [ "$(node -p 'process.versions.node.split(".")[0] >= 18')" = true ] || die "Node 18 or later is needed, here is $(node --version)"
    return
  fi
  prepare_apt "Node"
  run install nodejs npm
}

need_chromium() {
  [ -z "${CHROMIUM:-}" ] || return 0
  if command -v chromium >/dev/null || command -v google-chrome >/dev/null; then return; fi
  prepare_apt "Chromium"
  run install chromium
}

# With a Vulkan driver, which Firefox does not bring. Where there is no apt-get its tests may be left out.
need_firefox() {
  if command -v apt-get >/dev/null; then need_vulkan_driver; fi
  if [ -n "${FIREFOX:-}" ] || command -v firefox-esr >/dev/null; then return; fi
  command -v apt-get >/dev/null || { skipped+=" Firefox"; return 0; }
  prepare_apt "Firefox"
  run install firefox-esr || skipped+=" Firefox"
}
