"""Context managers that start each real component on a free port of 127.0.0.1, or on a Unix socket.

Each yields once the component really answers, and stops it by its pid at the end. `cpu` pins it to one core.
"""

from tests.components.backends import (
    Kafka,
    Opa,
    Prometheus,
    RateLimit,
    Redis,
    kafka,
    kafka_pair,
    opa,
    prometheus,
    ratelimit,
    redis,
)
from tests.components.fronts import Envoy, Mixer, envoy, mixer
from tests.components.redis_fleet import Cluster, Guarded, cluster, guarded
from tests.components.server import Server, ServerT, StartError, free_port, wait_until

__all__ = [
    "Cluster",
    "Envoy",
    "Guarded",
    "Kafka",
    "Mixer",
    "Opa",
    "Prometheus",
    "RateLimit",
    "Redis",
    "Server",
    "ServerT",
    "StartError",
    "cluster",
    "envoy",
    "free_port",
    "guarded",
    "kafka",
    "kafka_pair",
    "mixer",
    "opa",
    "prometheus",
    "ratelimit",
    "redis",
    "wait_until",
]
