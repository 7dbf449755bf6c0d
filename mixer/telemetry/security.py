"""How a broker is spoken to: TLS, and a name with its password."""

from typing import Any

from mixer import config
from mixer.trust import trust


def security(settings: config.KafkaSink) -> dict[str, Any]:
    """What aiokafka's clients take for it. Raises `LoadError` for certificates that cannot be used."""
    protocol = ("SASL_" if settings.sasl is not None else "") + (
        "SSL" if settings.tls is not None else "PLAINTEXT"
    )
    taken: dict[str, Any] = {"security_protocol": protocol}
    if settings.tls is not None:
        taken["ssl_context"] = trust(settings.tls)
    if (sasl := settings.sasl) is not None:
        taken["sasl_mechanism"] = sasl.mechanism
        taken["sasl_plain_username"] = sasl.username
        taken["sasl_plain_password"] = sasl.password.get_secret_value()
    return taken
