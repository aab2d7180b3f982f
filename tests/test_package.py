"""The package as others get it: metadata that agree, wheel and sdist of the right files, light imports, no lint."""
import ast
import configparser
import email
import importlib.metadata
import json
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import saerec

ROOT = Path(__file__).resolve().parents[1]
PARSER = configparser.ConfigParser(delimiters=["="], inline_comment_prefixes=["#"])
PARSER.read(ROOT / "settings.ini", encoding="utf-8")
CFG = PARSER["DEFAULT"]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
# dev first: it holds what the others hold, for the tests
EXTRAS = [k.removesuffix("_requirements") for k in CFG if k.endswith("_requirements")]
KINDS = ("requirements", *(f"{k}_requirements" for k in EXTRAS))


def entries(key: str) -> list[str]:
    return [o.strip() for o in CFG[key].splitlines() if o.strip()]


NEEDED = {k: [Requirement(o) for o in entries(k)] for k in KINDS}


def run(*args: str, cwd: Path = ROOT, timeout: int = 300) -> str:
    done = subprocess.run(args, cwd=cwd, timeout=timeout, stdin=subprocess.DEVNULL, capture_output=True, text=True,
                          encoding="utf-8", errors="replace")
    assert done.returncode == 0, f"{' '.join(args)[:200]}\n{done.stdout[-6000:]}{done.stderr[-6000:]}"
    return done.stdout


def tracked() -> list[Path]:
    "The files of the repository: in git, or new and not ignored; pytest skips where there is no git."
    if not (ROOT / ".git").exists() or not shutil.which("git"): pytest.skip("no git repository here")
    names = run("git", "-c", "safe.directory=*", "ls-files", "-coz", "--exclude-standard").split("\0")
    return [p for n in names if n and (p := ROOT / n).is_file()]


# --- metadata ---

def test_settings_and_pyproject_agree() -> None:
    p = PROJECT["project"]
    assert p["name"] == CFG["lib_name"] and p["description"] == CFG["description"]
    assert p["requires-python"] == f">={CFG['min_python']}"
    assert p["urls"] == {"Repository": CFG["git_url"], "Documentation": CFG["doc_url"]}
    static = {"name", "description", "requires-python", "urls", "dynamic"}
    assert set(p) == static, "a static field silently beats setup.py"
    assert PROJECT["tool"]["nbdev"]["lib_path"] == CFG["lib_path"]
    assert PROJECT["tool"]["mypy"]["python_version"] == CFG["min_python"]


def test_version_and_docstring() -> None:
    assert saerec.__version__ == CFG["version"] and re.fullmatch(r"\d+\.\d+\.\d+", CFG["version"])
    assert (saerec.__doc__ or "").strip().rstrip(".") == CFG["description"]


def check_metadata(m) -> None:
    "What an installer reads, against settings.ini."
    assert (m["Name"], m["Version"], m["Summary"]) == (CFG["lib_name"], CFG["version"], CFG["description"])
    assert (m["License-Expression"], m["Author"]) == (CFG["license"], CFG["author"])
    assert m["Requires-Python"] == f">={CFG['min_python']}"
    assert set(m.get_all("Project-URL")) == {f"Repository, {CFG['git_url']}", f"Documentation, {CFG['doc_url']}"}
    assert set(re.split(r"[ ,]+", m["Keywords"])) == set(CFG["keywords"].split())
    assert CFG["status"] in m.get_all("Classifier")

    given = [Requirement(o) for o in m.get_all("Requires-Dist")]
    def of(extra: str) -> list[Requirement]: return [r for r in given if f'extra == "{extra}"' in str(r.marker)]
    def ranges(needs: list[Requirement]) -> set: return {(canonicalize_name(r.name), str(r.specifier)) for r in needs}
    plain = [r for r in given if r.marker is None]
    for key, found in zip(KINDS, [plain, *map(of, EXTRAS)], strict=True):
        assert ranges(found) == ranges(NEEDED[key]), f"{key} of settings.ini are not those installed: install again"


