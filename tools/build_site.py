"""The documentation site from the notebooks, without Quarto and the network: python tools/build_site.py [--out _site]

nbdev works the notebooks up (documentation of functions, links from names in backticks), smalldocs turns them into
pages, and the rest of this file mends what the two leave open: file names, links, formulas, picture sizes, and
addresses outside the host.
On GitHub the same notebooks and the same nbs/_quarto.yml go through Quarto (`nbdev-docs`).
"""
import argparse
import html
import json
import os
import posixpath
import re
import shutil
import sys
import tempfile
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urldefrag, urlsplit

from latex2mathml.converter import convert
from nbdev.config import get_config, nbpath2html
from nbdev.serve import proc_nbs
from smalldocs.config import BuildError, ConfigError, load
from smalldocs.site import Site

ROOT = Path(__file__).resolve().parents[1]
# What smalldocs does not read and Quarto does, or what is mended below; any other warning of smalldocs is printed.
EXPECTED = re.compile(
    r"output-file is not read|broken link|html-math-method|format commonmark|unknown key format-links")


def hrefs(entry: dict | str) -> list[str]:
    "The notebooks, or globs of them, that an entry of the sidebar names."
    inside = entry.get("contents", entry.get("href")) if isinstance(entry, dict) else entry
    return [e.get("href") if isinstance(e, dict) else e for e in (inside if isinstance(inside, list) else [inside])]


def sidebar(
    contents: list,  # `website.sidebar.contents`: entries with `href`, sections with `contents`
    notebooks: set[str],  # those that exist, as paths in nbs/
) -> list:  # the entries that lead somewhere, then the notebooks without an entry
    "The sidebar of the notebooks that exist: the plan may name some to come."
    kept, named = [], set()
    for entry in contents:
        wanted = hrefs(entry)
        found = {n for n in notebooks for w in wanted if Path(n).match(w)}
        named |= found
        if found: kept.append(entry)
        else: print(f"note: the sidebar in nbs/_quarto.yml names {', '.join(wanted)}, which is not there yet")
    more = sorted(notebooks - named)
    for n in more: print(f"note: {n} is not in the sidebar of nbs/_quarto.yml; it is added at the end")
    return kept + more


def picture_sizes(notebook: Path) -> dict[str, str]:  # {a picture, as in the page: its size as HTML}
    "The sizes at which the pictures of a notebook are to be shown."
    sizes = {}
    for cell in json.loads(notebook.read_text(encoding="utf-8"))["cells"]:
        for o in cell.get("outputs", []):
            if not (size := o.get("metadata", {}).get("image/png")): continue
            html_size = "".join(f' {k}="{size[k]}"' for k in ("width", "height") if k in size)
            sizes["".join(o["data"]["image/png"]).strip()] = html_size
    return sizes


IMPORTS = re.compile(r"(from .+ import .+|import .+|if TYPE_CHECKING:.*|\s+.*|\)|#.*|)")


def fold_sources(notebook: Path) -> None:
    "Fold what is on the page already, the source under the entry of its function, and cells of imports."
    nb, entry = json.loads(notebook.read_text(encoding="utf-8")), False
    for cell in nb["cells"]:
        text = "".join(cell["source"])
        if cell["cell_type"] == "code" and "#| code-fold: show" in text:
            imports = all(map(IMPORTS.fullmatch, text.splitlines()))
            if imports: text = text.replace('"Exported source"', '"Imports"')
            if imports or entry: cell["source"] = text.replace("#| code-fold: show", "#| code-fold: true")
            continue
        entry = "show_doc(" in text
    notebook.write_text(json.dumps(nb), encoding="utf-8")


