# The dispatcher on a node: POSIX sh, which session.py sends over the ssh session that it then serves.
#
# It is preceded by two assignments, token, which begins each reply, and owner, which names the daemon's folder, and by
# processes.sh. A request is a line of words; bytes that it announces follow, in one piece, and nothing follows them
# before the reply: "head -c" of busybox and of BSD reads ahead. Each reply is "TOKEN ok|gone|error LENGTH" and so many
# bytes.
#
# Below $base each run has a folder: status, control and log, as nexus-shim.c describes them; boot, the boot in which it
# was started; and where the shim cannot run, out, err and what runner.sh writes. spec and stdin exist for a moment only.
LC_ALL=C
export LC_ALL
umask 077
trap : HUP INT TERM PIPE # and not '', which what it starts would inherit
base=${XDG_STATE_HOME:-${HOME-}/.local/state}/nexus/node-$owner

say() { # STATUS TEXT
    printf '%s %s %d\n%s' "$token" "$1" "${#2}" "$2"
}

read_boot() {
    boot=-
    { IFS= read -r boot <"${NEXUS_BOOT_ID_FILE:-/proc/sys/kernel/random/boot_id}"; } 2>/dev/null
}

claim() { # notes in $base which dispatcher serves this daemon; a daemon has one session at a time
    find_start $$
    printf '%s %s\n' "$$" "$start" 2>/dev/null >"$base/dispatcher"
}

replace() { # ends the dispatcher of a session that was cut, which may still be at work
    { read -r pid start; } 2>/dev/null <"$base/dispatcher" || return 0
    [ "$pid" != $$ ] && [ "${start:-0}" -gt 0 ] && is_alive "$pid" "$start" && kill -9 "$pid"
    claim
}

hello() {
    replace
    read_boot
    text="system $(uname -s) $(uname -m)
boot $boot
base $base
address ${SSH_CONNECTION-}
"
    command -v setsid >/dev/null 2>&1 && text="${text}setsid
"
    for name in PATH HOME USER LOGNAME SHELL LANG TZ TMPDIR XDG_RUNTIME_DIR; do
        eval "value=\${$name-}"
        case $value in
        '' | *'
'*) ;;
        *) text="${text}env $name=$value
" ;;
        esac
    done
    say ok "$text"
}

take() { # FILE LENGTH: appends the bytes; reads all of them, also where they cannot be written; sets problem
    before=$(wc -c 2>/dev/null <"$1") || before=0
    said=$({ [ "$2" -eq 0 ] || head -c "$2"; } | { cat >>"$1" || cat >/dev/null; } 2>&1)
    size=$(wc -c 2>/dev/null <"$1") || size=0
    if [ "$size" -ne $((before + $2)) ]; then
        problem=${problem:-${said:-$1 has $size bytes of $((before + $2))}}
    fi
}

needed= # the size of what runs programs, unless it is here

expect() { # NAME LENGTH: says whether this file is here as a whole; its name tells its content
    size=$(wc -c 2>/dev/null <"$base/$1") || size=-1
    if [ "$size" -eq "$2" ]; then
        needed=
        say ok ''
    else
        needed=$2
        say gone ''
    fi
}

put() { # NAME LENGTH
    problem=$(mkdir -p "$base" 2>&1)
    claim
    rm -f "$base/${1%%-*}"-* # of another version; what runs has it open
    take "$base/$1.new" "$2"
    if [ -z "$problem" ]; then
        problem=$({ chmod 700 "$base/$1.new" && mv "$base/$1.new" "$base/$1"; } 2>&1)
    fi
    if [ -n "$problem" ]; then
        rm -f "$base/$1.new"
        say error "$problem"
    else
        needed=
        say ok ''
    fi
}

discard() { # removes $dir, in which a script that ends at this moment may still write
    rm -rf "$dir" 2>/dev/null
    [ -d "$dir" ] || return 0
    sleep 1
    rm -rf "$dir" 2>/dev/null
}

make_run() { # RUN: makes its folder, dir; sets problem
    dir=$base/$1
    read_boot
    # The space of the status file is allocated now: a disk that fills up later loses no exit code.
    problem=$({
        mkdir -p "$base" && mkdir "$dir" "$dir/log" && mkfifo "$dir/control" &&
            printf '%512s' '' | cat >"$dir/status" && printf '%s\n' "$boot" | cat >"$dir/boot" # cat says why not
    } 2>&1)
}

give() { # RUN OFFSET LENGTH: the next piece of the standard input of a run that is to begin
    dir=$base/$1
    problem=
    [ "$2" -eq 0 ] && make_run "$1"
    take "$dir/stdin" "$3"
    if [ -n "$problem" ]; then
        discard
        say error "$problem"
    else
        say ok ''
    fi
}

