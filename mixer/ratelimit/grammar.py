"""The grammar of limits: from the YAML of files to the tree of each domain.

It takes what envoyproxy/ratelimit takes (`loadDescriptors` in its `config_impl.go`) and refuses what that
refuses, with one exception: key `a_b` beside key `a` with value `b` is no duplicate here (see `tree`).
"""

from mixer.errors import Problem
from mixer.ratelimit import rules
from mixer.ratelimit.keys import Format
from mixer.ratelimit.section import (
    DESCRIPTOR_KEYS,
    FILE_KEYS,
    FLAGS,
    LIMIT_KEYS,
    REPLACES_KEYS,
    Findings,
    Section,
    show,
)
from mixer.ratelimit.tree import Descriptor, Domain, Level, Limit
from mixer.ratelimit.yaml_v2 import Node, YamlError, read

Keys = tuple[tuple[str, str], ...]  # of descriptors one below the other, with their values


class Reader:
    """Reads files, one by one, into `domains`; `findings` tells what is wrong with them."""

    def __init__(
        self, merge_domain_config: bool, counts_over: bool, key_format: Format, has_shares: bool
    ) -> None:
        self.domains: dict[str, Domain] = {}
        self.findings = Findings()
        self._merge_domain_config = merge_domain_config
        self._counts_over = counts_over
        self._format = key_format
        self._has_shares = has_shares
        self._domain_files: dict[str, str] = {}
        self._places: dict[tuple[Level, str, str], str] = {}  # where a descriptor was given first
        self._names: set[tuple[Domain, str]] = set()  # of limits
        self._replaced: list[tuple[Domain, str, Section]] = []

    def read(self, file: str, content: bytes) -> None:
        """Take a file in. A file with problems is taken in as far as it makes sense."""
        try:
            root, has_more = read(content)
            if root is not None and root.kind != "mapping":
                self.findings.problems.append(
                    Problem(file, "", f"a mapping with {' and '.join(FILE_KEYS)}", show(root))
                )
                return
            section = Section(file, "", root or Node("mapping", 1), FILE_KEYS, self.findings)
            if has_more:
                section.warn(
                    "", "only the first YAML document of a file is read; the rest after --- is ignored"
                )
            self._file(section)
        except YamlError as error:
            where = f"line {error.line}" if error.line else ""
            self.findings.problems.append(Problem(file, where, f"is not usable YAML: {error}"))

    def finish(self) -> None:
        """Look at what only all files together can tell."""
        for domain, name, section in self._replaced:
            if (domain, name) not in self._names:
                section.warn(section.at("name"), f'no limit of domain "{domain.name}" is named "{name}"')

    def _file(self, section: Section) -> None:
        name = section.text("domain")
        if name == "":
            section.problem("domain", "a name", "nothing")
        elif name in self.domains and not self._merge_domain_config:
            section.problem(
                "domain",
                "a domain that no other file has (or rate_limits.merge_domain_config: true)",
                f'"{name}", as in {self._domain_files[name]}',
            )
            name = None
        if name:
            domain = self.domains.setdefault(name, Domain(name, self._counts_over, self._format))
            self._domain_files.setdefault(name, section.file)
        else:
            domain = Domain("")  # for the sake of the mistakes in what follows
        self._descriptors(section, domain, domain.level, (), by_value=False)

    def _descriptors(
        self, parent: Section, domain: Domain, level: Level, above: Keys, by_value: bool
    ) -> None:
        """`above`: the descriptors above, and `by_value`: whether one of them has `value_to_metric`."""
        for section in parent.sections("descriptors", DESCRIPTOR_KEYS):
            key, value = section.text("key"), section.text("value")
            if key == "":
                section.problem(section.at("key"), "a name", "nothing")
            keys = (*above, (key or "", value or ""))
            flags = {name: section.flag(name) for name in FLAGS}
            if flags["share_threshold"] and key is not None and value is not None and "*" not in key + value:
                got = f'the value "{value}"' if value else "no value"
                section.problem(section.at("share_threshold"), "a wildcard (*) in the value beside it", got)
            to_metric = flags["value_to_metric"]
            limit = self._limit(section, domain, keys, {**flags, "value_to_metric": by_value or to_metric})
            is_shared = flags["share_threshold"] or self._names_holder(section, limit)
            descriptor = Descriptor(key or "", value or "", is_shared, to_metric, self._format)
            descriptor.limit = limit
            self._descriptors(section, domain, descriptor.nested, keys, by_value or to_metric)
            if key and value is not None:
                self._place(section, level, key, value, descriptor)

    def _place(self, section: Section, level: Level, key: str, value: str, descriptor: Descriptor) -> None:
        here = f"{section.file}: {section.path}"
        first = self._places.setdefault((level, key, value), here)
        if first is here:
            level.add(key, value, descriptor)
            return
        shown = f'key "{key}" with value "{value}"' if value else f'key "{key}" without a value'
        section.problem(
            section.path, "a key and value not given before on this level", f"{shown}, as at {first}"
        )

    def _limit(self, descriptor: Section, domain: Domain, keys: Keys, flags: dict[str, bool]) -> Limit | None:
        metadata = descriptor.anything("metadata")
        section = descriptor.section("rate_limit", LIMIT_KEYS)
        if section is None:
            for name in ("shadow_mode", "quota_mode"):
                if flags[name]:
                    descriptor.warn(descriptor.at(name), "changes nothing without a rate_limit beside it")
            return None
        name = section.text("name") or ""
        if name:
            self._names.add((domain, name))
        unlimited = section.flag("unlimited")
        rate, unit, rule = rules.read(section, unlimited, self._counts_over)
        on_error = rules.on_error(section, self._has_shares)
        return Limit(
            full_key=".".join((domain.name, *(f"{key}_{value}" if value else key for key, value in keys))),
            keys=keys,
            file=section.file,
            path=section.path,
            requests_per_unit=rate,
            unit=unit,
            rule=rule,
            name=name,
            unlimited=unlimited,
            shadow_mode=flags["shadow_mode"],
            quota_mode=flags["quota_mode"],
            replaces=self._replaces(section, domain, name),
            share_threshold=flags["share_threshold"],
            metadata=metadata,
            on_error=on_error,
            detailed_metric=flags["detailed_metric"],
            value_to_metric=flags["value_to_metric"],
        )

    def _names_holder(self, descriptor: Section, limit: Limit | None) -> bool:
        """Whether the value of the entry is the id of who takes a slot, and no part of the counter's name."""
        if limit is None or limit.rule is None or limit.rule.algorithm != "concurrency":
            return False
        if descriptor.has("value"):
            expected = (
                "no value beside algorithm: concurrency, for the entry's value is the id of the request"
            )
            descriptor.problem(descriptor.at("value"), expected, descriptor.shown("value"))
        return True

    def _replaces(self, limit: Section, domain: Domain, own_name: str) -> frozenset[str]:
        names = set()
        for section in limit.sections("replaces", REPLACES_KEYS):
            name = section.text("name")
            if name == "":
                section.problem(section.at("name"), "the name of a limit", "nothing")
            elif name is not None and name == own_name:
                section.problem(section.at("name"), "the name of another limit", f'"{name}", its own')
            elif name is not None:
                names.add(name)
                self._replaced.append((domain, name, section))
        return frozenset(names)