def test_installed_metadata() -> None:
    check_metadata(importlib.metadata.metadata("saerec"))
    scripts = importlib.metadata.entry_points(group="console_scripts")
    assert f"saerec={scripts['saerec'].value}" in entries("console_scripts")


# --- requirements ---

def test_pins_satisfy_the_ranges() -> None:
    lines = (o.split("#")[0].strip() for o in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines())
    pins = {}
    for o in filter(None, lines):
        assert re.fullmatch(r"[A-Za-z0-9._-]+==[\w.!+]+", o), f"{o!r} is no pin"
        name, version = o.split("==")
        assert canonicalize_name(name) not in pins, f"{name} is pinned twice"
        pins[canonicalize_name(name)] = version
    for r in NEEDED[KINDS[0]] + NEEDED[KINDS[1]]:
        pin = pins.get(canonicalize_name(r.name))
        assert pin, f"{r.name} has no pin in constraints.txt"
        assert r.specifier.contains(pin, prereleases=True), f"the pin {r.name}=={pin} lies outside {r}"


@pytest.mark.parametrize("key", KINDS)
def test_each_requirement_has_a_range_and_a_reason(key: str) -> None:
    text = (ROOT / "settings.ini").read_text(encoding="utf-8")
    block = re.search(rf"^{key}\s*=\n((?:[ \t]+\S.*\n?)+)", text, re.M)
    assert block
    lines = block[1].splitlines()
    assert len(lines) == len(NEEDED[key])
    form = re.compile(r"\s+[\w.-]+(?:\[\w+\])?\s*[<>=!~][^#]*#\s*\S.{2,}")
    for o in lines: assert form.fullmatch(o), f"{o.strip()!r}: a requirement is 'name>=version  # its one reason'"

    names = [canonicalize_name(r.name) for r in NEEDED[KINDS[0]] + NEEDED[KINDS[1]]]
    assert len(names) == len(set(names)), "a requirement is there twice"
    dev = {str(r) for r in NEEDED["dev_requirements"]}
    jupyter = {str(r) for r in NEEDED["notebooks_requirements"] if r.name in ("jupyterlab", "ipywidgets")}  # not tested
    missing = {str(r) for r in NEEDED[key]} - dev - jupyter
    assert key == KINDS[0] or not missing, f"the tests need what {key} has: put it among dev_requirements too"


@pytest.mark.parametrize("key", KINDS[:1])
def test_each_requirement_is_imported(key: str) -> None:
    "A dependency that no module imports is one too many; a module that imports another thing lacks one."
    imports = {"scikit-learn": "sklearn", "charset-normalizer": "charset_normalizer"}
    ours = {imports.get(r.name, r.name) for r in NEEDED[key]}
    # Extras are imported where they are used
    optional = {imports.get(r.name, r.name) for k in KINDS[2:] for r in NEEDED[k]}
    used = set()
    for f in (ROOT / "saerec").rglob("*.py"):
        for node in ast.walk(ast.parse(f.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import): used |= {a.name.split(".")[0] for a in node.names}
            elif isinstance(node, ast.ImportFrom) and not node.level: used.add((node.module or "").split(".")[0])

    other = used - set(sys.stdlib_module_names) - ours - optional - {"saerec"}
    assert not other, f"imported, but not in settings.ini: {sorted(other)}"
    assert not ours - used, f"in settings.ini, but never imported: {sorted(ours - used)}"


# --- the files of the package ---

def test_bundled_data() -> None:
    bundled = ROOT / "saerec" / "bundled"
    assert "GroupLens" in (bundled / "LICENSE.txt").read_text(encoding="utf-8")
    sizes = {p.name: p.stat().st_size for p in bundled.glob("*.parquet")}
    assert sizes and sum(sizes.values()) < 1_000_000, sizes
    assert {p.name for p in bundled.iterdir()} == {"LICENSE.txt", *sizes}
    assert (ROOT / "saerec" / "py.typed").is_file()


BUILD = "import sys, setuptools.build_meta as b; print(getattr(b, f'build_{sys.argv[1]}')(sys.argv[2]))"


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    "An sdist made from a copy of the repository, and a wheel made from that sdist."
    pytest.importorskip("setuptools", minversion="77", reason="building needs setuptools 77 or newer")
    copy, out = tmp_path_factory.mktemp("copy"), tmp_path_factory.mktemp("dist")
    for p in tracked():
        to = copy / p.relative_to(ROOT)
        to.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(p, to)
    sdist = out / run(sys.executable, "-c", BUILD, "sdist", str(out), cwd=copy).splitlines()[-1]
    safe = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}  # not in Python 3.11.2
    with tarfile.open(sdist) as t: t.extractall(copy / "unpacked", **safe)

    source = next((copy / "unpacked").iterdir())
    return sdist, out / run(sys.executable, "-c", BUILD, "wheel", str(out), cwd=source).splitlines()[-1]


