"""Where the example policies and the Envoy configuration are: in the wheel, or in the source checkout."""

from pathlib import Path

from mixer.errors import StartError

_PACKAGE = Path(__file__).parent
_CHECKOUT = _PACKAGE.parents[1]


def policies() -> Path:
    """The folder of the example policies; its subfolder `limits` holds the example rate limits."""
    return _first(_PACKAGE / "policies", _CHECKOUT / "policies")


def envoy_configuration() -> Path:
    """The example Envoy configuration."""
    return _first(_PACKAGE / "envoy" / "envoy.yaml", _CHECKOUT / "deploy" / "envoy" / "envoy.yaml")


def _first(*candidates: Path) -> Path:
    for path in candidates:
        if path.exists():
            return path
    raise StartError(
        f"{candidates[0]} is missing: this installation of mixer is not complete, install it again"
    )