def render(out: Path) -> tuple[dict[str, str], dict[str, str]]:  # {smalldocs' name of a page: the right one}, sizes
    "Writes the pages as smalldocs makes them."
    with tempfile.TemporaryDirectory() as tmp:
        stage = Path(tmp) / "nbs"
        # force: nbdev's cache looks at each notebook alone, but its links depend on the others
        shutil.copytree(proc_nbs(n_workers=0, force=True), stage)
        notebooks = {p.relative_to(stage).as_posix(): p for p in stage.rglob("*.ipynb")}
        for p in notebooks.values(): fold_sources(p)
        project = load(stage)
        bar = project.website["sidebar"]
        bar["contents"] = sidebar(bar["contents"], set(notebooks))
        site = Site(project, quiet=True)
        site.out = out  # smalldocs empties it, and refuses a folder that holds anything but a site
        site.build()
        for w in site.warnings:
            if not EXPECTED.search(w): print("warning:", w)

        names = {p.out.as_posix(): (nbpath2html(src) if src.suffix == ".ipynb" else p.out).as_posix()
                 for src, p in site.pages.items()}
        return names, {k: v for p in notebooks.values() for k, v in picture_sizes(p).items()}


def mathml(m: re.Match) -> str:
    "A formula as MathML, which browsers draw without a script; one that latex2mathml cannot read stops the build."
    display, tex = m[1] == "display", html.unescape(m[2])
    # Spellings that latex2mathml lacks
    known = re.sub(r"\\arg\b", r"\\operatorname{arg}", tex.replace("{aligned}", "{align*}"))
    known = re.sub(r"\\text\{[^}]*\}", lambda text: text[0].replace(r"\_", "_"), known)
    cannot = "This formula cannot be turned into MathML"
    try: body = convert(known, display="block" if display else "inline")
    except Exception as e: raise SystemExit(f"{cannot} ({type(e).__name__}): {tex}") from e

    # The trap: a command it does not know comes out as it went in
    if left := re.search(r"\\[a-zA-Z]+|<mi>&</mi>", body): raise SystemExit(f"{cannot} ({left[0]} is unknown): {tex}")
    # As in TeX: bars as high as their letters, capital Greek upright
    body = re.sub(r"<mo>(&#x02016;|&#x0007C;)</mo>", r'<mo stretchy="false">\1</mo>', body)
    body = re.sub(r"<mi>(&#x0039[0-9A-F];|&#x003A[0-9];)</mi>", r'<mi mathvariant="normal">\1</mi>', body)
    return f'<span class="math {m[1]}">{body}</span>'


FIGURE = re.compile(r"[-+−]?[\d.,]+(e[-+]\d+)?%?|NaN|&lt;NA&gt;|None|")  # what a column of numbers holds


def align(m: re.Match) -> str:
    "A pandas table whose columns of text are marked, so that the style sheet can set them left and numbers right."
    head, _, body = m[0].partition("<tbody>")
    rows = [cells for row in body.split("</tr>") if (cells := re.findall(r"<td>(.*?)</td>", row, re.S))]
    if "span=" in head or len({len(r) for r in rows}) != 1: return m[0]
    text = [not all(FIGURE.fullmatch(c.strip()) for c in column) for column in zip(*rows, strict=True)]

    def mark(row: re.Match) -> str:
        cells = iter([False] * (len(re.findall(r"<t[dh]\b", row[0])) - len(text)) + text)
        return re.sub(r"<(t[dh])\b", lambda c: f'<{c[1]} class="text"' if next(cells) else c[0], row[0])
    return re.sub(r"<tr.*?</tr>", mark, m[0], flags=re.S)


def tidy(text: str, sizes: dict[str, str]) -> str:
    "A page with MathML for TeX, with sizes of pictures, and without anything loaded from another host."
    text = re.sub(r'<link\b[^>]*href="https?:[^>]*>|<script\b[^>]*src="https?:[^>]*></script>', "", text)
    text = re.sub(r'<span class="math (inline|display)">\\[(\[](.*?)\\[)\]]</span>', mathml, text, flags=re.S)
    text = re.sub(r'<table\b[^>]*class="dataframe".*?</table>', align, text, flags=re.S)
    # The contents on top of the page are folded
    contents = r'<nav id="TOC-body" role="doc-toc"><h2[^>]*>(.*?)</h2>(.*?)</nav>'
    folded = r'<details id="TOC-body"><summary>\1</summary><nav aria-label="\1">\2</nav></details>'
    text = re.sub(contents, folded, text, flags=re.S)
    # Pictures of double resolution (retina) must not be shown at double size; smalldocs puts the alt text before src
    return re.sub(r'(<img\b[^>]*?\bsrc="data:image/png;base64,([^"]*)")', lambda m: m[1] + sizes.get(m[2], ""), text)


