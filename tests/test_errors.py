"""Errors in the library, and as one line and an exit status on the command line."""

from __future__ import annotations

import pickle
import subprocess
import sys

import click
import pytest
from click.testing import CliRunner

from erc_toolkit.toolkit.base.errors import FaultError, ToolkitError, UserError, first_line
from erc_toolkit.toolkit.commands.command import ToolkitCommand, ToolkitGroup
from erc_toolkit.toolkit.commands.main import COMMANDS, main

KINDS = [(UserError, 1), (FaultError, 3)]


@pytest.mark.parametrize("kind, status", KINDS)
def test_an_error_is_its_message(kind, status):
    error = kind("a.csv: no column id")
    assert str(error) == error.message == "a.csv: no column id" and error.exit_code == status
    assert isinstance(error, ToolkitError) and not isinstance(error, click.ClickException)
    copy = pickle.loads(pickle.dumps(error))  # as when returned from a worker process
    assert type(copy) is kind and (copy.message, copy.exit_code) == (error.message, status)


def test_the_library_of_errors_needs_no_click():
    code = "import sys, erc_toolkit.toolkit.base.errors; print('click' in sys.modules)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "False"


def every_command(command: click.Command, name: str):
    yield name, command
    if isinstance(command, click.Group):
        context = click.Context(command)
        for below in command.list_commands(context):
            yield from every_command(command.get_command(context, below), f"{name} {below}")


def test_every_command_reports_errors():
    found = dict(every_command(main, "erc-toolkit"))
    assert {f"erc-toolkit {name}" for name in COMMANDS} < set(found) and "erc-toolkit manifest build meld" in found
    assert not [name for name, command in found.items() if not isinstance(command, ToolkitCommand)]


def failing(kind):
    @click.group(cls=ToolkitGroup)
    def group():
        pass

    @group.command("fail")
    @click.option("--check", callback=lambda ctx, option, value: value and fail(value))
    def command(check):
        fail("out: no such folder")

    def fail(message):
        raise kind(message)

    return group, command


@pytest.mark.parametrize("kind, status", KINDS)
def test_errors_end_a_command_both_alone_and_in_its_group(kind, status):
    group, command = failing(kind)
    for target, arguments in ((command, []), (group, ["fail"])):
        result = CliRunner().invoke(target, arguments)
        assert (result.exit_code, result.stderr, result.stdout) == (status, "Error: out: no such folder\n", "")
        assert isinstance(result.exception, SystemExit)
    result = CliRunner().invoke(command, ["--check", "checked"])
    assert (result.exit_code, result.stderr) == (status, "Error: checked\n")


def test_a_caller_that_runs_a_command_itself_gets_the_error():
    group, command = failing(UserError)
    with pytest.raises(UserError):
        command.main([], standalone_mode=False)
    with pytest.raises(UserError):
        group.main(["fail"], "name", None, False)


def test_other_exceptions_keep_their_traceback():
    _, command = failing(ValueError)
    assert isinstance(CliRunner().invoke(command, []).exception, ValueError)


@pytest.mark.parametrize(
    "error, line",
    [
        (ValueError("one\ntwo"), "one"),
        (ValueError("one"), "one"),
        (ValueError(), "ValueError"),
        (UserError("one\ntwo"), "one\\ntwo"),  # one line always
    ],
)
def test_first_line(error, line):
    assert first_line(error) == line
