"""`yaml.is_valid`: whether text is YAML that has a form in JSON."""

import yaml

from mixer.policy import yaml_data


def _is_valid(text: object) -> bool:
    if not isinstance(text, str):
        return False
    try:
        yaml_data.load_all(text)
    except (yaml.YAMLError, ValueError, RecursionError):
        return False
    return True


BUILTINS = {"yaml.is_valid": _is_valid}