def code_anchors(text: str, symbols: set[str]) -> str:
    "Anchors for names that nbdev links to and gives no heading (methods, private functions): at their shown `def`."
    ids, owner = set(re.findall(r'\bid="([^"]+)"', text)), ""

    def mark(m: re.Match) -> str:
        nonlocal owner
        indent, kind, name = m[1], m[3], m[4].lower()
        if not indent: owner = name if kind == "class" else ""
        full = f"{owner}.{name}" if indent else name
        if full not in symbols or full in ids: return m[0]
        ids.add(full)
        return m[0].replace('<span class="kw">' + kind, f'<span class="kw" id="{full}">' + kind)
    start = r'(?m)(?:^|(?<=<code class="sourceCode python">))'
    keyword = r'((?: {4})?)(<span class="kw">async</span> )?<span class="kw">(class|def)</span> '
    return re.sub(start + keyword + r'(?:<span class="fu">)?(\w+)', mark, text)


def doc_anchor(text: str, name: str) -> str:
    "Where `name` is documented: its entry made by nbdev, its definition, its class; or \"\", the top of the page."
    # A section may be called like its function: the function's entry is the heading after a link to its source
    headings = re.findall(r'>source</a></p>\s*<h\d id="([^"]+)"[^>]*>([^<]+)<', text)
    entries = {html.unescape(n).lower(): i for i, n in headings}
    ids = set(re.findall(r'\bid="([^"]+)"', text))
    places = (place for n in (name, name.rpartition(".")[0]) for place in (entries.get(n), n))
    return next((p for p in places if p in ids), "")


def mend_links(
    page: str,  # its right name
    pages: dict[str, str],  # all pages under their right names
    names: dict[str, str],  # from smalldocs' names to the right ones
    home: str,  # where the site is published; nbdev writes links from names in backticks with it
) -> str:  # the page with relative links to right names, those made by nbdev leading to the entry
    "Links that work wherever the site lies."
    here = posixpath.dirname(page)

    def mend(m: re.Match) -> str:
        url, anchor = urldefrag(html.unescape(m[2]))
        ours = url.startswith(home)
        if not url or not ours and re.match(r"[a-z]+:|//", url): return m[0]

        if ours: path = url.removeprefix(home) or "index.html"
        else: path = posixpath.normpath(posixpath.join(here, unquote(url)))
        path = names.get(path, path)
        if ours and anchor and path in pages: anchor = doc_anchor(pages[path], anchor)
        slash = "/" if url.endswith("/") and not ours else ""
        return m[1] + html.escape(posixpath.relpath(path, here or ".") + slash + (f"#{anchor}" if anchor else "")) + '"'

    return re.sub(r'(<a\b[^>]*?\bhref=")([^"]*)"', mend, pages[page])


class Links(HTMLParser):
    "What a page links to, what it loads, and its anchors."
    def __init__(self, text: str):
        super().__init__()
        self.ids, self.links, self.loads, self.mute = set(), set(), set(), 0
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list) -> None:
        a = dict(attrs)
        self.ids.add(a.get("id"))
        self.mute += tag == "img" and not (a.get("alt") or "").strip()
        if tag == "a" and a.get("href"): self.links.add(a["href"])
        elif tag != "a": self.loads |= {a[k] for k in ("src", "href", "poster", "data") if a.get(k)}


