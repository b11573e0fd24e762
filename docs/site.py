"""What mkdocs adds to the pages: each command's --help, the model cards, and a look for trackers.

A line `<!-- help: experiments.transfer -->` becomes what that command says of itself. The cards
beside the models in fxjax/zoo are pages too. After the build, a page that would fetch anything
from another machine ends it with an error.
"""

import contextlib
import io
import pathlib
import re
import runpy
import sys
import warnings

from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File

ROOT = pathlib.Path(__file__).resolve().parent.parent
CARD = re.compile(r"\(\.\./fxjax/zoo/(\w+)/card\.md")
FETCHED = re.compile(
    r"""<(?:script|img|iframe|source|video|audio|embed)\b[^>]*?\bsrc=["']?(?:https?:)?//[^"' >]+"""
    r"""|<link\b[^>]*?\bhref=["']?(?:https?:)?//[^"' >]+"""
    r"""|(?:url\(|@import)\s*["']?(?:https?:)?//[^"')]+"""
    r"""|class=["']mermaid["']"""  # whose script would come from elsewhere
)


def on_files(files, config):
    """Adds the cards of fxjax/zoo as pages."""
    for card in sorted((ROOT / "fxjax" / "zoo").glob("*/card.md")):
        name = card.parent.name
        text = card.read_text().replace("../../../docs/", "../")
        text = text.replace("](samples/", f"]({name}/samples/")
        files.append(File.generated(config, f"cards/{name}.md", content=text))
        for picture in sorted(card.parent.glob("samples/*.png")):
            place = f"cards/{name}/samples/{picture.name}"
            files.append(File.generated(config, place, abs_src_path=str(picture)))
    return files


def on_page_markdown(markdown, page, config, files):
    """Fills in the commands' help, and leads links to the cards where they are in the site."""
    markdown = CARD.sub(r"(cards/\1.md", markdown)
    return re.sub(r"<!-- help: ([\w.]+) -->", lambda found: _help(found[1]), markdown)


def on_post_build(config):
    """Ends the build if a page or a style sheet fetches from elsewhere."""
    for path in sorted(pathlib.Path(config.site_dir).rglob("*")):
        if path.suffix in (".html", ".css") and (found := FETCHED.search(path.read_text())):
            raise PluginError(f"{path} fetches from another machine: {found[0]}")


def _help(module):
    sys.path[:0] = [] if str(ROOT) in sys.path else [str(ROOT)]
    text, arguments, sys.argv = io.StringIO(), sys.argv, [module, "--help"]
    try:
        with contextlib.redirect_stdout(text), warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # imported before by another command
            runpy.run_module(module, run_name="__main__", alter_sys=True)
    finally:
        sys.argv = arguments
    return f"```text\n{text.getvalue().strip()}\n```"
