"""The candidate's process: reads requests from standard input, evaluates them, writes what came out.

It gives way to everything else of the machine: last in line for the processor, first to be ended where memory is short.
It ends with its input, and with its parent.
"""

import asyncio
import contextlib
import ctypes
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

import orjson

from mixer import config, log
from mixer.backends import bodies_of, candidate_of
from mixer.errors import LoadError
from mixer.shadow.frames import asked, frame, read
from mixer.shadow.judge import Judge

_PR_SET_PDEATHSIG = 1


def _give_way() -> None:
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)  # a signal to the whole group is for the parent, which drains
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)  # also out of an evaluation that does not end
    os.nice(19)
    with contextlib.suppress(OSError):  # not writable in some containers
        Path("/proc/self/oom_score_adj").write_text("1000")


def main() -> None:
    _give_way()
    requests, answers = sys.stdin.buffer, os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)  # what is printed must not get among the answers
    settings = read(requests)
    if settings is None:
        return
    told = orjson.loads(settings)
    tarballs = [tarball for _ in range(told["tarballs"]) if (tarball := read(requests)) is not None]
    policy, compared = config.Policy.model_validate(told["policy"]), told["compared"]
    log.setup(config.Logging.model_validate(told["logging"]))
    with asyncio.Runner() as runner:
        try:
            revision, judges = runner.run(_judges(policy, compared, tarballs, runner))
        except LoadError as error:
            problems = [
                (problem.file, problem.path, problem.expected, problem.got) for problem in error.problems
            ]
            answers.write(frame(orjson.dumps({"problems": problems})))
            return
        decisions = {live: judge.decision for live, judge in judges.items()}
        answers.write(frame(orjson.dumps({"revision": revision, "decisions": decisions})))
        while (request := read(requests)) is not None:
            live, message = asked(request)
            answers.write(frame(orjson.dumps(judges[live](message))))


async def _judges(
    policy: config.Policy,
    compared: dict[str, tuple[str, bool]],
    tarballs: Sequence[bytes],
    runner: asyncio.Runner,
) -> tuple[str, dict[str, Judge]]:
    engine, candidates = await candidate_of(policy, compared, tarballs)
    bodies = bodies_of(policy, written=True)
    return engine.revision, {live: Judge(each, bodies, runner.run) for live, each in candidates.items()}


if __name__ == "__main__":
    main()
