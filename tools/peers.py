"""saerec beside other libraries: the same split, the same scorer, each library in an environment of its own.

    python tools/peers.py --data ml-1m --work FOLDER [--peers NAME ...] [--threads 1] [--timeout 3600] [--out FILE]

The split: likes (ratings of 4 and more) of each user, at random 80% training, 10% validation, 10% test. A peer gets
training and validation as a file, trains by its own means in a process of its own (tools/peer_runner.py) and gives back
the 100 best unseen movies of everybody. One scorer, saerec's, makes the figures from these lists. A peer that cannot be
installed, fails or takes too long gets a row with the reason. FOLDER holds the environments, which are kept for the
next run, and the peers' files, which are written anew.
"""
import argparse
import json
import os
import platform
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from saerec.data import HeldOut, Ratings, Split, split_per_user, to_batch
from saerec.evaluate import find_metric, hits
from saerec.evaluate.protocols import open_edition

HERE = Path(__file__).resolve().parent
RUNNER = HERE / "peer_runner.py"
REQUIRED = {  # library -> what its environment gets; saerec itself runs in the environment of this script
    "recbole": ["recbole==1.2.1", "torch==2.13.0", "numpy==1.26.4", "pandas==2.3.3", "scipy==1.17.1"],
    "implicit": ["implicit==0.7.3", "numpy==2.4.6", "scipy==1.17.1"],
    "cornac": ["cornac==3.0.1", "torch==2.13.0", "numpy==2.4.6", "scipy==1.17.1"],
    "lenskit": ["lenskit==2025.8.0", "torch==2.13.0", "numpy==2.4.6", "scipy==1.17.1"],
}
PEERS = {
    "saerec-network": "saerec, single network",
    "saerec-stack": "saerec, stack",
    "saerec-default": "saerec, what it trains by default",
    "saerec-ease": "saerec, EASE",
    "recbole-multidae": "RecBole, MultiDAE",
    "recbole-multidae-500": "RecBole, MultiDAE, batches of 500",
    "implicit-als": "implicit, ALS",
    "recbole-ease": "RecBole, EASE",
    "cornac-ease": "Cornac, EASE",
    "lenskit-ease": "LensKit, EASE",
    "cornac-vaecf": "Cornac, VAECF",
    "recbole-multivae": "RecBole, MultiVAE",
}
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS", "LK_NUM_THREADS",
           "LK_NUM_BACKEND_THREADS", "RAYON_NUM_THREADS")
LIMIT = 0.002  # by which RecBole's own NDCG@10 of validation may differ from ours


class Skipped(Exception):
    "Why a peer has no figures."


def make_split(name: str, seed: int) -> Split:
    "Random 80/10/10 of each user's likes."
    r = open_edition(name).likes()
    return split_per_user(r.select(r.value > 0), seed=seed)


def write_split(split: Split, path: Path) -> None:
    "Training and validation cells; no test."
    parts = {f"{k}_{c}": getattr(r, c) for k, r in (("train", split.train), ("valid", split.valid.target))
             for c in ("user", "movie")}
    np.savez(path, shape=[split.train.n_users, split.train.n_movies], seed=split.seed, **parts)


def last_line(text: str) -> str:
    "The last line that says something, without the folders of this machine."
    lines = [o.strip() for o in text.splitlines() if o.strip() and "notice" not in o and not o.startswith("WARNING")]
    words = (lines or ["no message"])[-1].split()
    return " ".join(w if w.count("/") < 2 else w.rstrip("/'\"").rsplit("/", 1)[-1] for w in words)[:300]


def call(command: list[str], timeout: float, **options) -> subprocess.CompletedProcess[str]:
    "Run a command; `Skipped` with the reason where it fails."
    try:
        done = subprocess.run(command, timeout=timeout, stdin=subprocess.DEVNULL, capture_output=True, text=True,
                              errors="replace", **options)
    except subprocess.TimeoutExpired:
        raise Skipped(f"it took longer than {timeout:g} s") from None
    except OSError as e:
        raise Skipped(f"{type(e).__name__}: {e.strerror}") from None

    if done.returncode < 0: raise Skipped(f"it was ended by signal {-done.returncode}")
    if done.returncode: raise Skipped(last_line(done.stderr + done.stdout))
    return done


