"""Every table and figure of the paper as files: Markdown, CSV and LaTeX of each, SVG and PNG of those that `plot`.

A table is a file in this folder, found by its name. It defines `TITLE` and `build(material) -> Table`, and a figure
`plot(material)` too; a table without rows is not written.
"""

from benchmark import plugins
from benchmark.tables._material import Material
from benchmark.tables._render import formats


def files(material: Material) -> dict[str, bytes]:
    """Name -> content; the same records give the same bytes, in whatever order they come.

    Raises:
        UserError: the records or the published numbers cannot stand in one table.
    """
    found: dict[str, bytes] = {}
    for name in plugins.names(__package__):
        module = plugins.load(__package__, name, "title")
        shown = module.build(material)
        if shown.rows:
            found |= formats(name, shown)
            drawn = module.plot(material) if hasattr(module, "plot") else {}
            found |= {f"{name}.{ending}": content for ending, content in drawn.items()}
    return found
