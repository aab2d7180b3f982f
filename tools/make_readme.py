"""README.md from nbs/index.ipynb: python tools/make_readme.py [--check]

The cells as GitHub shows them: prose, code, printed text, tables, and figures as files in nbs/images.
nbdev's directives count: `hide`, `echo: false`, `output: false`, `include: false`, `hide_line`, `fig-alt`, `fig-cap`.
"""
import argparse
import base64
import json
import re
from html import escape
from html.parser import HTMLParser
from pathlib import Path, PurePosixPath

ROOT = Path(__file__).resolve().parents[1]
IMAGES = "nbs/images/index_{}.png"
HEAD = "<!-- Made from nbs/index.ipynb by tools/make_readme.py: change the notebook, not this file. -->\n\n"


def directives(source: str) -> tuple[dict[str, str], str]:
    "The `#|` lines on top of a cell as {name: value}, and the rest of the cell as a reader sees it."
    lines = source.strip("\n").split("\n")
    n = next((i for i, line in enumerate(lines) if not line.startswith("#|")), len(lines))
    pairs = (re.sub(r"^(\w+) ", r"\1:", line[2:].strip()).partition(":") for line in lines[:n])
    found = {k.strip(): v.strip().strip("\"'") for k, _, v in pairs}
    housekeeping = r"\s*%(load_ext|autoreload|reload_ext|matplotlib|config)\b|.*#\|\s*hide_line\s*$"
    return found, "\n".join(line for line in lines[n:] if not re.match(housekeeping, line)).strip("\n")


def fence(text: str, language: str = "") -> str:
    "Text in a fence that it cannot close."
    ticks = "`" * max(3, 1 + max(map(len, re.findall("`+", text)), default=0))
    return f"{ticks}{language}\n{text.rstrip()}\n{ticks}"


class Table(HTMLParser):
    "The rows of an HTML table: lists of (is it a heading, text, rows spanned, columns spanned)."
    def __init__(self, text: str):
        super().__init__()
        self.rows, self.n_head, self.cell = [], 0, False
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list) -> None:
        a = dict(attrs)
        if tag == "tr": self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append([tag == "th", "", int(a.get("rowspan", 1)), int(a.get("colspan", 1))])
        self.cell = tag in ("td", "th") or self.cell and tag != "tr"

    def handle_endtag(self, tag: str) -> None:
        if tag == "thead": self.n_head = len(self.rows)
        if tag in ("td", "th"): self.cell = False

    def handle_data(self, data: str) -> None:
        if self.cell: self.rows[-1][-1][1] += data


def html_cell(head: bool, text: str, rows: int, columns: int) -> str:
    "A cell of a table as HTML."
    tag = "th" if head else "td"
    merged = f" rowspan={rows}" * (rows > 1) + f" colspan={columns}" * (columns > 1)
    return f"<{tag}{merged}>{escape(text)}</{tag}>"


def table(text: str) -> str:
    "A pandas table as Markdown; one with merged cells as plain HTML, which GitHub shows as well."
    t = Table(text)
    if any(rows > 1 or columns > 1 for row in t.rows for _, _, rows, columns in row):
        rows = ["".join(html_cell(*cell) for cell in row) for row in t.rows]
        return "<table>\n" + "\n".join(f"<tr>{row}</tr>" for row in rows) + "\n</table>"

    # `\|`: a bar in a title must not end its cell; `\<`: nor may it open a tag
    rows = [[re.sub(r"([|<*_`$\\])", r"\\\1", x.strip()) for _, x, _, _ in row] for row in t.rows]
    # pandas gives names of the index a heading row of their own: both rows become one
    head = ["".join(filter(None, dict.fromkeys(column))) for column in zip(*rows[:t.n_head], strict=True)]
    body = rows[t.n_head:]
    figure = re.compile(r"[-+−]?[\d.,]+(e[-+]\d+)?%?|NaN|\\<NA>|")
    number = [all(map(figure.fullmatch, column)) for column in zip(*body, strict=True)]
    lines = [head, ["--:" if n else ":--" for n in number], *body]
    return "\n".join("| " + " | ".join(row) + " |" for row in lines)


