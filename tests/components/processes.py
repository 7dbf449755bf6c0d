"""Context managers that start each real component on a free port of 127.0.0.1, or on a Unix socket.

Each yields once the component really answers, and stops it by its pid at the end. `cpu` pins it to one core.
"""

from tests.components.backends import Kafka, Opa, RateLimit, Redis, kafka, opa, ratelimit, redis
from tests.components.fronts import Envoy, Mixer, envoy, mixer
from tests.components.server import Server, ServerT, StartError, free_port, wait_until

__all__ = [
    "Envoy",
    "Kafka",
    "Mixer",
    "Opa",
    "RateLimit",
    "Redis",
    "Server",
    "ServerT",
    "StartError",
    "envoy",
    "free_port",
    "kafka",
    "mixer",
    "opa",
    "ratelimit",
    "redis",
    "wait_until",
]
