"""`python -m tests.fuzz TARGET --seconds N`: look for inputs that break a target, by atheris (libFuzzer).

Ends with 0, or with the input that broke it, which is written to `--findings` and shown.
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["mixer"]):
    from tests.fuzz import targets
from tests.fuzz import corpus

LONGEST = 4096  # bytes of an input
SLOWEST = 2.0  # seconds of processor time that one may take
MEMORY = 1024  # MiB that the process may have


def main() -> None:
    parser = argparse.ArgumentParser("python -m tests.fuzz")
    parser.add_argument("target", choices=[*targets.TARGETS, "all"])
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--seed", type=int, default=0, help="0: another one each time")
    parser.add_argument("--findings", type=Path, default=Path(tempfile.gettempdir()))
    chosen = parser.parse_args()
    known = targets.every_input() if chosen.target == "all" else corpus(chosen.target)
    with atheris.instrument_imports(include=["mixer"]):  # some is imported when it is first needed
        target = targets.every() if chosen.target == "all" else targets.TARGETS[chosen.target]()
        for data in known.values():
            targets.judged(target, data)

    def one(data: bytes) -> None:
        started = time.process_time()
        targets.judged(target, data)
        if (took := time.process_time() - started) > SLOWEST:
            raise TimeoutError(f"took {took:.1f} s")

    folder = Path(tempfile.mkdtemp())
    for name, data in known.items():
        (folder / name).write_bytes(data)
    options = [
        *(f"-max_total_time={chosen.seconds}", f"-max_len={LONGEST}", f"-rss_limit_mb={MEMORY}"),
        *(
            "-timeout=120",
            f"-artifact_prefix={chosen.findings}/{chosen.target}-",
            "-print_final_stats=1",
            f"-seed={chosen.seed}",
        ),
    ]
    atheris.Setup([sys.argv[0], *options, str(folder)], one)
    atheris.Fuzz()


if __name__ == "__main__":
    with targets.quiet():
        main()
