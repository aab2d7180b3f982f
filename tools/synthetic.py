"""Made-up ratings of the shape of MovieLens, for tests of scale only, never for a figure of quality.

Whether memory and seconds follow the ratings has to be seen at 32 million of them, and those may not be passed on. What
can be is their shape: how many users, movies and ratings there are, how unequally people rate (a log-normal, cut off
where the total is right), and how unequally movies are rated: who draws from all movies with the weight
exp(-c sqrt(rank / movies)) gives a Gini index that c alone decides, and c sqrt(rank / movies) follows a Gamma
distribution of shape 2, so drawing takes no table. Taste is planted: groups of movies that a user
draws more readily."""
from typing import NamedTuple

import numpy as np
import pandas as pd

from saerec.data import InputError, Ratings


class _Shape(NamedTuple):
    "The published figures of an edition that synthetic ratings follow."
    ratings: int  # the GroupLens READMEs of each edition (files.grouplens.org/datasets/movielens/)
    users: int  # who have ratings; READMEs, of ml-10m codex.lenskit.org/movielens/ML10M
    movies: int  # that have ratings: ml-1m counted, others there and seljuk.me/movielens-25m-dataset-published.html
    s: float  # ratings of a user are loc + scale * exp(s * normal): codex.lenskit.org/movielens
    loc: float
    scale: float
    gini: float  # of the ratings of the movies; the same pages
    steepness: float  # $c$ of the weights below, with which the expected ratings of the movies have that Gini index

SHAPES = {
    "ml-1m":  _Shape(1_000_209,    6_040,  3_706, 1.387, 17.714, 67.252, 0.634,  6.590),
    "ml-10m": _Shape(10_000_054,  69_878, 10_677, 1.517, 18.472, 51.355, 0.805,  8.822),
    "ml-20m": _Shape(20_000_263, 138_493, 26_744, 1.609, 19.078, 43.087, 0.903, 12.717),
    "ml-25m": _Shape(25_000_095, 162_541, 59_047, 1.589, 18.636, 39.862, 0.942, 16.961),
    "ml-32m": _Shape(32_000_204, 200_948, 84_432, 1.587, 18.986, 48.172, 0.952, 17.952)}


def shape_at(
    n: int,  # ratings, at least 20,000
) -> _Shape:  # between two editions every figure lies between theirs
    """The shape of MovieLens when it had `n` ratings; below ml-1m and above ml-32m only the users become fewer or
    more. Raises `InputError` below 20,000."""
    if n < 20_000:
        raise InputError(f"Synthetic ratings need 20,000 or more to have the shape of MovieLens; {n} are too few.")
    known = np.array(list(SHAPES.values()))
    known[:, :3] = np.log(known[:, :3])

    inside = float(np.clip(np.log(n), known[0, 0], known[-1, 0]))
    users, movies, *others = (float(np.interp(inside, known[:, 0], c)) for c in known[:, 1:].T)
    return _Shape(n, round(np.exp(users - inside) * n), round(np.exp(movies)), *others)


def gini(
    counts: np.ndarray,  # one number of ratings for each movie (or user), in any order
) -> float:  # 0 all equal .. 1 all on one
    "The Gini index of inequality."
    c, k = np.sort(counts), len(counts)
    return float(((2 * np.arange(1, k + 1) - k - 1) * c).sum() / (k * c.sum()))


# Planted taste: movies fall in 18 groups; of 3 of them a user draws every movie 8 times as readily
_GROUPS, _LIKED_GROUPS, _BOOST = 18, 3, 8.0