def interpreter(library: str, work: Path) -> str:
    "The Python of a library's environment, made and filled where it is not there yet."
    if library == "saerec": return sys.executable
    place, wanted = work / "venv" / library, "\n".join(REQUIRED[library])
    python, done = place / ("Scripts/python.exe" if os.name == "nt" else "bin/python"), place / "installed.txt"
    if done.is_file() and done.read_text() == wanted: return str(python)

    print(f"installing {', '.join(REQUIRED[library])}", file=sys.stderr, flush=True)
    try:
        call([sys.executable, "-m", "venv", "--clear", str(place)], 300)
        call([str(python), "-m", "pip", "install", "-q", *REQUIRED[library]], 1800)
    except Skipped as e:
        raise Skipped(f"not installed: {e}") from None
    done.write_text(wanted)
    return str(python)


def run_peer(name: str, work: Path, split: Path, threads: int, timeout: float) -> dict:
    "One peer in a process of its own; its account, with the lists under `top`."
    python, place = interpreter(name.split("-")[0], work), work / "runs" / name
    place.mkdir(parents=True, exist_ok=True)
    for old in place.glob("out.*"): old.unlink()

    env = os.environ | dict.fromkeys(THREADS, str(threads)) | {"CUDA_VISIBLE_DEVICES": ""}
    env.pop("PYTHONPATH", None)
    if python == sys.executable: env["PYTHONPATH"] = str(HERE.parent)
    call([python, str(RUNNER), name, str(split), str(place / "out")], timeout, cwd=place, env=env)
    with np.load(place / "out.npz") as f: top = {k: f[k] for k in f.files}
    return json.loads((place / "out.json").read_text()) | {"top": top}


def score(top: np.ndarray, target: Ratings) -> float:
    "Mean NDCG@10 over the users who have a target."
    wanted, lists = to_batch(target, np.unique(target.user)), torch.from_numpy(top.astype(np.int64))
    return float(find_metric("NDCG@10")(hits(lists[wanted.users], wanted), wanted.counts).mean())


def account(found: dict, split: Split, test: HeldOut) -> dict:
    "The figures of one peer."
    top, target = found.pop("top"), {"valid": split.valid.target, "test": test.target}
    n_movies = split.train.n_movies
    for part, hidden in (("valid", split.valid.seen), ("test", test.seen)):
        ranked = top[part].astype(np.int64) + np.arange(len(top[part]))[:, None] * n_movies
        seen = hidden.user.astype(np.int64) * n_movies + hidden.movie
        if np.isin(ranked[top[part] >= 0], seen).any(): raise Skipped("it ranks movies that are known to be seen")

    found |= {part: score(top[part], target[part]) for part in target}
    if "own_valid" in found and abs(found["own_valid"] - found["valid"]) > LIMIT:
        raise Skipped(f"its own NDCG@10 of validation is {found['own_valid']:.4f}, "
                      f"ours of the same lists {found['valid']:.4f}")

    for part in target:
        if (name := f"{part}_by_epoch") in top: found[name] = [score(t, target[part]) for t in top[name]]
    return found


def passing(results: dict, rival: str, ours: str = "saerec-network") -> dict | None:
    "The first epoch of saerec's network that on validation is as good as a rival's best; told with the test."
    a, b = results.get(ours, {}), results.get(rival, {})
    if "valid" not in b or "valid_by_epoch" not in a: return None

    epoch = next((i for i, v in enumerate(a["valid_by_epoch"]) if v >= b["valid"]), None)
    if epoch is None: return {"rival": rival, "epoch": None}
    return {
        "rival": rival, "epoch": epoch + 1, "seconds": a["curve"][epoch],
        "valid": a["valid_by_epoch"][epoch], "test": a["test_by_epoch"][epoch],
        "rival_valid": b["valid"], "rival_test": b["test"],
        "rival_seconds": b["seconds"]["fit"], "rival_training": b["seconds"]["training"],
        "rival_to_best": b["curve"][b["best_epoch"] - 1][:2]}


def table(results: dict) -> pd.DataFrame:
    "One row a peer: seconds of the clock, and of the processor in the columns marked CPU."
    rows = {}
    for name, o in results.items():
        if "test" not in o: continue
        s = o["seconds"]
        rows[PEERS[name]] = {
            "fit s": s["fit"][0], "fit CPU s": s["fit"][1],
            "without validation": s["fit"][1] - s["validation"][1] if "validation" in s else np.nan,
            "rank s": s["rank"][0], "rank CPU s": s["rank"][1],
            "NDCG@10": o["test"], "on validation": o["valid"],
            "peak MiB": o["peak_mib"], "epochs": o.get("epochs", np.nan)}
    return pd.DataFrame(rows).T


