"The documentation site, as built without Quarto: its files, and what a reader does with it in a browser."
import json
import posixpath
import re
import threading
from configparser import ConfigParser
from functools import partial
from html.parser import HTMLParser
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = sorted(p for p in (ROOT / "nbs").rglob("*.ipynb") if not re.search(r"/[_.]", p.relative_to(ROOT).as_posix()))


def page_of(notebook):
    "The page of a notebook: its name without the number."
    return notebook.relative_to(ROOT / "nbs").with_name(re.sub(r"^\d+[a-z]*_", "", notebook.stem) + ".html").as_posix()


class Page(HTMLParser):
    "A page: title, anchors with the text that follows each, links (address, text, is it code), loaded addresses, prose outside code."
    def __init__(self, path):
        super().__init__()
        self.title, self.ids, self.links, self.loads, self.prose, self.inside, self.near, self.alts = "", {}, [], [], "", [], set(), []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attrs):
        a = dict(attrs)
        if "id" in a:
            self.ids.setdefault(a["id"], "")
            self.near.add(a["id"])
        if tag == "a" and a.get("href"): self.links.append([a["href"], "", False])
        if tag == "img": self.alts.append(a.get("alt") or "")
        if tag != "a": self.loads += [v for k, v in attrs if k in ("src", "srcset", "href", "poster", "data") and v]
        self.loads += re.findall(r"url\(([^)]+)\)", a.get("style") or "")
        if tag in ("title", "pre", "code", "math", "script", "style", "a"): self.inside.append(tag)

    def handle_endtag(self, tag):
        if tag in self.inside: self.inside.remove(tag)

    def handle_data(self, data):
        if "title" in self.inside: self.title += data
        if "a" in self.inside and self.links: self.links[-1][1:] = [self.links[-1][1] + data, "code" in self.inside]
        if not {"pre", "code", "math", "script", "style"} & set(self.inside): self.prose += data
        for i in self.near: self.ids[i] += data
        self.near = {i for i in self.near if len(self.ids[i]) < 80}


@pytest.fixture(scope="module")
def site(request):
    "The folder of the site that is checked."
    if not (given := request.config.getoption("--site")):
        pytest.skip("first python tools/build_site.py --out DIR, then pytest tests/test_site.py --site DIR")
    folder = request.config.invocation_params.dir / given
    assert (folder / "index.html").is_file(), f"{folder} holds no site: python tools/build_site.py --out {given}"
    return folder


@pytest.fixture(scope="module")
def pages(site):
    return {p.relative_to(site).as_posix(): Page(p) for p in site.rglob("*.html")}


def target(page, url):
    "The page and the anchor a relative link leads to."
    parts = urlsplit(url)
    path = posixpath.normpath(posixpath.join(posixpath.dirname(page), unquote(parts.path))) if parts.path else page
    return ("index.html" if path == "." else path), unquote(parts.fragment)


def test_a_page_for_each_notebook(pages):
    assert set(pages) == {page_of(n) for n in NOTEBOOKS} | {"index.html"}
    for name, page in pages.items(): assert page.title.strip().endswith("saerec"), f"{name}: title {page.title!r}"


def test_links_inside_the_site(site, pages):
    broken = []
    for name, page in pages.items():
        for url in [url for url, *_ in page.links] + page.loads:
            if urlsplit(url).scheme or urlsplit(url).netloc: continue
            path, anchor = target(name, url)
            if not (site / path).is_file() or anchor and path in pages and anchor not in pages[path].ids: broken.append(f"{name} -> {url}")
    assert not broken
    assert not [u for p in pages.values() for u, *_ in p.links if u.startswith("https://saerec.github.io")], "links to the site are relative"


def test_names_in_prose_lead_to_their_documentation(pages):
    found = set()
    for name, page in pages.items():
        for url, text, code in page.links:
            path, anchor = target(name, url)
            if not code or path not in pages or re.sub(r"-\d+$", "", anchor) != text.rstrip("()").lower(): continue
            found.add(f"{text} {path}#{anchor}")
            assert text.rstrip("()").rpartition(".")[2] in pages[path].ids[anchor], f"{name}: {text} leads to {pages[path].ids[anchor]!r}"
    assert len(found) > 3
    assert "Ratings data/ratings.html#ratings-1" in found, "the entry of the class, not the section of that name"


def test_nothing_from_another_host(site, pages):
    foreign = [f"{n} loads {u}" for n, p in pages.items() for u in p.loads if re.match(r"(https?:)?//", u)]
    for css in site.rglob("*.css"):
        foreign += [f"{css.name} loads {u}" for u in re.findall(r"""(?:@import|url\()\s*["']?((?:https?:)?//[^"')]*)""", css.read_text(encoding="utf-8"))]
    assert not foreign


def test_formulas_are_mathml(site, pages):
    for name, page in pages.items():
        left = re.findall(r"\$\$|\\[(\[]|\\[a-zA-Z]{2,}", page.prose)
        assert not left, f"{name}: TeX left in the text: {left}"
    for notebook in NOTEBOOKS:
        cells = [c for c in json.loads(notebook.read_text(encoding="utf-8"))["cells"] if c["cell_type"] == "markdown"]
        displayed = sum(len(re.findall(r"\$\$.+?\$\$", "".join(c["source"]), re.S)) for c in cells)
        text = (site / page_of(notebook)).read_text(encoding="utf-8")
        assert text.count('display="block"') == displayed, notebook.name
        assert "katex" not in text.lower()


