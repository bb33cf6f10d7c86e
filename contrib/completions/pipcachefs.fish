# SPDX-License-Identifier: MIT
# Completion for fish. Commands, options and mount options are those that the
# program's own --help names, so there is no list here to keep up.

function __pipcachefs_words
    commandline -opc
end

# Mount points, or with SOURCE their stores; written as fish does directories,
# which it may list too.
function __pipcachefs_mounts
    findmnt -n -l -v -t fuse.pipcachefs -o $argv[1] 2>/dev/null | sort -u |
        string replace -r '$' /
end

function __pipcachefs_commands
    set -l program (__pipcachefs_words)[1]
    $program --help 2>/dev/null | awk '
        /^  [a-z]/ { name = $1; next }
        /^ +[a-z]/ && name { sub(/^ +/, ""); print name "\t" $0; name = "" }'
    printf '%s\n' --help --version
end

function __pipcachefs_options
    set -l words (__pipcachefs_words)
    $words[1] $words[2] --help 2>/dev/null | awk '
        /^ +-/ {
            text = $0
            sub(/^ *(-[a-z], )?--[a-z-]+(=[^ ]+)? */, "", text)
            match($0, /--[a-z-]+=?/)
            print substr($0, RSTART, RLENGTH) "\t" text
        }'
end

# The last one of the keys after -o, or a value of it that is a plain word.
function __pipcachefs_mount_options
    set -l program (__pipcachefs_words)[1]
    set -l help ($program mount --help 2>/dev/null | sed -n '/^OPTS:/,$p')
    set -l current (string replace -r '^--options=' '' -- (commandline -ct))
    set -l before (string match -r '^.*,' -- $current; or echo '')
    set -l last (string replace -r '^.*,' '' -- $current)
    string match -q -- '--options=*' (commandline -ct)
    and set before "--options=$before"
    if string match -q '*=*' -- $last
        set -l key (string replace -r '=.*' '' -- $last)
        string match -qr '^[a-z_]+$' -- $key
        or return
        printf '%s\n' $help | sed -n "s/^  $key=\([^ ]*\).*/\1/p" |
            tr '|' '\n' | grep -x '[a-z]*' | string replace -r '^' -- "$before$key="
    else
        printf '%s\n' $help | sed -n 's/^  \([a-z_]*=\{0,1\}\).*/\1/p
            s/^and what .* all: //p' | tr -d ',.' | tr ' ' '\n' |
            string replace -r '^' -- $before
    end
end

# What the word at the cursor is: command, mount-options, option, engine,
# mounted, stores, directory, or file.
function __pipcachefs_wants
    set -l words (__pipcachefs_words)
    set -l current (commandline -ct)
    set -l command $words[2]
    if not set -q words[2]; and not string match -q '*/*' -- $current
        echo command
    else if test "$command" = mount; and test "$words[-1]" = -o
        echo mount-options
    else if test "$command" = mount; and string match -q -- '--options=*' $current
        echo mount-options
    else if test "$command" = mount; and contains -- $words[-1] -c --config
        echo file
    else if test "$command" = mount; and string match -q -- '--config=*' $current
        echo file
    else if string match -q -- '-*' $current
        echo option
    else if contains -- "$command" umount upgrade
        echo mounted
    else if test "$command" = attach; and not set -q words[3]
        echo engine
    else if test "$command" = attach
        echo mounted
    else if test "$command" = mount
        echo directory
    else if test "$command" = reload
        echo file
    else
        echo stores
    end
end

function __pipcachefs
    switch (__pipcachefs_wants)
        case command
            __pipcachefs_commands
        case mount-options
            __pipcachefs_mount_options
        case option
            __pipcachefs_options
        case engine
            printf '%s\n' docker buildah
        case mounted
            __pipcachefs_mounts TARGET
        case stores
            __pipcachefs_mounts TARGET
            __pipcachefs_mounts SOURCE
            __fish_complete_directories (commandline -ct) ''
        case directory
            __fish_complete_directories (commandline -ct) ''
        case file
            set -l option (string match -r '^--config=' -- (commandline -ct))
            __fish_complete_path (string replace -r '^--config=' '' -- (commandline -ct)) |
                string replace -r '^' -- "$option"
    end
end

complete -c pipcachefs -f -a '(__pipcachefs)'
