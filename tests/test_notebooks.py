"""Every notebook runs, its stored outputs are what it gives today, it is clean, documented, and the same as the package."""
import difflib
import doctest
import importlib
import inspect
import json
import os
import re
import resource
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from conftest import START
from fastcore.docments import docments
from filelock import FileLock
from nbdev.clean import clean_nb
from nbdev.config import get_config

from saerec.data import Ratings
from saerec.recommend import Recommender, training
from saerec.recommend.artefact import Artefact

ROOT = Path(__file__).resolve().parents[1]
NBS = ROOT / "nbs"
NOTEBOOKS = sorted(p for p in NBS.rglob("*.ipynb") if not any(part[0] in "._" for part in p.relative_to(NBS).parts))
PACKAGE = ROOT / "saerec"
MODULES = sorted(".".join(p.relative_to(PACKAGE).with_suffix("").parts) for p in PACKAGE.rglob("*.py") if p.stem[0] != "_")
HANDWRITTEN = ("py.typed", "__main__.py", "train/__main__.py", "bundled/", "app/static/", "app/templates/")  # files of the package that no notebook makes
CONFIG = get_config(ROOT)
SKIP_FLAGS = (CONFIG.tst_flags or "").split() if isinstance(CONFIG.tst_flags, str) else list(CONFIG.tst_flags or [])
each_notebook = pytest.mark.parametrize("nb", NOTEBOOKS, ids=[p.relative_to(NBS).as_posix() for p in NOTEBOOKS])


def load(path: Path) -> dict:
    return json.loads(path.read_text(encoding="utf-8"))


def source(cell: dict) -> str:
    return "".join(cell["source"])


def has_directive(cell: dict, name: str) -> bool:
    return cell["cell_type"] == "code" and re.search(rf"^\s*#\s*\|\s*{name}\b", source(cell), re.M) is not None


def environment(home: Path) -> dict[str, str]:
    "The variables a notebook runs with; nothing depends on where pytest was started."
    env = {k: v for k, v in os.environ.items() if k != "IN_TEST"}
    env |= {"MPLBACKEND": "agg", "IPYTHONDIR": str(home / ".ipython"), "PYTHONIOENCODING": "utf-8", "COLUMNS": "80"}
    env["PYTHONPATH"] = os.pathsep.join([str(ROOT)] + ([env["PYTHONPATH"]] if env.get("PYTHONPATH") else []))
    env["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), env.get("PATH", "")])
    if "SAEREC_DATA" not in env and (ROOT.parent / "shared" / "data").is_dir(): env["SAEREC_DATA"] = str(ROOT.parent / "shared" / "data")
    return env


def copy_project(to: Path, *extra: str) -> Path:
    "A copy of what nbdev needs, so that nothing that runs there can change the checkout."
    to.mkdir(parents=True)
    for name in ("pyproject.toml", "settings.ini", *extra):
        src = ROOT / name
        if src.is_dir(): shutil.copytree(src, to / name, ignore=shutil.ignore_patterns("__pycache__"))
        else: shutil.copy(src, to / name)
    shutil.copytree(NBS, to / "nbs", ignore=shutil.ignore_patterns(".*", "_proc"))
    return to


def run(code: str, *args: str, cwd: Path, timeout: int = 300, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code, *args], cwd=cwd, env=environment(cwd) | (env or {}), timeout=timeout, stdin=subprocess.DEVNULL,
                          capture_output=True, text=True, encoding="utf-8", errors="replace")


# --- running: once for each notebook, in a process of its own, as many at a time as there are cores, beside the other tests; what it gives is compared afterwards ---

def share_trainings(folder: Path) -> None:
    """What several pages train, with the same options on the same data, is trained once, by the first that asks.

    The others read what it saved, and say what was said. What says more of a training, or goes on with one, is not
    shared."""
    train = training.train

    def fit(r: Ratings, **options: Any) -> tuple[Artefact, dict]:
        if {"checkpoints", "keep", "about"} & set(options): return train(r, **options)
        say = options.pop("say", print) or (lambda line: None)
        asked = json.dumps([r.fingerprint(), r.name, r.scale, r.movies.to_csv(), sorted(options.items())])
        place = folder / sha256(asked.encode()).hexdigest()
        with FileLock(f"{place}.lock"):
            if not place.exists():
                said: list[str] = []
                artefact = train(r, say=said.append, **options)[0]
                place.with_suffix(".json").write_text(json.dumps(said))
                Recommender(artefact).save(place)
        for line in json.loads(place.with_suffix(".json").read_text()): say(line)
        return Recommender.load(place).artefact, {}

    training.train = fit