def _user_counts(o: _Shape) -> np.ndarray:  # int64 [users], ascending, sum o.ratings
    "Ratings of each user: quantiles of the log-normal, cut off above."
    from scipy.optimize import brentq
    from scipy.special import ndtr, ndtri
    p = (np.arange(o.users) + 0.5) / o.users

    def counts(z: float) -> np.ndarray:
        drawn = o.loc + o.scale * np.exp(o.s * ndtri(p * ndtr(z)))
        return np.clip(drawn, min(20, o.movies // 10), 0.7 * o.movies)

    exact = counts(brentq(lambda z: counts(z).sum() - o.ratings, -5.0, 8.0))
    whole = np.floor(exact).astype(np.int64)
    whole[np.argsort(whole - exact, kind="stable")[:o.ratings - whole.sum()]] += 1
    return whole


def _draw_movies(
    rng: np.random.Generator,
    counts: np.ndarray,  # int64 [B]: movies that each user has in the end
    liked: np.ndarray,  # int64 [B, _LIKED_GROUPS]: the groups that each user prefers
    cells: np.ndarray,  # int64, ascending: cells that are there already, as user * len(code) + movie
    c: float,  # steepness of the weights
    code: np.ndarray,  # int64 [n_movies]: the movie of each rank; rank modulo _GROUPS is its group
) -> np.ndarray:  # int64, ascending: all cells
    "Different movies for each user, popular ones and those of liked groups more often."
    n_movies, done, rounds = len(code), [], 0
    prefer = _LIKED_GROUPS * (_BOOST - 1) / (_GROUPS + _LIKED_GROUPS * (_BOOST - 1))
    lacks = counts - np.bincount(cells // n_movies, minlength=len(counts))

    while lacks.any():
        user, rounds = np.repeat(np.arange(len(counts)), lacks), rounds + 1
        n = len(user)
        place = (rng.standard_gamma(2.0, n) / c) ** 2 if rounds <= 25 else rng.random(n)  # who has nearly all takes any
        preferred = rng.random(n) < prefer
        group = np.where(preferred, liked[user, rng.integers(0, _LIKED_GROUPS, n)], rng.integers(0, _GROUPS, n))
        rank = (place * (n_movies / _GROUPS + 1)).astype(np.int64) * _GROUPS + group

        new = np.sort((user * n_movies)[rank < n_movies] + code[rank[rank < n_movies]])
        new = new[np.diff(new, prepend=-1) > 0]
        if len(cells): new = new[cells[np.minimum(np.searchsorted(cells, new), len(cells) - 1)] != new]

        lacks = lacks - np.bincount(new // n_movies, minlength=len(counts))
        cells = np.concatenate([cells, new])
        go_on = lacks[cells // n_movies] > 0
        done.append(cells[~go_on])
        cells = np.sort(cells[go_on])

    return np.sort(np.concatenate([cells, *done]))


def _draw_ratings(
    rng: np.random.Generator,
    o: _Shape,
    counts: np.ndarray,  # int64 [users]: ratings of each user
    code: np.ndarray,  # int64 [n_movies]: the movie of each rank
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:  # user, movie, value, in the order of users and movies
    "All ratings, a few thousand users at a time."
    start = np.concatenate([[0], counts.cumsum()])
    liked = rng.random((o.users, _GROUPS)).argpartition(_LIKED_GROUPS, axis=1)[:, :_LIKED_GROUPS]
    group = np.argsort(code) % _GROUPS
    quality, generous = 0.45 * rng.standard_normal(o.movies), 0.4 * rng.standard_normal(o.users)

    # One rating of each movie is dealt, so that none is without; the others are drawn
    first = np.arange(o.movies) * o.ratings // o.movies + rng.integers(0, o.ratings // o.movies, o.movies)
    first_user, first_movie = np.searchsorted(start, first, side="right") - 1, rng.permutation(o.movies)

    user = np.repeat(np.arange(o.users, dtype=np.int32), counts)
    movie, value = np.empty(o.ratings, np.int32), np.empty(o.ratings, np.float32)
    a = 0
    while a < o.users:
        b = max(a + 1, int(np.searchsorted(start, start[a] + 500_000, side="right")) - 1)
        some, part = slice(*np.searchsorted(first_user, [a, b])), slice(start[a], start[b])
        dealt = np.sort((first_user[some] - a) * o.movies + first_movie[some])
        u, m = user[part], _draw_movies(rng, counts[a:b], liked[a:b], dealt, o.steepness, code) % o.movies
        in_liked = (liked[u] == group[m][:, None]).any(1)
        stars = 3.25 + quality[m] + generous[u] + 0.7 * in_liked + 0.8 * rng.standard_normal(len(u))
        steps = 1.0 + (rng.random(len(u)) < 0.5)
        movie[part], value[part] = m, np.clip(np.rint(stars * steps) / steps, 0.5, 5)
        a = b
    return user, movie, value


def synthetic_ratings(
    n: int | str = "ml-1m",  # ratings, exactly; or the edition of `SHAPES` whose shape is wanted
    seed: int = 0,  # the same seed, the same ratings
) -> Ratings:  # in the order of users and movies; no times; genres are the planted groups
    """Made-up ratings of MovieLens's shape with planted taste. For tests of scale only, never for a figure of quality.
    Raises `InputError` for an unknown shape, or below 20,000 ratings."""
    if isinstance(n, str) and n not in SHAPES:
        raise InputError(f"There is no published shape of {n!r}; there are {', '.join(SHAPES)}, or give a number of "
                         "ratings.")
    o, rng = SHAPES[n] if isinstance(n, str) else shape_at(n), np.random.default_rng(seed)
    counts, code = rng.permutation(_user_counts(o)), rng.permutation(o.movies)

    user, movie, value = _draw_ratings(rng, o, counts, code)
    for x in (user, movie, value): x.setflags(write=False)

    name = f"synthetic ({n if isinstance(n, str) else f'{n:,} ratings'}; no real people)"
    users, ids = pd.DataFrame({"user_id": np.arange(1, o.users + 1)}), pd.Series(np.arange(1, o.movies + 1))
    titles, groups = "synthetic movie " + ids.astype("str"), pd.Series(np.argsort(code) % _GROUPS + 1).astype("str")
    movies = pd.DataFrame({"movie_id": ids, "title": titles, "year": pd.array([pd.NA] * o.movies, "Int16"),
                           "genres": "synthetic group " + groups})
    return Ratings(user, movie, value, users, movies, name=name)