def passed(p: dict) -> str:
    "The sentence of one rival, from `passing`."
    rival = PEERS[p["rival"]]
    if p["epoch"] is None: return f"saerec's network does not reach the validation NDCG@10 of {rival}."

    def both(seconds: list[float]) -> str: return f"{seconds[0]:.1f} s (CPU {seconds[1]:.1f})"
    return (
        f"saerec's network passes {rival} on validation ({p['valid']:.4f} to {p['rival_valid']:.4f}; "
        f"test {p['test']:.4f} to {p['rival_test']:.4f}) in epoch {p['epoch']}, after {both(p['seconds'])}; "
        f"the rival's training took {both(p['rival_seconds'])}, up to its best epoch {both(p['rival_to_best'])}, "
        f"without validation CPU {p['rival_training'][1]:.1f}. "
        f"CPU ratio {p['seconds'][1] / p['rival_seconds'][1]:.3f}.")


def report(all_of: dict) -> str:
    "The account in words and a table."
    a, results = all_of["about"], all_of["results"]
    shown = table(results)
    lines = [f"{a['data']}, {a['split']}: {a['users']:,} users, {a['movies']:,} movies, {a['train']:,} likes in "
             f"training, {a['valid']:,} in validation, {a['test']:,} in the test; {a['threads']} thread(s)"]

    if len(shown):
        digits = zip(shown.columns, (1, 1, 1, 2, 2, 4, 4, 0, 0), strict=True)
        lines.append(shown.to_string(formatters={
            k: (lambda v, d=d: "" if pd.isna(v) else f"{v:.{d}f}") for k, d in digits}))
    lines += [f"skipped: {PEERS[k]}: {o['skipped']}" for k, o in results.items() if "skipped" in o]
    lines += [passed(p) for p in all_of["passing"]]

    loads = [x for o in results.values() for x in o.get("load", [])]
    if loads:
        lines.append(f"load of the machine while they ran: {min(loads):.1f} to {max(loads):.1f} on {a['cores']} cores")
    return "\n\n".join(lines)


def command_line() -> argparse.Namespace:
    "The options."
    p = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    p.add_argument("--data", default="bundled", help="an edition of MovieLens, as in saerec.evaluate.protocols")
    p.add_argument("--peers", nargs="+", default=list(PEERS), choices=list(PEERS), metavar="NAME",
                   help=f"of {', '.join(PEERS)}")
    p.add_argument("--work", type=Path, required=True, help="a folder for environments and files")
    p.add_argument("--threads", type=int, default=1)
    p.add_argument("--timeout", type=float, default=3600, help="seconds for one peer")
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--out", type=Path, help="the account as JSON, written after each peer")
    return p.parse_args()


def described(split: Split, test: HeldOut, o: argparse.Namespace) -> dict:
    "What the figures are of."
    return {
        "data": o.data, "split": split.protocol, "seed": o.seed, "fingerprint": split.fingerprint(),
        "users": len(np.unique(split.train.user)), "movies": split.train.n_movies,
        "train": len(split.train), "valid": len(split.valid.target), "test": len(test.target),
        "threads": o.threads, "cores": os.cpu_count(), "python": platform.python_version()}


def main() -> int:
    o = command_line()
    split, work = make_split(o.data, o.seed), o.work.resolve()
    (work / "runs").mkdir(parents=True, exist_ok=True)
    cells, test = work / "runs" / f"{o.data}.npz", split.final()
    write_split(split, cells)

    results: dict = {}
    all_of: dict = {"about": described(split, test, o), "results": results, "passing": []}
    for name in o.peers:
        try: r = account(run_peer(name, work, cells, o.threads, o.timeout), split, test)
        except Skipped as e: r = {"skipped": str(e)}
        results[name] = r
        if "skipped" in r: told = f"skipped, {r['skipped']}"
        else: told = f"NDCG@10 {r['test']:.4f}, fit {r['seconds']['fit'][0]:.1f} s"
        print(f"{PEERS[name]}: {told}", file=sys.stderr, flush=True)

        rivals = (passing(results, rival) for rival in results if rival.startswith("recbole-multi"))
        all_of["passing"] = [found for found in rivals if found]
        if o.out: o.out.write_text(json.dumps(all_of, indent=1))
    print(report(all_of))
    return 0


if __name__ == "__main__": sys.exit(main())