def run_notebook(copy: Path, home: Path, force: str) -> None:
    "Run a copy in place, with what it says and its processor seconds in files."
    for fd, file in ((0, os.devnull), (1, home / "said"), (2, home / "said")): os.dup2(os.open(file, os.O_RDWR | os.O_CREAT | os.O_APPEND), fd)
    sys.stdout = sys.__stdout__ = open(1, "w", closefd=False, encoding="utf-8")
    sys.stderr = sys.__stderr__ = open(2, "w", closefd=False, encoding="utf-8", buffering=1)
    os.environ |= environment(home)
    os.environ.pop("IN_TEST", None)
    os.chdir(home)
    if copy.stem != "training": share_trainings(home.parents[1] / "shared")  # that page is about them
    from nbdev.test import test_nb
    ok, _ = test_nb(copy, skip_flags=SKIP_FLAGS, force_flags=force.split(), basepath=ROOT, save=True, cell_timeout=None if force else 600)
    used = sum(sum(resource.getrusage(who)[:2]) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    (home / "seconds").write_text(f"{used:.0f}")
    sys.exit(not ok)


@pytest.fixture(scope="session")
def execute(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, note):
    "A function that runs a notebook in a fresh copy, or remembers how it went: (exit status, what it said, the notebook with today's outputs)."
    force = "slow" if request.config.getoption("--slow") else ""
    asked = {item.callspec.params["nb"] for item in request.session.items if "execute" in getattr(item, "fixturenames", ()) and hasattr(item, "callspec")}
    workers = max(1, min(len(asked), os.cpu_count() or 1, 4))
    (tmp_path_factory.getbasetemp() / "shared").mkdir()

    def once(nb: Path, project: Path) -> tuple[int | None, str, Path]:
        copy_project(project)
        copy = project / "nbs" / nb.relative_to(NBS)
        p = START.Process(target=run_notebook, args=(copy, project, force))
        p.start()
        p.join(3600 if force else 900)
        if p.exitcode is None: p.kill()
        elif (project / "seconds").exists(): note(f"{nb.relative_to(ROOT).as_posix()}: {(project / 'seconds').read_text()} s of processor time")
        return p.exitcode, (project / "said").read_text(encoding="utf-8", errors="replace"), copy

    with ThreadPoolExecutor(workers) as pool:
        waited_for = getattr(request.session.items[0], "callspec", None)  # see `run_notebooks_beside`
        order = sorted(asked, key=lambda nb: (waited_for is None or nb != waited_for.params.get("nb"), -nb.read_text(encoding="utf-8").count("fit(")))
        running = {nb: pool.submit(once, nb, tmp_path_factory.mktemp("nb") / "project") for nb in order}  # the longest first
        yield lambda nb: running[nb].result()
        for f in running.values(): f.cancel()


@each_notebook
def test_runs(nb: Path, execute) -> None:
    status, errors, _ = execute(nb)
    if status != 0: pytest.fail(f"{nb.relative_to(ROOT).as_posix()} stopped:\n{errors}", pytrace=False)


def slow_cells(nb: Path) -> list[str]:
    return [c.get("id", "?") for c in load(nb)["cells"] if any(has_directive(c, f) for f in SKIP_FLAGS)]


if WITH_SLOW := [pytest.param(p, id=p.relative_to(NBS).as_posix()) for p in NOTEBOOKS if slow_cells(p)]:
    @pytest.mark.parametrize("nb", WITH_SLOW)
    def test_slow_cells(nb: Path, execute, request: pytest.FixtureRequest) -> None:
        "Shows in the report that a notebook's slow cells were left out, or that they ran."
        if not request.config.getoption("--slow"): pytest.skip(f"cells left out in {nb.name}: {len(slow_cells(nb))} with #| slow; run with --slow")
        status, errors, _ = execute(nb)
        if status != 0: pytest.fail(errors, pytrace=False)


# --- stored outputs ---

NUMBER = re.compile(r"((?<![\w.])[-+]?(?:\d{1,3}(?:,\d{3})+|\d+)\.\d*(?:[eE][-+]?\d+)?|(?<![\w.])[-+]?\d+[eE][-+]?\d+(?!\w)|(?<![\w.])[-+]?\.\d+(?:[eE][-+]?\d+)?)")


def squeeze(text: str) -> str:
    "Without the blanks that only line up columns: they move when a number gets a digit more."
    return re.sub(r"([\[(]) ", r"\1", re.sub(r"[ \t]+", " ", re.sub(r"[ \t]+$", "", text, flags=re.M)))


def same_text(old: str, new: str, tolerance: float = 0.02) -> bool:
    "Equal but for numbers with a point, which may differ by 2%."
    a, b = NUMBER.split(squeeze(old)), NUMBER.split(squeeze(new))
    if len(a) != len(b) or a[::2] != b[::2]: return False
    pairs = ((float(x.replace(",", "")), float(y.replace(",", ""))) for x, y in zip(a[1::2], b[1::2], strict=True))
    return all(abs(x - y) <= tolerance * max(abs(x), abs(y)) for x, y in pairs)


@pytest.mark.parametrize(("old", "new", "same"), [
    ("loss 1.000", "loss 1.019", True), ("loss 1.000", "loss 1.030", False), ("10 users", "11 users", False), ("1,234.5", "1,240.1", True), ("1,234", "1,235", False),
    ("[  9.99, 10.00]", "[10.00, 10.00]", True), ("-0.5", "0.5", False), ("1e-05", "1.01e-05", True), ("0.0", "0.0", True), ("a 1.0", "b 1.0", False),
    ("1.0", "1.0 2.0", False), ("3-0.50", "3-0.51", True), ("60%", "61%", False), ("60.1%", "60.9%", True), ("inf", "1.0", False)])
def test_same_text(old: str, new: str, same: bool) -> None:
    assert same_text(old, new) == same


def parts(cell: dict) -> list[tuple[str, str]]:
    "A cell's outputs as (kind, text); of pictures only that they are there; of warnings on stderr nothing."
    out: list[tuple[str, str]] = []
    for o in cell.get("outputs", []):
        kind = o["output_type"]
        if kind == "stream":
            if o["name"] == "stderr": continue
            if out and out[-1][0] == "stdout": out[-1] = ("stdout", out[-1][1] + "".join(o["text"]))
            else: out.append(("stdout", "".join(o["text"])))
        elif kind == "error": out.append(("error", f"{o['ename']}: {o['evalue']}"))
        else:
            for mime, data in sorted(o["data"].items()):
                text = mime.startswith("text/")
                out.append((mime, ("".join(data) if isinstance(data, list) else data) if text else ""))
    return out


def difference(stored: dict, fresh: dict) -> str | None:
    "What is not the same in two runs of a cell; None if nothing."
    old, new = parts(stored), parts(fresh)
    if [k for k, _ in old] != [k for k, _ in new]: return f"stored are {[k for k, _ in old] or 'no outputs'}, the cell gives {[k for k, _ in new] or 'none'}"
    for (kind, a), (_, b) in zip(old, new, strict=True):
        if not same_text(a, b):
            lines = list(difflib.unified_diff(a.splitlines(), b.splitlines(), "stored", "today", lineterm="", n=0))
            return f"{kind} differs:\n" + "\n".join(o[:300] for o in lines[:20])
    return None


@each_notebook
def test_outputs_are_current(nb: Path, execute) -> None:
    status, _, copy = execute(nb)
    if status != 0: pytest.skip("it does not run; see test_runs")
    stored, fresh = load(nb), load(copy)
    for d in (stored, fresh): clean_nb(d, allowed_out_metadata_keys=CONFIG.get("allowed_out_metadata_keys"))
    assert [c["id"] for c in stored["cells"]] == [c["id"] for c in fresh["cells"]]
    faults = []
    for n, (a, b) in enumerate(zip(stored["cells"], fresh["cells"], strict=True)):
        if a["cell_type"] != "code" or has_directive(a, "volatile"): continue
        if found := difference(a, b): faults.append(f"cell {n} ({a['id']}), {source(a)[:80]!r}: {found}")
    if faults: pytest.fail("\n".join([*faults, "If that is right: nbdev-test --save && nbdev-clean"]), pytrace=False)


@each_notebook
def test_no_stored_warnings(nb: Path) -> None:
    "A warning on stderr or a traceback is nothing that a reader should find."
    for n, c in enumerate(load(nb)["cells"]):
        for o in c.get("outputs", []):
            assert o["output_type"] != "error" and o.get("name") != "stderr", f"cell {n} ({c.get('id')}): {''.join(o.get('text', o.get('traceback', [])))[:500]}"


# --- form ---

NBDEV = "from nbdev.{0} import {1}; {1}()"


@pytest.fixture(scope="session")
def cleaned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    project = copy_project(tmp_path_factory.mktemp("clean") / "project")
    done = run(NBDEV.format("clean", "nbdev_clean"), cwd=project)
    assert done.returncode == 0, done.stderr
    return project / "nbs"


@each_notebook
def test_clean(nb: Path, cleaned: Path) -> None:
    unchanged = (cleaned / nb.relative_to(NBS)).read_bytes() == nb.read_bytes()
    assert unchanged, "run nbdev-clean: it would change this notebook"


def generated(package: Path) -> dict[str, bytes]:
    names = (p for p in package.rglob("*") if p.is_file() and "__pycache__" not in p.parts)
    return {n: p.read_bytes() for p in names if not (n := p.relative_to(package).as_posix()).startswith(HANDWRITTEN)}


def test_package_is_the_notebooks(tmp_path: Path) -> None:
    "Exported anew into an empty package, the notebooks give each file of saerec, byte for byte, and no file is left over."
    project = copy_project(tmp_path / "project", "saerec")
    for name in generated(project / "saerec"):
        if Path(name).name != "__init__.py": (project / "saerec" / name).unlink()  # front doors are written by hand
    done = run(NBDEV.format("doclinks", "nbdev_export"), cwd=project)
    assert done.returncode == 0, done.stderr
    fresh, ours = generated(project / "saerec"), generated(ROOT / "saerec")
    assert sorted(ours) == sorted(fresh), "a module without a notebook, or a notebook that was not exported"
    changed = [n for n in ours if ours[n] != fresh[n]]
    assert not changed, f"run nbdev-export: {changed} differ from the notebooks (edit the notebook, never the module)"


@each_notebook
def test_title(nb: Path) -> None:
    first = load(nb)["cells"][0]
    assert first["cell_type"] == "markdown" and re.match(r"# \S.*\n+> \S", source(first)), "the first cell is '# title', a blank line, '> one sentence on what it is for'"


FIXED = {"self", "cls", "seed", "return"}  # parameters whose meaning is the same all over saerec


@cache
def own_types() -> set[str]:
    "Names of types that say all about a parameter: saerec's classes (r: Ratings, batch: Batch, rec: Recommender) and parsed arguments."
    modules = [importlib.import_module(f"saerec.{m}") for m in MODULES]
    return {n for m in modules for n in m.__all__ if inspect.isclass(getattr(m, n))} | {"Namespace"}


def undocumented(f) -> list[str]:
    if getattr(f, "_is_protocol", False) or hasattr(f, "model_fields"): return []  # pydantic has descriptions of its own
    docs, gaps = docments(f, full=True), []
    for n, p in inspect.signature(f).parameters.items():
        kind = p.annotation if isinstance(p.annotation, str) else inspect.formatannotation(p.annotation)
        if kind.removesuffix(" | None").rpartition(".")[2] in own_types(): continue
        if n in FIXED or p.kind is inspect.Parameter.VAR_KEYWORD: continue
        if not (docs.get(n) and docs[n].docment): gaps.append(n)
    return gaps


def test_examples_in_docstrings() -> None:
    "Each gives what stands below it."
    modules = [f"saerec.{m}" for m in MODULES if ">>> " in (PACKAGE / f"{m.replace('.', '/')}.py").read_text("utf-8")]
    results = {m: doctest.testmod(importlib.import_module(m)) for m in modules}
    assert len(modules) >= 5 and not {m: r for m, r in results.items() if r.failed or not r.attempted}


@pytest.mark.parametrize("module", MODULES)
def test_documented(module: str) -> None:
    "Public functions and classes have a docstring and a comment for each parameter; so have methods with two or more parameters."
    m = importlib.import_module(f"saerec.{module}")
    gaps = []
    for name in m.__all__:
        o = getattr(m, name)
        if not (inspect.isclass(o) or inspect.isfunction(o)): continue
        if not (o.__doc__ or "").strip() or o.__doc__.startswith(f"{name}("): gaps.append(f"{name}: no docstring")  # a dataclass without one gets its signature
        if not (inspect.isclass(o) and issubclass(o, BaseException)): gaps += [f"{name}: parameter {p} has no comment" for p in undocumented(o)]
        for k, f in vars(o).items() if inspect.isclass(o) else ():
            if k[0] == "_" or not inspect.isfunction(f) or len(inspect.signature(f).parameters) < 3: continue
            if not (f.__doc__ or "").strip(): gaps.append(f"{name}.{k}: no docstring")
            gaps += [f"{name}.{k}: parameter {p} has no comment" for p in undocumented(f)]
    assert not gaps, "\n".join(gaps)
