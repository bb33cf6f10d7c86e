# shellcheck shell=bash
# SPDX-License-Identifier: MIT
# Debian packages for the scripts of this tree; sourced, never run.

# shellcheck disable=SC2034 # the lists are for whoever sources this
BUILD_PACKAGES=(gcc libc6-dev make cmake pkg-config libfuse3-dev fuse3
	liblmdb-dev libxxhash-dev libssl-dev libjansson-dev libsystemd-dev
	libcurl4-openssl-dev)
# shellcheck disable=SC2034
TEST_PACKAGES=(check python3 python3-pytest python3-pytest-xdist
	python3-hypothesis python3-venv python3-yaml ca-certificates openssl
	e2fsprogs xfsprogs mount util-linux procps docker.io runc buildah podman
	uidmap debootstrap help2man man-db mandoc bash-completion zsh fish
	dpkg-dev file lintian systemd)

# packages_missing NAME...: print those that are not installed, one a line.
packages_missing() {
	local name
	for name in "$@"; do
		[[ $(dpkg-query -W -f '${db:Status-Status}' "$name" 2>/dev/null) == installed ]] ||
			printf '%s\n' "$name"
	done
}

# packages_install NAME...: install what is missing; silent, and without any
# use of the network, when nothing is. Fails with one line that says why.
packages_install() {
	local missing log
	if ! command -v apt-get >/dev/null; then
		printf 'note: no apt-get here; needed are the equivalents of: %s\n' "$*" >&2
		return 0
	fi
	mapfile -t missing < <(packages_missing "$@")
	[[ ${#missing[@]} -gt 0 ]] || return 0
	if [[ $EUID -ne 0 ]]; then
		printf 'error: run as root, or first: apt-get install %s\n' "${missing[*]}" >&2
		return 1
	fi
	printf 'installing %s\n' "${missing[*]}"
	log=$(mktemp)
	if ! { apt-get -qq update && DEBIAN_FRONTEND=noninteractive \
		apt-get -qq install --no-install-recommends "${missing[@]}"; } \
		</dev/null >"$log" 2>&1; then
		tail -n 20 "$log" >&2
		rm -f "$log"
		printf 'error: apt-get could not install: %s\n' "${missing[*]}" >&2
		return 1
	fi
	rm -f "$log"
}
