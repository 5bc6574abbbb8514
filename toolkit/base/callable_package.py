"""A package that is also the function it is named after: `erc_toolkit.extract(...)`, `erc_toolkit.train(...)`.

The public functions have the names of the rooms that hold them. Python binds a package's submodule to its name when the
submodule is imported, so a function of that name would come and go with the order of imports. Here the submodule itself
can be called.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable
from importlib import import_module
from types import ModuleType
from typing import Any


def make_callable(package: str, module: str, function: str) -> None:
    """Lets a package be called.

    Args:
        package: its full name; it is being imported, or has been.
        module: full name of the module with the function; imported at the first call.
        function: its name there.
    """

    def target() -> Callable[..., Any]:
        return getattr(import_module(module), function)

    class CallablePackage(ModuleType):
        def __call__(self, *args: Any, **options: Any) -> Any:
            return target()(*args, **options)

        @property
        def __signature__(self) -> inspect.Signature:
            return inspect.signature(target())

    sys.modules[package].__class__ = CallablePackage
