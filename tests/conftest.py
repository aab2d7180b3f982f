"""What all tests share: the options --slow and --site, processes that start quickly, a browser, and notes.

The notes are printed before pytest's closing line."""
import multiprocessing.forkserver
import os
import shutil

import pytest

# Tests and notebooks run beside each other in processes of one thread each: that is more than some of several, and
# their weights are equal.
os.environ |= {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MPLBACKEND": "agg"}
# Nor do they start processes for networks that train side by side, unless they say how many.
if hasattr(os, "sched_getaffinity"): os.sched_getaffinity = lambda pid: {0}
START = multiprocessing.get_context("forkserver")
START.set_forkserver_preload([
    "torch", "pandas", "scipy.sparse", "sklearn.metrics", "matplotlib.pyplot", "pyarrow.parquet", "nbdev.test",
    # what the first training, calibration, page or example in a process would import
    "pytest", "torch._dynamo", "sklearn.isotonic", "sklearn.linear_model", "fastapi.testclient", "hypothesis",
    "saerec.cli", "saerec.app", "saerec.recommend.training"])

CHROMIUM_FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
                  "--disable-background-networking", "--disable-component-update"]
NOTES = pytest.StashKey[list[str]]()


def pytest_addoption(parser: pytest.Parser) -> None:
    slow = "also run what takes minutes: tests marked slow, and notebook cells with the directive #| slow"
    parser.addoption("--slow", action="store_true", help=slow)
    site = "also check the site that tools/build_site.py has built in this folder"
    parser.addoption("--site", metavar="DIR", help=site)


def pytest_configure(config: pytest.Config) -> None:
    config.stash[NOTES] = []


def pytest_unconfigure() -> None:
    "Wait for the server of START, so that the time of pytest holds that of the processes it started."
    multiprocessing.forkserver._forkserver._stop()


def run_notebooks_beside(items: list[pytest.Item]) -> None:
    """Order: a small notebook, with which all begin to run in processes of their own; what needs no notebook; then the
    others, which have run meanwhile."""
    waiting = [i for i in items if "execute" in getattr(i, "fixturenames", ()) and hasattr(i, "callspec")]
    if not waiting: return
    first = min(waiting, key=lambda i: i.callspec.params["nb"].stat().st_size)
    items[:] = [first, *(i for i in items if i not in waiting), *(i for i in waiting if i is not first)]


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    run_notebooks_beside(items)
    if config.getoption("--slow"): return
    for item in items:
        if item.get_closest_marker("slow"): item.add_marker(pytest.mark.skip(reason="takes minutes; run with --slow"))


@pytest.fixture(scope="session")
def note(request: pytest.FixtureRequest):
    "A function that keeps a line for the end of the report: measured, but nothing that a test may fail on."
    return request.config.stash[NOTES].append


@pytest.fixture(scope="module")
def chromium():
    "Debian's Chromium, headless; where it is not installed the test is skipped with the reason."
    if not (path := shutil.which("chromium")): pytest.skip("chromium is not installed: apt-get install chromium")
    with pytest.importorskip("playwright.sync_api").sync_playwright() as p:
        browser = p.chromium.launch(executable_path=path, args=CHROMIUM_FLAGS)
        yield browser
        browser.close()


def pytest_terminal_summary(terminalreporter, config: pytest.Config) -> None:
    if config.stash[NOTES]: terminalreporter.section("measured")
    for line in config.stash[NOTES]: terminalreporter.line(line)