def test_figures_have_their_size(site):
    for notebook in NOTEBOOKS:
        cells = [c for c in json.loads(notebook.read_text(encoding="utf-8"))["cells"] if not re.match(r"#\| *(hide|output: *false)", "".join(c["source"]))]
        sizes = [o["metadata"]["image/png"]["width"] for c in cells for o in c.get("outputs", []) if "image/png" in o.get("metadata", {})]
        shown = re.findall(r'<img\b[^>]*?\bsrc="data:image/png;base64,[^"]*" width="(\d+)"', (site / page_of(notebook)).read_text(encoding="utf-8"))
        assert shown == [str(s) for s in sizes], notebook.name


def test_figures_have_alt_text(pages):
    "Each picture says in words what is to be seen, by `#| fig-alt` of its cell; so do those of the README."
    alts = [(name, alt) for name, page in pages.items() for alt in page.alts]
    alts += [("README.md", alt) for alt in Page(ROOT / "README.md").alts]
    assert len(alts) > 20 and "index.html" in dict(alts)
    assert not [name for name, alt in alts if len(alt.split()) < 5]


def test_sidebar_and_notebooks_agree():
    text = (ROOT / "nbs/_quarto.yml").read_text(encoding="utf-8")
    named = re.findall(r"\S+\.ipynb", text)
    missing = [n for n in NOTEBOOKS if not any(n.relative_to(ROOT / "nbs").match(name) for name in named)]
    assert not missing, "not in the sidebar of nbs/_quarto.yml"
    if planned := [name for name in named if not any(n.match(name) for n in NOTEBOOKS)]: pytest.skip(f"in the sidebar, not written yet: {', '.join(planned)}")


def test_quarto_reads_the_same_metadata():
    "nbdev-docs writes nbs/nbdev.yml from pyproject.toml; it must find nothing to change."
    ini = ConfigParser(interpolation=None)
    ini.read(ROOT / "settings.ini", encoding="utf-8")
    text = (ROOT / "nbs/nbdev.yml").read_text(encoding="utf-8")
    for key in ("lib_name", "description", "git_url", "doc_url"): assert f'"{ini["DEFAULT"][key].rstrip("/")}"' in text, key


# --- a reader with a browser ---

class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *args): pass


@pytest.fixture(scope="module")
def address(site):
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=site)) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


@pytest.fixture
def tab(chromium, address):
    "A browser tab that fails the test on any error in the console, failed request, or request to another host."
    faults = []
    tab = chromium.new_page(viewport={"width": 1280, "height": 900})
    tab.set_default_timeout(10_000)
    tab.on("console", lambda m: faults.append(f"console: {m.text}") if m.type in ("error", "warning") else None)
    tab.on("pageerror", lambda e: faults.append(f"script: {e}"))
    tab.on("request", lambda r: faults.append(f"foreign: {r.url}") if not r.url.startswith((address, "data:", "blob:")) else None)
    tab.on("requestfailed", lambda r: faults.append(f"failed: {r.url}") if r.failure != "net::ERR_ABORTED" else None)
    tab.on("response", lambda r: faults.append(f"{r.status}: {r.url}") if r.status >= 400 else None)
    yield tab
    tab.close()
    assert not faults


IN_VIEW = """() => {
    const e = document.getElementById(decodeURIComponent(location.hash.slice(1)));
    const header = document.querySelector("#quarto-header").getBoundingClientRect().bottom;
    return e !== null && e.getBoundingClientRect().top >= header - 2 && e.getBoundingClientRect().top < innerHeight;
}"""


CUT_OFF = """() => [...document.querySelectorAll("main *")].filter(e => {
    if (e.getBoundingClientRect().right <= innerWidth + 1) return false;
    for (let box = e; box.tagName !== "MAIN"; box = box.parentElement) if (/auto|scroll/.test(getComputedStyle(box).overflowX)) return false;
    return true;
}).map(e => e.outerHTML.slice(0, 80))"""


SCROLLS = """() => [...document.querySelectorAll("main pre")].filter(e => e.scrollWidth > e.clientWidth + 1)
    .map(e => e.innerText.slice(0, 80))"""


def test_every_page_opens(tab, address, pages):
    "Each page once, seen on a screen and on a phone."
    for name in sorted(pages):
        tab.goto(address + name)
        assert tab.locator("main h1").first.is_visible(), name
        for width in (1280, 390):
            tab.set_viewport_size({"width": width, "height": 900})
            assert not tab.evaluate(CUT_OFF), f"{name}: cut off on a screen of {width} pixels"
            assert not tab.evaluate(SCROLLS), f"{name}: code is wider than its column on a screen of {width} pixels"
            if tab.locator("#TOC").count(): assert tab.locator("#TOC-body summary").is_visible(), f"{name}: no contents"


@pytest.mark.parametrize("width", [1280, 390])
def test_search(tab, address, width):
    tab.set_viewport_size({"width": width, "height": 900})
    tab.goto(address)
    if width < 500: tab.locator(".navbar-toggler").click()
    tab.get_by_role("searchbox", name="Search").fill("split_users")
    tab.locator(".search-result", has_text="split_users").first.click()
    tab.wait_for_url("**/data/splits.html#*")
    assert tab.locator("main h1").first.inner_text() == "splits"
    tab.wait_for_function(IN_VIEW)


def test_from_prose_to_a_function(tab, address, pages):
    start = "index.html" if any(code and text == "Ratings" for _, text, code in pages["index.html"].links) else "data.html"
    tab.goto(address + start)
    tab.locator("main p a:has(code)", has_text=re.compile(r"^Ratings$")).first.click()
    tab.wait_for_url("**/data/ratings.html#ratings-1")
    tab.wait_for_function(IN_VIEW)
