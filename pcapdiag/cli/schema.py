"""pcapdiag schema."""

from __future__ import annotations

from importlib import resources

import click

from pcapdiag.cli.terminal import print_report


@click.command("schema")
def command() -> None:
    """Print the JSON Schema of the JSON report."""
    print_report(resources.files("pcapdiag.reporters").joinpath("schema.json").read_text(encoding="utf-8"))