def link_fault(out: Path, pages: dict[str, Links], name: str, url: str) -> str | None:
    "What is wrong with a link of a page, or with what the page loads."
    parts = urlsplit(url)
    if parts.scheme or parts.netloc:
        foreign = url in pages[name].loads and parts.scheme != "data"
        return f"loads {url} from another host" if foreign else None

    target = name
    if parts.path: target = posixpath.normpath(posixpath.join(posixpath.dirname(name), unquote(parts.path)))
    if (out / target).is_dir(): target = posixpath.normpath(posixpath.join(target, "index.html"))
    if not (out / target).is_file(): return f"broken link {url} (there is no {target})"
    if parts.fragment and target in pages and unquote(parts.fragment) not in pages[target].ids:
        return f"broken link {url} (there is no such anchor)"
    return None


def problems(out: Path) -> list[str]:
    "A line for every link that leads nowhere, everything loaded from another host, and pictures without alt text."
    pages = {p.relative_to(out).as_posix(): Links(p.read_text(encoding="utf-8")) for p in sorted(out.rglob("*.html"))}
    found = []
    for name, page in pages.items():
        if page.mute:
            found.append(f"{name}: {page.mute} picture{'s' * (page.mute > 1)} without alt text; "
                         'write it into the cell, as #| fig-alt: "what is to be seen"')
        faults = (link_fault(out, pages, name, url) for url in sorted(page.links | page.loads))
        found += [f"{name}: {fault}" for fault in faults if fault]

    for css in sorted(out.rglob("*.css")):
        loads = re.findall(r"""(?:url\(|@import)\s*["']?((?:https?:)?//[^"')]+)""", css.read_text(encoding="utf-8"))
        found += [f"{css.relative_to(out)}: loads {u} from another host" for u in loads]
    return found


def rewrite(path: Path, change: Callable[[str], str]) -> None:
    "A text file with its text changed."
    path.write_text(change(path.read_text(encoding="utf-8")), encoding="utf-8")


def mend_search(text: str, names: dict[str, str]) -> str:
    "The index of the search with the right names of pages."
    search = json.loads(text)
    for entry in search:
        page, hash_, anchor = entry["href"].partition("#")
        entry["href"] = entry["objectID"] = names[page] + hash_ + anchor
    return json.dumps(search, ensure_ascii=False)


def build(out: Path) -> None:
    "The whole site into the folder `out`."
    import saerec._modidx  # nbdev's index of names; imported late, so that it is the one of this repository
    names, sizes = render(out)
    places = [place.partition("#")[::2] for module in saerec._modidx.d["syms"].values() for place, _ in module.values()]
    pages = {}
    for old, new in names.items():
        symbols = {name for page, name in places if page == new}
        pages[new] = code_anchors(tidy((out / old).read_text(encoding="utf-8"), sizes), symbols)
        (out / old).unlink()

    home = get_config().doc_url.rstrip("/") + "/"
    for page in pages: (out / page).write_text(mend_links(page, pages, names, home), encoding="utf-8")

    rewrite(out / "search.json", lambda text: mend_search(text, names))
    place = re.compile(f"(?<=<loc>{re.escape(home)})[^<]*")
    rewrite(out / "sitemap.xml", lambda text: place.sub(lambda m: names.get(m[0], m[0]), text))
    # The themes fetch web fonts; nbs/styles.css names fonts of the reader's machine
    for css in (out / "site_libs" / "themes").rglob("*.css"):
        rewrite(css, lambda text: re.sub(r"@import url\(https?:[^)]*\);", "", text))

    if found := problems(out): raise SystemExit("The site has faults:\n  " + "\n  ".join(found))
    print(f"{len(pages)} pages in {out}; to read them: python -m http.server --bind 127.0.0.1 --directory {out}")


def main() -> None:
    "The command line."
    parser = argparse.ArgumentParser(description="Build the documentation site from the notebooks, without Quarto.")
    parser.add_argument("--out", type=Path, default=ROOT / "_site",
                        help="folder of the site; it is emptied first (default: _site)")
    out = parser.parse_args().out.resolve()
    os.chdir(ROOT)  # nbdev looks for its configuration from here
    sys.path.insert(0, str(ROOT))  # the package documented is the one beside the notebooks
    try: build(out)
    except (BuildError, ConfigError) as e: raise SystemExit(f"smalldocs: {e}") from None


if __name__ == "__main__": main()