def package_files() -> set[str]:
    return {p.relative_to(ROOT).as_posix() for p in tracked() if p.relative_to(ROOT).parts[0] == CFG["lib_path"]}


def test_wheel(built: tuple[Path, Path]) -> None:
    with zipfile.ZipFile(built[1]) as z:
        info = f"{CFG['lib_name']}-{CFG['version']}.dist-info"
        names = set(z.namelist())
        ours = {n for n in names if not n.startswith(info)}
        assert ours == package_files(), "the wheel holds the package and nothing else"
        bundled = {f"saerec/bundled/{n}" for n in ("LICENSE.txt", "ratings.parquet", "movies.parquet")}
        assert {"saerec/py.typed", f"{info}/licenses/LICENSE"} | bundled <= names

        check_metadata(email.message_from_bytes(z.read(f"{info}/METADATA")))
        made = configparser.ConfigParser(delimiters=["="])
        made.read_string(z.read(f"{info}/entry_points.txt").decode())
        assert [f"{k}={v}" for k, v in made["console_scripts"].items()] == entries("console_scripts")
        assert dict(made["nbdev"]) == {CFG["lib_name"]: f"{CFG['lib_path']}._modidx:d"}


def test_sdist(built: tuple[Path, Path]) -> None:
    with tarfile.open(built[0]) as t:
        names = {n.split("/", 1)[1] for n in t.getnames() if "/" in n}
        info = t.extractfile(f"{CFG['lib_name']}-{CFG['version']}/PKG-INFO")
        assert info
        check_metadata(email.message_from_bytes(info.read()))

    beside = {"settings.ini", "setup.py", "pyproject.toml", "README.md", "LICENSE", "constraints.txt"}
    assert package_files() | beside <= names
    development = ("nbs", "tests", "tools", ".ci", ".github", "build", "model")
    others = sorted(n for n in names if n.split("/")[0] in development)
    assert not others, "development files in the sdist"


# --- imports ---

LIGHT = """
import importlib, json, pkgutil, sys, time
import torch, numpy, pandas
before, start = set(sys.modules), time.perf_counter()
import saerec
for m in sorted(o.name for o in pkgutil.walk_packages(saerec.__path__, "saerec.")):
    if m.endswith("__main__") or m.startswith("saerec.app."): continue  # that room opens with the page
    importlib.import_module(m)
print(json.dumps([time.perf_counter() - start, sorted(set(sys.modules) - before)]))
"""
HEAVY = ("matplotlib", "sklearn", "pooch", "tqdm", "pyarrow.parquet", "fastcore.test", "IPython", "requests",
         "fastapi", "starlette", "jinja2", "uvicorn")


def test_imports_are_light(tmp_path: Path, note) -> None:
    "What only some calls need is imported in them. The time is shown, not judged."
    seconds, new = json.loads(run(sys.executable, "-c", LIGHT, cwd=tmp_path).splitlines()[-1])
    heavy = sorted({h for h in HEAVY for m in new if m == h or m.startswith(h + ".")})
    assert not heavy, f"importing saerec imports {heavy}; import them where they are used"
    note(f"all modules of saerec import in {seconds:.2f} s beyond torch, numpy and pandas")


# --- the state of the text ---

