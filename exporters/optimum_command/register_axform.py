"""Registers ``optimum-cli export axform``; optimum finds this module in its namespace ``optimum.commands.register``."""

from __future__ import annotations

from argparse import ArgumentParser
from pathlib import Path
from typing import get_args

from axform.core.opset import OPSET
from axform.core.precision import DEFAULT_PRECISION, Precision
from axform.exporters.head_mode import DEFAULT_HEADS, HeadMode
from optimum.commands.base import BaseOptimumCLICommand, CommandInfo
from optimum.commands.export.base import ExportCommand

__all__ = ["REGISTER_COMMANDS", "AxformExportCommand"]


class AxformExportCommand(BaseOptimumCLICommand):
    """The same export as ``axform-export``."""

    COMMAND = CommandInfo(name="axform", help="Export an axform run to an ONNX bundle.")

    @staticmethod
    def parse_args(parser: ArgumentParser) -> None:
        parser.add_argument("run", help="Run folder made by `axform optimize`.")
        parser.add_argument("--out", type=Path, required=True, help="Bundle folder to write.")
        parser.add_argument(
            "--heads", choices=get_args(HeadMode), default=DEFAULT_HEADS, help="How pruned heads are removed."
        )
        parser.add_argument(
            "--precision", choices=get_args(Precision), default=DEFAULT_PRECISION, help="Numbers that it computes in."
        )
        parser.add_argument("--opset", type=int, default=OPSET, help="Of ONNX's operators.")
        parser.add_argument("--inline", action="store_true", help="For readers that know no functions.")
        parser.add_argument("--step", type=int, help="Round to export (default: the last that kept the bound).")
        parser.add_argument("--overwrite", action="store_true", help="Replace the bundle folder if it exists.")

    def run(self) -> None:
        from axform.console import run_app
        from axform.exporters.cli import export_command

        arguments = self.args

        def command() -> None:
            names = ("heads", "precision", "opset", "inline", "step", "overwrite")
            export_command(arguments.run, arguments.out, **{name: getattr(arguments, name) for name in names})

        run_app(command)


REGISTER_COMMANDS = [(AxformExportCommand, ExportCommand)]
