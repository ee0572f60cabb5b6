# Runs one program on a node where the shim cannot: it is sent there as "runner", after processes.sh, and started with
# setsid.
#
# It is no subreaper: what leaves the program's session and has not the run's id in its environment outlives it; where
# there is no /proc, what leaves its group does. Output is not bounded, and "exit 143" and SIGTERM are the same to it. $1 is the run's folder; descriptor 4 takes the report, 8 is the program's standard input.
LC_ALL=C
export LC_ALL
umask 077
trap : HUP INT TERM
dir=$1

write_status() {
    printf '%s\n%s\n%s\n' "$began" "$ended" "$finished" >"$dir/status.new" && mv "$dir/status.new" "$dir/status"
}

now() { # sets now, in ms since 1970; where date tells no fraction of a second, /proc/uptime tells what has passed
    now=$(date +%s%N)
    case $now in
    *[!0-9]* | ??????????) ;;
    *)
        now=${now%??????}
        return
        ;;
    esac
    first=${first-$(date +%s)}
    now=$(date +%s)000
    { read -r uptime idle; } 2>/dev/null </proc/uptime || return 0
    uptime=$((${uptime%.*} * 100 + 1${uptime#*.} - 100))
    begin=${begin-$uptime}
    now=$(printf '%d%02d0' $((first + (uptime - begin) / 100)) $(((uptime - begin) % 100)))
}

began= ended= finished=
read -r boot <"$dir/boot"
find_start $$
own=$start
exec 5<>"$dir/control"
# The program waits for the line "go", so that none ever runs unrecorded.
setsid env -i sh "$dir/spec" <&8 >"$dir/out" 2>"$dir/err" 3<&- 5<&- 8<&- &
child=$!
find_start "$child"
now
began="run 1 $boot $child $start $now $$ $own 0 0 0"
write_status
printf 'go\n' >&5
exec 3<&- 4>&- 8<&-
while :; do
    wait "$child"
    code=$?
    kill -0 "$child" 2>/dev/null || break # else a signal has ended the wait
done
now
ended="exit $code 0 $now"
write_status
kill -s KILL -- "-$child" 2>/dev/null
end_all "${dir##*/}" "$child" "$start"
now
finished="done $now"
write_status
