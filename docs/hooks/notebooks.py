"""Renders the notebooks of docs/ as pages of the site: cells, printed output and figures, as stored.

A custom hook instead of a plugin, so that the page needs no script from another host and looks like every other page.
"""

from __future__ import annotations

import json
import posixpath
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files


class NotebookPage(File):
    """A `.ipynb` file that mkdocs treats as a page: links to the notebook point to the page."""

    def is_documentation_page(self) -> bool:
        return True

    @property
    def content_string(self) -> str:
        return to_markdown(json.loads(Path(self.abs_src_path).read_text(encoding="utf-8")))


def on_files(files: Files, *, config: MkDocsConfig) -> Files:
    for file in [file for file in files if posixpath.splitext(file.src_uri)[1] == ".ipynb"]:
        files.remove(file)
        files.append(NotebookPage(file.src_uri, config.docs_dir, config.site_dir, config.use_directory_urls))
    return files


def to_markdown(notebook: dict) -> str:
    """The cells of a notebook (nbformat 4) as Markdown.

    Raises:
        ValueError: a cell was not executed, failed, or has an output that cannot be displayed.
    """
    parts = []
    for number, cell in enumerate(notebook["cells"], 1):
        source = "".join(cell["source"])
        if cell["cell_type"] != "code":
            parts.append(source)
            continue
        if cell["execution_count"] is None:
            raise ValueError(f"cell {number} of a notebook was not executed; execute it and save its outputs")
        parts.append(_fenced(source, "python"))
        parts += [_output(number, output) for output in cell["outputs"]]
    return "\n\n".join(parts) + "\n"


def _output(number: int, output: dict) -> str:
    if output["output_type"] == "stream":
        return _fenced("".join(output["text"]), "text")
    data = output.get("data", {})
    if "image/png" in data:
        return f"![Figure of cell {number}](data:image/png;base64,{''.join(data['image/png']).replace(chr(10), '')})"
    if "text/plain" in data:
        return _fenced("".join(data["text/plain"]), "text")
    raise ValueError(f"cell {number} of a notebook has an output that cannot be displayed: {output['output_type']}")


def _fenced(text: str, language: str) -> str:
    return f"````{language}\n{text.rstrip()}\n````"
