"""Decision ids."""

import uuid

from mixer.authz.ids import DecisionIds


def test_ids_are_random_uuids_and_never_come_twice() -> None:
    ids = DecisionIds()
    made = [ids.next() for _ in range(2000)]  # several lots
    assert len(set(made)) == len(made)
    for text in made:
        parsed = uuid.UUID(text)
        assert (parsed.version, parsed.variant, str(parsed)) == (4, uuid.RFC_4122, text)
