"""Masking, and the throttle."""

import json
import subprocess
import sys
from typing import Any

import pytest

from mixer.log import Throttle, mask

JWT = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJhbGljZSJ9.c2lnbmF0dXJl-_x"


def masked(**event: Any) -> dict[str, Any]:
    return dict(mask(None, "info", event))


@pytest.mark.parametrize(
    "key",
    ["token", "opa_token", "client_secret", "PASSWORD", "authorization", "Proxy-Authorization", "set-cookie"],
)
def test_value_under_the_name_of_a_secret_is_masked_whatever_it_is(key: str) -> None:
    assert masked(**{key: "abc"}) == {key: "***"}
    assert masked(**{key: {"deep": 1}}) == {key: "***"}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (f"token {JWT} is bad", "token *** is bad"),
        (f"Authorization: Bearer {JWT}", "Authorization: Bearer ***"),
        ("Bearer opaque-token-1", "Bearer ***"),
        ("bearer opaque-token-1", "bearer ***"),
        ("Basic YWxpY2U6c2VjcmV0", "Basic ***"),
        ("redis://user:pass@cache:6379/0 is away", "redis://***@cache:6379/0 is away"),
        ("rediss://:pass@cache:6379/0", "rediss://***@cache:6379/0"),
        ("redis://:p@ss:word@cache:6379", "redis://***@cache:6379"),
        ("from redis://a:b@one to redis://c:d@two", "from redis://***@one to redis://***@two"),
    ],
)
def test_text_that_looks_like_a_secret_is_masked(text: str, expected: str) -> None:
    assert masked(event=text, error=text) == {"event": expected, "error": expected}


@pytest.mark.parametrize(
    "text",
    [
        "127.0.0.1:9191",
        "http://127.0.0.1:8181/v1/data",
        "redis://cache:6379/0",
        "user@example.com",
        "https://example.com/@user",
        "eyJ is no token",
    ],
)
def test_other_text_stays(text: str) -> None:
    assert masked(error=text) == {"error": text}


def test_secret_within_a_list_or_a_mapping_is_masked() -> None:
    event = masked(headers={"authorization": "Bearer abc", "path": "/a"}, urls=["redis://:pass@cache", 1])
    assert event == {"headers": {"authorization": "***", "path": "/a"}, "urls": ["redis://***@cache", 1]}


def test_secret_within_an_object_is_masked() -> None:
    assert masked(error=ValueError(f"cannot parse {JWT}")) == {"error": "cannot parse ***"}


def logged(format: str, code: str) -> str:
    """What code that logs with this set-up writes to standard error, in a process of its own."""
    setup = (
        "import logging, structlog\n"
        "from mixer import config, log\n"
        f"log.setup(config.Logging(level='debug', format={format!r}))\n"
        f"jwt = {JWT!r}\n"
        "logger = structlog.get_logger()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", setup + code], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout == ""
    return done.stderr


EVENTS = """
logger.info("event", number=1, error=f"bad {jwt}")
logging.getLogger("library").warning("said %s", jwt, extra={"password": "hunter2"})
try:
    raise ValueError(f"cannot parse {jwt}")
except ValueError as error:
    logger.error("failed", exc_info=error)
    logging.getLogger("library").exception("failed too")
"""


def test_json_is_one_object_a_line_without_secrets() -> None:
    text = logged("json", EVENTS)
    assert JWT not in text
    assert "hunter2" not in text
    first, second, third, fourth = map(json.loads, text.splitlines())
    assert (first["event"], first["level"], first["number"], first["error"]) == (
        "event",
        "info",
        1,
        "bad ***",
    )
    assert first["timestamp"].endswith("Z")
    assert (second["event"], second["level"], second["password"]) == ("said ***", "warning", "***")
    assert "ValueError: cannot parse ***" in third["exception"]
    assert "ValueError: cannot parse ***" in fourth["exception"]


def test_console_is_for_people_without_secrets() -> None:
    text = logged("console", EVENTS)
    assert JWT not in text
    assert "hunter2" not in text
    assert "number=1" in text.splitlines()[0]
    assert text.count("ValueError: cannot parse ***") == 2
    assert "\x1b" not in text  # no colours where nobody looks at a terminal


def test_events_below_the_level_are_not_written() -> None:
    code = "log.setup(config.Logging(level='warning'))\nlogger.info('quiet')\nlogging.info('quiet')\n"
    assert logged("console", code) == ""


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_throttle_lets_one_through_and_counts_what_it_held_back() -> None:
    clock = Clock()
    throttle = Throttle(1.0, clock)
    assert throttle("kind") == 0
    assert [throttle("kind") for _ in range(3)] == [None] * 3
    clock.now = 0.999
    assert throttle("kind") is None
    clock.now = 1.0
    assert throttle("kind") == 4
    assert throttle("kind") is None
    clock.now = 10.0
    assert throttle("kind") == 1
    clock.now = 20.0
    assert throttle("kind") == 0


def test_throttle_keeps_kinds_apart() -> None:
    throttle = Throttle(1.0, Clock())
    assert throttle("one") == 0
    assert throttle("other") == 0
    assert throttle("one") is None
