# shellcheck shell=bash
# SPDX-License-Identifier: MIT
# Completion for bash. Commands, options and mount options are those that the
# program's own --help names, so there is no list here to keep up.

# Mount points, or with SOURCE their stores, that begin with the current word.
_pipcachefs_mounts() {
	local path
	while IFS= read -r path; do
		[[ $path != "$cur"* ]] || COMPREPLY+=("$path")
	done < <(findmnt -n -l -v -t fuse.pipcachefs -o "$1" 2>/dev/null | sort -u)
	compopt -o filenames
}

# _pipcachefs_from TEXT...: those that begin with the current word.
_pipcachefs_from() {
	mapfile -t -O "${#COMPREPLY[@]}" COMPREPLY < <(compgen -W "$*" -- "$cur")
}

# The last one of the keys after -o, or a value of it that is a plain word.
_pipcachefs_mount_options() {
	local before='' help key
	[[ $cur != *,* ]] || before=${cur%,*},
	cur=${cur##*,}
	key=${cur%%=*}
	help=$("$program" mount --help 2>/dev/null | sed -n '/^OPTS:/,$p')
	if [[ $cur == *=* ]]; then
		[[ $key =~ ^[a-z_]+$ ]] || return
		before+=$key=
		help=$(sed -n "s/^  $key=\([^ ]*\).*/\1/p" <<<"$help" |
			tr '|' '\n' | grep -x '[a-z]*')
		cur=${cur#*=}
	else
		help=$(sed -n 's/^  \([a-z_]*=\{0,1\}\).*/\1/p
			s/^and what .* all: //p' <<<"$help" | tr -d ,.)
	fi
	_pipcachefs_from "$help"
	COMPREPLY=("${COMPREPLY[@]/#/$before}")
	compopt -o nospace
}

# The words of a command: where it wants paths, which ones.
_pipcachefs_argument() {
	case $command in
	umount | upgrade) _pipcachefs_mounts TARGET ;;
	attach)
		if [[ ${words[cword - 1]} == attach ]]; then
			_pipcachefs_from docker buildah
		else
			_pipcachefs_mounts TARGET
		fi
		;;
	mount) _filedir -d ;;
	reload) _filedir ;;
	*)
		_pipcachefs_mounts TARGET
		_pipcachefs_mounts SOURCE
		_filedir -d
		;;
	esac
}

_pipcachefs() {
	local cur prev words cword program command typed
	_init_completion -n = || return
	program=${words[0]}
	command=${words[1]}
	typed=$cur
	if [[ $cword -eq 1 && $cur != */* ]]; then
		_pipcachefs_from --help --version "$("$program" --help 2>/dev/null |
			sed -n 's/^  \([a-z][a-z]*\) .*/\1/p')"
	elif [[ $command == mount && $prev == -o ]]; then
		_pipcachefs_mount_options
	elif [[ $command == mount && $cur == --options=* ]]; then
		cur=${cur#*=}
		_pipcachefs_mount_options
		COMPREPLY=("${COMPREPLY[@]/#/--options=}")
	elif [[ $command == mount && $prev == @(-c|--config) ]]; then
		_filedir
	elif [[ $command == mount && $cur == --config=* ]]; then
		cur=${cur#*=}
		_filedir
		COMPREPLY=("${COMPREPLY[@]/#/--config=}")
	elif [[ $cur == -* ]]; then
		_pipcachefs_from "$(_parse_help "$program" "$command --help")"
		[[ ${COMPREPLY[*]} != *= ]] || compopt -o nospace
	else
		_pipcachefs_argument
	fi
	# Where a "=" parts words, only what comes after it is replaced.
	[[ $COMP_WORDBREAKS != *=* ]] ||
		COMPREPLY=("${COMPREPLY[@]#"${typed%"${typed##*=}"}"}")
}
complete -F _pipcachefs pipcachefs
