"""pcapdiag detectors."""

from __future__ import annotations

import click

from pcapdiag.cli.terminal import print_report


@click.command("detectors")
def command() -> None:
    """List every diagnosis: code, who can mend it, title."""
    from pcapdiag.detectors import DETECTORS  # noqa: PLC0415 - not for --help

    rows = sorted((detector.code, detector.domain.value, detector.title) for detector in DETECTORS)
    code_width = max((len(code) for code, _, _ in rows), default=0)
    domain_width = max((len(domain) for _, domain, _ in rows), default=0)
    print_report("".join(f"{code:<{code_width}}  {domain:<{domain_width}}  {title}\n" for code, domain, title in rows))