def test_ruff() -> None:
    run(sys.executable, "-m", "ruff", "check", ".")


def test_readme_is_current() -> None:
    tool = ROOT / "tools" / "make_readme.py"
    if not tool.is_file(): pytest.skip("tools/make_readme.py is not there")
    run(sys.executable, str(tool), "--check")


MACHINE = re.compile(r"(?<![\w.%-])/(?:work|root|Users/\w+|home/\w+|tmp/venv)/", re.I)
HOSTS = re.compile(r"\bpypi\.org|files\.pythonhosted|deb\.debian\.org|registry\.npmjs|download\.pytorch\.org", re.I)


def test_no_machine_paths_or_registry_hosts() -> None:
    "Nothing in git, outputs of notebooks included, knows the machine it was made on or where packages come from."
    found = []
    for p in tracked():
        try: text = p.read_bytes().decode("utf-8")
        except UnicodeDecodeError: continue  # Parquet, pictures
        if p.suffix == ".ipynb": text = re.sub(r'"image/png": "[^"]*"', '""', text)  # base64 holds any letters
        for m in (m for rx in (MACHINE, HOSTS) for m in rx.finditer(text)):
            found.append(f"{p.relative_to(ROOT).as_posix()}: {text[max(0, m.start() - 30):m.end() + 30]!r}")
    assert not found, "\n".join(found[:20])


# Modules that write and read objects that can run code, and calls that do so
PICKLES = {"pickle", "cPickle", "dill", "cloudpickle", "shelve", "marshal"}
UNSAFE = {"read_pickle", "to_pickle", "joblib.load", "joblib.dump", "torch.load", "torch.save", "yaml.load",
          "eval", "exec"}


def unsafe(code: str) -> list[str]:
    "What of a Python text reads or writes pickles, or runs text: module or call, with its line."
    found = []
    for o in ast.walk(ast.parse(code)):
        if isinstance(o, ast.Import): found += [f"line {o.lineno}: import {a.name}" for a in o.names if pickles(a.name)]
        if isinstance(o, ast.ImportFrom) and pickles(o.module): found.append(f"line {o.lineno}: from {o.module}")
        if isinstance(o, ast.Call): found += [f"line {o.lineno}: {call}" for call in unsafe_calls(o)]
    return found


def pickles(module: str | None) -> bool: return (module or "").split(".")[0] in PICKLES


def unsafe_calls(o: ast.Call) -> list[str]:
    "The call, if it can run what it reads."
    name = ast.unparse(o.func)
    found = [f"{name}()"] if name in UNSAFE or name.split(".")[-1] in ("read_pickle", "to_pickle") else []
    allowed = [k.value for k in o.keywords if k.arg == "allow_pickle"]
    if allowed and ast.unparse(allowed[0]) != "False": found.append(f"{name}(allow_pickle)")
    return found


def code_of(p: Path) -> str:
    "The Python of a module, or of a notebook without its commands for the shell."
    text = p.read_text(encoding="utf-8")
    if p.suffix != ".ipynb": return text
    cells = ("".join(c["source"]) for c in json.loads(text)["cells"] if c["cell_type"] == "code")
    return "\n".join(o for t in cells for o in t.splitlines() if not o.lstrip().startswith(("!", "%")))


@pytest.mark.parametrize(("code", "n"), [
    ("import pickle", 1), ("from dill import x", 1), ("torch.load('x')", 1), ("pd.read_pickle('x')", 1),
    ("eval('1')", 1), ("np.load(f, allow_pickle=True)", 1), ("np.load(f, allow_pickle=False)", 0), ("model.eval()", 0)])
def test_what_is_unsafe(code: str, n: int) -> None:
    assert len(unsafe(code)) == n


def test_no_pickle() -> None:
    "No module, notebook, test or tool, but the program that runs other libraries to measure them; it is not packaged."
    ours = [p for p in tracked() if p.suffix in (".py", ".ipynb") and p.name != "peer_runner.py"]
    found = {p.relative_to(ROOT).as_posix(): bad for p in ours if (bad := unsafe(code_of(p)))}
    assert not found, found
