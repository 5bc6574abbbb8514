"""Options shared by several commands."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from ..base.device import CHOICES, METAVAR, devices_here, is_device_name
from ..base.progress import log_json_from_now_on

COMPUTE_HELP = "Device to compute on; auto selects CUDA if available."


class DeviceType(click.ParamType):
    """The name of a device; `toolkit.base.device.pick_device` checks whether the machine has it."""

    name = "device"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        if not isinstance(value, str) or not is_device_name(value):
            self.fail(f"{value!r} is not one of {CHOICES} ({devices_here()})", param, ctx)
        return value

    def get_metavar(self, param: click.Parameter, ctx: click.Context | None = None) -> str:
        return f"[{METAVAR}]"


def make_device_option(help_text: str = COMPUTE_HELP) -> click.Option:
    """`--device` as an option object, for commands created from a list of parameters."""
    return click.Option(["--device"], type=DeviceType(), default="auto", show_default=True, help=help_text)


def device_option(help_text: str = COMPUTE_HELP) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """`--device` as a decorator."""
    return click.option("--device", type=DeviceType(), default="auto", show_default=True, help=help_text)


def _begin_log(ctx: click.Context, option: click.Parameter, value: bool) -> None:
    if value:
        log_json_from_now_on()


_LOG_JSON: dict[str, Any] = {
    "is_flag": True,
    "expose_value": False,
    "callback": _begin_log,
    "help": "Progress as JSON lines on standard error.",
}


def log_json_option() -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """`--log-json` as a decorator, for commands that do not hand it on: it holds for the whole process."""
    return click.option("--log-json", **_LOG_JSON)


def make_log_json_option() -> click.Option:
    """`--log-json` as an option object, likewise."""
    return click.Option(["--log-json"], **_LOG_JSON)


OVERWRITE_HELP = "Replace what exists at --out. Inputs are never replaced."


def make_overwrite_option() -> click.Option:
    """`--overwrite` as an option object; `toolkit.base.outputs` has the rule."""
    return click.Option(["--overwrite"], is_flag=True, help=OVERWRITE_HELP)


def overwrite_option() -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """`--overwrite` as a decorator."""
    return click.option("--overwrite", is_flag=True, help=OVERWRITE_HELP)


_ENGINE: dict[str, Any] = {
    "default": "local",
    "show_default": True,
    "metavar": "local|ray|ray:HOST:PORT|ray://HOST:PORT",
    "help": "Compute on this machine, or on the nodes of a Ray cluster: the one that runs here (if none does, a "
    "new one of this machine alone), or that at an address; ray:// is Ray's client.",
}
_SHARED: dict[str, Any] = {
    "type": click.Path(path_type=Path, file_okay=False),
    "metavar": "DIR",
    "help": "A folder that all nodes have, through which results come back instead of through Ray.",
}


def make_engine_options() -> list[click.Option]:
    """`--engine` and `--shared` as option objects."""
    return [click.Option(["--engine"], **_ENGINE), click.Option(["--shared"], **_SHARED)]


def engine_options() -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """`--engine` and `--shared` as a decorator."""

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        return click.option("--engine", **_ENGINE)(click.option("--shared", **_SHARED)(command))

    return decorate