def outputs(cell: dict, options: dict[str, str], images: dict[str, bytes]) -> list[str]:
    "What a cell shows below its code, as blocks of Markdown; pictures are added to `images`, by path from the root."
    blocks = []
    for o in cell.get("outputs", []):
        data = {k: "".join(v) for k, v in o.get("data", {}).items()}
        if o["output_type"] == "stream": blocks.append(fence("".join(o["text"])))
        elif png := data.get("image/png"):
            path = IMAGES.format(len(images) + 1)
            images[path] = base64.b64decode(png)
            alt = options.get("fig-alt") or options.get("fig-cap") or "Figure"
            width = o.get("metadata", {}).get("image/png", {}).get("width")
            blocks.append(f'<img src="{path}" alt="{escape(alt)}"' + (f' width="{width}"' if width else "") + ">")
        elif "text/markdown" in data: blocks.append(data["text/markdown"].strip("\n"))
        elif "<table" in data.get("text/html", ""): blocks.append(table(data["text/html"]))
        elif "text/plain" in data: blocks.append(fence(data["text/plain"]))
    return blocks


def links(text: str) -> str:
    "Relative links of a notebook in nbs/ as links from the root; a page of the site becomes its notebook."
    notebooks = {re.sub(r"^\d+[a-z]*_", "", p.stem).lower(): p for p in (ROOT / "nbs").rglob("*.ipynb")}

    def mend(m: re.Match) -> str:
        url, hash_, anchor = m[2].partition("#")
        if not url or re.match(r"[a-z]+:|/", url): return m[0]
        page = PurePosixPath(url)
        if page.suffix == ".html" and page.stem in notebooks:
            return m[1] + notebooks[page.stem].relative_to(ROOT).as_posix()
        if url.startswith("../"): return m[1] + url[3:] + hash_ + anchor
        # Anchors do not work in notebooks on GitHub
        return f"{m[1]}nbs/{url}{'' if page.suffix == '.ipynb' else hash_ + anchor}"

    parts = re.split(r"(^```.*?^```|`[^`\n]*`)", text, flags=re.S | re.M)  # code stays as it is
    return "".join(p if i % 2 else re.sub(r"(\]\(|\b(?:src|href)=\")([^)\s\"]+)", mend, p) for i, p in enumerate(parts))


def readme(notebook: Path) -> tuple[str, dict[str, bytes]]:
    "The text of README.md, and its pictures by path from the root."
    blocks, images = [], {}
    for cell in json.loads(notebook.read_text(encoding="utf-8"))["cells"]:
        options, source = directives("".join(cell["source"]))
        hidden = options.keys() & {"hide", "default_exp"} or options.get("include") == "false"
        if hidden or cell["cell_type"] == "raw": continue

        if cell["cell_type"] == "markdown":
            blocks.append(links(re.sub(r"\A---\n.*?\n---\n", "", source, flags=re.S)))
            continue
        if source and options.get("echo") != "false": blocks.append(fence(source, "python"))
        if options.get("output") != "false": blocks += outputs(cell, options, images)

    return HEAD + "\n\n".join(b.strip("\n") for b in blocks if b.strip()) + "\n", images


def main() -> None:
    "The command line."
    parser = argparse.ArgumentParser(description="Make README.md and its pictures from nbs/index.ipynb.")
    parser.add_argument("--check", action="store_true", help="write nothing; exit with 1 when something is out of date")
    check = parser.parse_args().check
    notebook = ROOT / "nbs" / "index.ipynb"
    if not notebook.exists(): raise SystemExit("There is no nbs/index.ipynb to make README.md from.")

    text, images = readme(notebook)
    wanted = {"README.md": text.encode()} | images
    there = {p.relative_to(ROOT).as_posix() for p in ROOT.glob(IMAGES.format("*"))}
    changed = [k for k, v in wanted.items() if not (ROOT / k).exists() or (ROOT / k).read_bytes() != v]
    stale = changed + sorted(there - set(images))
    if check and stale: raise SystemExit(f"Out of date: {', '.join(stale)}; run python tools/make_readme.py")

    for k in stale:
        path = ROOT / k
        path.parent.mkdir(parents=True, exist_ok=True)
        if k in wanted: path.write_bytes(wanted[k])
        else: path.unlink()
    print("README.md is up to date." if not stale else f"Written: {', '.join(stale)}")


if __name__ == "__main__": main()
