"""The command table. Each command's module imports what it needs when it runs, so that ``--help`` stays quick."""

from __future__ import annotations

from typing import Annotated

import typer

from graphopt.cli._options import DebugOpt

_HELP = """Make ONNX models smaller and faster, and check that they still compute the same.

Try it without a model of your own:  graphopt fuse --demo
"""
_EPILOG = "Exit codes: 0 done, 1 verification failed, 2 bad input or usage."


def build() -> typer.Typer:
    """The typer application with all commands."""
    from graphopt.cli import (
        bench,
        bisect,
        build,
        calibrate,
        check,
        check_rules,
        compose,
        diff,
        explain,
        extract,
        fuse,
        inspect,
        machine,
        optimize,
        package,
        partition,
        passes,
        quantize,
        replace,
        verify,
    )  # fmt: skip

    app = typer.Typer(
        help=_HELP,
        epilog=_EPILOG,
        rich_markup_mode=None,  # plain help: no boxes that eat a narrow terminal, no rich to import
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback(invoke_without_command=True)(_root)
    commands = (
        fuse.fuse, optimize.optimize, quantize.quantize, build.build, verify.verify, bench.bench, bisect.bisect,
        inspect.inspect, diff.diff, explain.explain, extract.extract, replace.replace, partition.partition,
        compose.compose, package.package, check.check, passes.passes, check_rules.check_rules, calibrate.calibrate,
        machine.machine,
    )  # fmt: skip
    for command in commands:
        app.command(epilog=_EPILOG)(command)
    return app


def _root(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", "-V", help="Print the version.")] = False,
    debug: DebugOpt = False,
) -> None:
    if version:
        from graphopt import __version__

        print(f"graphopt {__version__}")
        raise typer.Exit
    if context.invoked_subcommand is None:
        print(context.get_help())
