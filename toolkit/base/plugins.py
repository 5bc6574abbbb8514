"""Objects selected by name: the toolkit's own and those that other packages register as entry points.

A package registers `name = module:attribute` in an entry-point group. Nothing is imported until the name is requested.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from .errors import UserError, one_line


class PluginRegistry:
    """The names of one entry-point group. The toolkit's own come first, and no other package can replace them.

    Args:
        noun: what is registered, for error messages, e.g. "corpus".
        group: the entry-point group, e.g. "erc_toolkit.corpora".
        own: name to "module:attribute" of the toolkit's own objects.
        option: the option or setting that takes the name, e.g. "model.name"; put before the error about an unknown one.
    """

    def __init__(self, noun: str, group: str, own: Mapping[str, str], option: str = "") -> None:
        self.noun, self.group, self.own, self.option = noun, group, own, option

    def names(self) -> list[str]:
        """Every name: the toolkit's own in their order, then those of other packages in alphabetical order."""
        return [*self.own, *(name for name in self._entries() if name not in self.own)]

    def packages(self, name: str) -> list[str]:
        """The packages that register a name, as "package NAME VERSION"; empty for own and unknown names."""
        return [] if name in self.own else [_package(entry) for entry in self._entries().get(name, [])]

    def ignored(self) -> list[str]:
        """One line for each entry point that has no effect because its name is one of the toolkit's own."""
        return [
            f"{self.noun} {name!r} of {_package(entry)} is ignored: the toolkit itself uses that name; "
            "rename it in the package"
            for name, entries in self._entries().items()
            if name in self.own
            for entry in entries
        ]

    def load(self, name: str) -> Any:
        """The object registered under a name; its module is imported here.

        Raises:
            UserError: the name is unknown, several packages register it, or the package's module cannot be imported or
                has no such attribute. Errors in the toolkit's own modules are propagated unchanged.
        """
        if name in self.own:
            module, _, attribute = self.own[name].partition(":")
            return getattr(import_module(module), attribute)
        entries = self._entries().get(name)
        if entries is None:
            before = f"{self.option}: " if self.option else ""
            raise UserError(f"{before}unknown {self.noun} {name!r}; available: {', '.join(self.names())}")
        if len(entries) > 1:
            packages = " and ".join(map(_package, entries))
            raise UserError(f"{self.noun} {name!r} is registered by {packages}; uninstall one of them")
        try:
            return entries[0].load()
        except (Exception, SystemExit) as error:  # another package's code may raise anything on import
            raise self.error(name, f"cannot be loaded: {one_line(error)}") from error

    def described(self, name: str) -> str:
        """How messages call a registered object: '<noun> <name>', followed by 'of package …' if it is another's."""
        packages = self.packages(name)
        return f"{self.noun} {name!r}" + (f" of {' and '.join(packages)}" if packages else "")

    def error(self, name: str, problem: str) -> UserError:
        """A UserError about a registered object: '<noun> <name> of package <package> <problem>'."""
        return UserError(f"{self.described(name)} {problem}")

    def _entries(self) -> dict[str, list[EntryPoint]]:
        found: dict[str, list[EntryPoint]] = {}
        for entry in sorted(entry_points(group=self.group), key=lambda entry: entry.name):
            found.setdefault(entry.name, []).append(entry)
        return found


def _package(entry: EntryPoint) -> str:
    return f"package {entry.dist.name} {entry.dist.version}" if entry.dist else entry.value
