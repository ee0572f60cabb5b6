# What dispatcher.sh and runner.sh know of processes. Both are sent with this before them.

find_start() { # PID: sets start, 0 where /proc does not tell it
    start=0
    { IFS= read -r stat <"/proc/$1/stat"; } 2>/dev/null || return 0
    set -- ${stat##*) }
    start=${20}
}

is_alive() { # PID START
    [ -n "$1" ] && kill -0 "$1" 2>/dev/null || return 1
    [ -r "/proc/$1/stat" ] || return 0
    IFS= read -r stat <"/proc/$1/stat" || return 1
    set -- "$2" ${stat##*) }
    # The state is the third field of the file, and the start the 22nd. A zombie is none that runs.
    [ "$2" != Z ] && { [ "$1" -eq 0 ] || [ "$1" = "${21}" ]; }
} 2>/dev/null

end_all() { # RUN SESSION START: kills all by the session and by the run's id in the environment; sets found, those left
    # A leader of another start is that of a session that is none of the run's.
    find_start "$2"
    [ "$start" -ne 0 ] && [ "$3" -ne 0 ] && [ "$start" != "$3" ] && set -- "$1" 0
    round=0
    while [ "$round" -lt 50 ]; do
        round=$((round + 1))
        found=
        for process in /proc/[0-9]*; do
            { IFS= read -r stat <"$process/stat"; } 2>/dev/null || continue
            rest=${stat##*) }
            case $rest in Z*) continue ;; esac
            rest=${rest#* * * }
            if [ "$2" -gt 0 ] && [ "${rest%% *}" = "$2" ]; then
                found="$found ${process##*/}"
            fi
        done
        for process in $(grep -l "NEXUS_RUN_ID=$1" /proc/[0-9]*/environ 2>/dev/null); do
            process=${process#/proc/}
            found="$found ${process%/environ}"
        done
        [ -n "$found" ] || break
        kill -9 $found 2>/dev/null
    done
}