run() { # RUN RUNNER SPEC_BYTES STDIN_BYTES; RUNNER is the name of a file that was put;
    # STDIN_BYTES is - where its standard input is /dev/null, else it was given.
    dir=$base/$1
    problem=
    given=
    input=/dev/null
    if [ "$4" = - ]; then
        make_run "$1"
    else
        given=8
        input=$dir/stdin
        size=$(wc -c 2>/dev/null <"$input") || size=0
        [ "$size" -eq "$4" ] || problem="$input has $size bytes of $4"
    fi
    take "$dir/spec" "$3"
    if [ -n "$problem" ]; then
        discard
        say error "$problem"
        return
    fi
    case $2 in
    shim-*)
        report=$({
            "$base/$2" "node/$1" 3 4 5 6 7 $given 3<"$dir/spec" 4>&1 5<"$dir" 6<"$dir/log" 7<"$dir/boot" \
                8<"$input" </dev/null >/dev/null 2>&1 &
        } 2>&1)
        ;;
    *)
        report=$({
            setsid sh "$base/$2" "$dir" 3<"$dir/spec" 4>&1 8<"$input" </dev/null >/dev/null 2>&1 &
        } 2>&1)
        ;;
    esac
    rm -f "$dir/spec" "$dir/stdin"
    case $report in
    ok*)
        read_status
        set -- $began
        report="ok ${4-}"
        ;;
    *) discard ;;
    esac
    say ok "$report"
}

read_status() {
    began= ended= finished=
    { read -r began; read -r ended; read -r finished; } 2>/dev/null <"$dir/status"
}

look() { # adds to text what is known of the run in $dir
    was=-
    { read -r was; } 2>/dev/null <"$dir/boot" || return 0
    read_status
    alive=1
    set -- $began
    if ! is_alive "${7-}" "${8-0}"; then
        alive=0
        read_status # once more: all that the runner wrote before its end is there
    fi
    text="${text}run ${dir##*/} $alive $was
$began
$ended
$finished
"
}

poll() {
    read_boot
    text="boot $boot
"
    for dir in "$base"/*/; do
        dir=${dir%/}
        [ -d "$dir" ] && look
    done
    text="$text$(cd "$base" 2>/dev/null && wc -c */log/[0-9]* */out */err 2>/dev/null)"
    say ok "$text"
}

tail_of() { # RUN FILE OFFSET LENGTH: so many bytes, with NUL where the file has become shorter
    opened=
    {
        opened=1
        printf '%s ok %d\n' "$token" "$4"
        {
            tail -c "+$(($3 + 1))"
            cat /dev/zero
        } 2>/dev/null | head -c "$4"
    } 2>/dev/null <"$base/$1/$2"
    [ -n "$opened" ] || say gone ''
}

cancel() { # RUN SIGNAL GRACE_MS: where the shim runs it, it sees to the grace time
    dir=$base/$1
    if [ -f "$dir/out" ]; then
        read_status
        set -- "$2" $began
        [ -n "${5-}" ] && is_alive "$5" "$6" && kill -s "$1" -- "-$5" 2>/dev/null
        # The runner ends what is in other groups, once the main process has ended.
    elif [ -p "$dir/control" ]; then
        printf 'stop %s %s\n' "$2" "$3" 2>/dev/null 1<>"$dir/control"
    fi
    say ok ''
}

sweep() { # RUN: kills what its runner has left
    dir=$base/$1
    read_status
    set -- "$1" $began
    end_all "$1" "${5:-0}" "${6-0}"
    say ok "$found"
}

tidy() { # removes what is there for all runs, once there is none
    for dir in "$base"/*/; do
        [ -d "$dir" ] && return
    done
    rm -f "$base"/shim-* "$base"/runner-* "$base/dispatcher" "$base"/*.new
    rmdir "$base" "${base%/*}" 2>/dev/null
}

remove() { # RUN
    dir=$base/$1
    discard
    say ok ''
}

probe() {
    text="cores $(getconf _NPROCESSORS_ONLN 2>/dev/null || nproc 2>/dev/null || echo 1)
os $(uname -s)
arch $(uname -m)
"
    for tool in sh bash setsid git docker podman python3 node make gcc tar rsync systemctl; do
        path=$(command -v "$tool" 2>/dev/null) || continue
        version=
        case $tool in
        sh | setsid | node | systemctl) ;;
        *) version=$("$tool" --version </dev/null 2>/dev/null | head -n 1) ;;
        esac
        [ "$tool" = node ] && version=$(node --version </dev/null 2>/dev/null)
        text="${text}tool $tool $version
"
    done
    # As much as a job needs to begin. It is written by cat, which says why it cannot be.
    space=$((${needed:-0} + 16384))
    problem=$({ mkdir -p "$base" && head -c "$space" /dev/zero | cat >"$base/probe.new"; } 2>&1)
    rm -f "$base/probe.new"
    [ -n "$problem" ] && text="${text}problem $(printf '%s' "$problem" | head -n 1)
"
    say ok "$text"
}

hello
while IFS=' ' read -r word one two three four; do
    case $word in
    expect) expect "$one" "$two" ;;
    put) put "$one" "$two" ;;
    give) give "$one" "$two" "$three" ;;
    run) run "$one" "$two" "$three" "$four" ;;
    poll) poll ;;
    tail) tail_of "$one" "$two" "$three" "$four" ;;
    cancel) cancel "$one" "$two" "$three" ;;
    sweep) sweep "$one" ;;
    remove) remove "$one" ;;
    probe) probe ;;
    bye) break ;;
    *) say error "$word is no request" ;;
    esac
done
tidy
