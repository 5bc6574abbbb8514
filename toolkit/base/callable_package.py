"""Packages that can be called like a function: `erc_toolkit.extract(...)`, `erc_toolkit.train(...)`.

The public functions have the names of the subpackages that contain them. Python binds a subpackage to its name in the
parent when it is imported, so whether that name is a function or the subpackage would depend on the order of imports.
Instead, the subpackage itself is made callable.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable
from importlib import import_module
from types import ModuleType
from typing import Any


def make_callable(package: str, module: str, function: str) -> None:
    """Makes a package callable.

    Args:
        package: its full name; it must be imported, or be in the middle of it.
        module: full name of the module with the function; imported on the first call.
        function: the function's name in that module.
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
