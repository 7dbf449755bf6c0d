"""The candidate's process: reads requests from standard input, evaluates them, writes what came out.

It gives way to everything else of the machine: last in line for the processor, first to be ended where memory is short.
It ends with its input, and with its parent.
"""

import asyncio
import contextlib
import ctypes
import os
import pickle
import signal
import sys
from pathlib import Path

import orjson

from mixer import config, log
from mixer.errors import LoadError
from mixer.runtime import ENGINES, bodies_of
from mixer.shadow.frames import frame, read
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
    policy, logging = pickle.loads(settings)  # noqa: S301 (of the parent, which started this)
    log.setup(logging)
    try:
        judge = asyncio.run(_judge(policy))
    except LoadError as error:
        problems = [(problem.file, problem.path, problem.expected, problem.got) for problem in error.problems]
        answers.write(frame(orjson.dumps({"problems": problems})))
        return
    answers.write(frame(orjson.dumps({"revision": judge.revision})))
    while (request := read(requests)) is not None:
        answers.write(frame(orjson.dumps(judge(request))))


async def _judge(policy: config.Policy) -> Judge:
    engine = ENGINES[policy.engine](policy, ())
    await engine.start()
    return Judge(engine, bodies_of(policy))


if __name__ == "__main__":
    main()
