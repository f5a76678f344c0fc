"""The command line: one file a command, imported when it is asked for. The only place that prints."""

from __future__ import annotations

from importlib import import_module
from typing import Final

import click

from pcapdiag import __version__

_COMMANDS: Final = {
    "analyze": ("pcapdiag.cli.analyze", "Rank what made requests stall, with the packets that prove it."),
    "explain": ("pcapdiag.cli.explain", "Print the page for one diagnosis."),
    "detectors": ("pcapdiag.cli.detectors", "List every diagnosis."),
    "schema": ("pcapdiag.cli.schema", "Print the JSON Schema of the JSON report."),
}
"""Command -> module, whose `command` it is, and its line in the help; in that order."""


class _LazyGroup(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002 - click's signature
        if cmd_name not in _COMMANDS:
            return None
        command: click.Command = import_module(_COMMANDS[cmd_name][0]).command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002 - click's signature
        """Click would import every command for its line of help."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, summary) for name, (_, summary) in _COMMANDS.items()])


@click.group(cls=_LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="pcapdiag", message="%(prog)s %(version)s")
def cli() -> None:
    """Find what made an AI agent's requests stall, in a packet capture.

    \b
    pcapdiag analyze trace.pcapng              ranked diagnoses
    tcpdump -U -w - | pcapdiag analyze -       from a pipe
    pcapdiag analyze t.pcap -f json | jq .     for programs
    pcapdiag explain pmtu-black-hole           what a diagnosis means

    Exit codes: 0 analysed, 1 --fail-on was hit, 2 usage or an unusable input or output, 3 below --require-quality,
    70 internal error, 130 interrupted.
    """  # noqa: D301 - \b is click's mark for lines to be left alone
