"""The output of jobs: bounded, with its end intact, whatever bytes it has."""

from __future__ import annotations

import os
import threading

import pytest
from support.jobs import Jobs
from support.raw import wait_until
from support.services import write_fifo
from support.soak import SOAK

from nexus.jobs.commands import GetJobOutput, WaitJobs
from nexus.jobs.errors import JobCursorInvalid
from nexus.jobs.states import JobStatus

KIB = 1024
MIB = 1024 * KIB
END = 64 * KIB


def test_record_has_the_last_64_kib_of_each_stream(jobs: Jobs) -> None:
    job = jobs.ended(
        jobs.submit("seq 1 20000; seq 100001 120000 >&2; printf out-end; printf err-end >&2", log_limit_mib=4)
    )
    out = "".join(f"{number}\n" for number in range(1, 20001)) + "out-end"
    err = "".join(f"{number}\n" for number in range(100_001, 120_001)) + "err-end"
    assert (job.stdout, job.stderr) == (out[-END:], err[-END:])
    assert jobs.output(job, stream="stdout") == out.encode()
    assert jobs.output(job, stream="stderr") == err.encode()
    listed = jobs.all()[0]
    assert (listed.stdout, listed.stderr, listed.output_bytes) == (None, None, job.output_bytes)


def test_bytes_that_are_no_text_are_kept_in_the_log_and_replaced_in_the_record(jobs: Jobs) -> None:
    job = jobs.ended(jobs.submit(r"printf 'a\0b\377\303(\n\342\202'"))
    assert job.stdout == "a\ufffdb\ufffd\ufffd(\n\ufffd"
    assert jobs.output(job) == b"a\0b\xff\xc3(\n\xe2\x82"


def test_end_begins_with_a_whole_character_and_is_bounded_in_bytes(jobs: Jobs) -> None:
    job = jobs.ended(jobs.submit("yes é | head -c 300001 | tr -d '\\n'"))
    assert job.stdout is not None
    assert not job.stdout.startswith("\ufffd")
    assert job.stdout.strip("é") in ("", "\ufffd")
    job = jobs.ended(jobs.submit(r"yes | head -c 300000 | tr 'y\n' '\377\376'; exit 3"))
    assert job.stdout is not None
    assert len(job.stdout.encode()) <= END
    assert set(job.stdout) == {"\ufffd"}


def test_lines_of_10_mb_and_none_at_all(jobs: Jobs) -> None:
    job = jobs.ended(jobs.submit("head -c 10000000 /dev/zero | tr '\\0' x; echo; printf tail", log_limit_mib=32))
    output = jobs.output(job)
    assert output == b"x" * 10_000_000 + b"\ntail"
    assert job.stdout is not None
    assert job.stdout.endswith("x\ntail")
    assert jobs.output(job, lines=1) == b"tail"
    job = jobs.ended(jobs.submit("true"))
    assert (job.stdout, job.stderr, job.output_bytes, jobs.output(job)) == (None, None, 0, b"")


@pytest.mark.parametrize("size_mib", [64, *([1024] if SOAK > 1 else [])])
@pytest.mark.soak
@pytest.mark.slow
def test_output_is_bounded_and_its_end_intact(jobs: Jobs, size_mib: int) -> None:
    line = "0123456789abcdef" * 8
    job = jobs.submit(
        f"yes {line} | head -c {size_mib * MIB}; printf '\\nthe end\\n'; printf 'err end\\n' >&2", log_limit_mib=1
    )
    jobs.client.sock.settimeout(600)
    jobs.client.call(WaitJobs(jobs=[job.id]))
    job = jobs.get(job)
    assert job.status is JobStatus.COMPLETED
    assert job.stdout is not None
    assert job.stdout.endswith(f"{line[: (size_mib * MIB) % 129]}\nthe end\n")
    assert job.stderr == "err end\n"
    assert job.output_bytes is not None
    on_disk = sum(path.stat().st_size for path in jobs.folder(job).rglob("*") if path.is_file())
    assert job.output_bytes <= on_disk <= 2 * MIB
    kept = jobs.output(job, stream="stdout")
    assert kept.endswith(b"\nthe end\n")
    assert set(kept[:-9].split(b"\n")[1:-1]) == {line.encode()}


def test_follow_begins_before_the_job_and_ends_with_it(jobs: Jobs) -> None:
    job = jobs.hold(stashed=True)
    loud = jobs.submit("echo one; sleep 0.2; echo two", stashed=True, retries=1, retry_backoff_ms=0)
    found: dict[str, bytes] = {}

    def follow(name: str, id_: str) -> None:
        found[name] = jobs.output(id_, follow=True)

    threads = [threading.Thread(target=follow, args=each) for each in (("held", job.id), ("loud", loud.id))]
    for thread in threads:
        thread.start()
    jobs.enqueue(job)
    jobs.enqueue(loud)
    threads[1].join(60)
    assert found == {"loud": b"one\ntwo\n"}
    jobs.let_go(job)
    threads[0].join(60)
    assert found["held"] == b""


def test_follow_goes_on_through_all_attempts(jobs: Jobs) -> None:
    job = jobs.submit('echo "$NEXUS_RUN_ID"; exit 1', retries=2, retry_backoff_ms=10)
    output = jobs.output(job, follow=True)
    assert len(set(output.split())) == 3
    assert jobs.get(job).attempt == 3
    assert jobs.output(job) == output


def test_follow_ends_when_the_job_is_deleted(jobs: Jobs) -> None:
    job = jobs.submit(stashed=True)
    sequence = jobs.begin(GetJobOutput(job.id, follow=True, mark_start=True))
    assert next(jobs.client.items(sequence))
    jobs.delete(job)
    assert jobs.client.result(sequence) == {}


def test_cursor_continues_over_a_restart_of_the_daemon_and_is_gone_with_the_output(own: Jobs) -> None:
    os.mkfifo(own.root / "go")
    job = own.submit(f"echo one; read -r _ <'{own.root}/go'; echo two")
    wait_until(lambda: own.output(job) == b"one\n", "its first line")
    (piece,) = own.pieces(job)
    own.kill_daemon()
    sequence = own.begin(GetJobOutput(job.id, follow=True, cursor=piece.cursor))
    write_fifo(own.root / "go", "")
    assert b"".join(item["data"] for item in own.client.items(sequence)) == b"two\n"
    own.ended(job)
    assert own.output(job, cursor=piece.cursor) == b"two\n"
    with pytest.raises(JobCursorInvalid):
        own.output(job, cursor="nonsense")
    other = own.ended(own.submit("echo other"))
    with pytest.raises(JobCursorInvalid):
        own.output(other, cursor=piece.cursor)
