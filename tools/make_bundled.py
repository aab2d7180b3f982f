"""Makes saerec/bundled/*.parquet from the Debian package r-cran-dslabs.

    apt-get install -y r-cran-dslabs      # or: apt-get download r-cran-dslabs && dpkg -x r-cran-dslabs_*.deb FOLDER
    pip install rdata                     # reads R's serialisation format
    python tools/make_bundled.py [FOLDER]

The data frame `movielens` of dslabs is MovieLens ml-latest-small in its edition of 10/2016 (100,004 ratings, 671 users,
9,066 rated movies). Titles and years are joined again to "Title (year)", the form that every MovieLens edition has.
"""
import struct
import sys
import warnings
import zlib
from pathlib import Path

import pandas as pd
import rdata

OUT = Path(__file__).parent.parent / "saerec" / "bundled"


def read_dslabs(root: Path) -> pd.DataFrame:
    "The frame `movielens` out of R's lazy-load database: an index (.rdx) of offsets into compressed blocks (.rdb)."
    data = root / "usr/lib/R/site-library/dslabs/data"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        index = rdata.conversion.convert(rdata.parser.parse_data((data / "Rdata.rdx").read_bytes()))
        offset, length = (int(o) for o in index["variables"]["movielens"])
        block = (data / "Rdata.rdb").read_bytes()[offset:offset + length]
        raw = zlib.decompress(block[4:])
        if len(raw) != struct.unpack(">I", block[:4])[0]:
            raise ValueError("Rdata.rdb: the block does not unpack to its stated length")
        return rdata.conversion.convert(rdata.parser.parse_data(raw))


def main(root: Path) -> None:
    df = read_dslabs(root)
    ratings = pd.DataFrame({"user": df.userId.astype("int32"), "movie": df.movieId.astype("int32"),
                            "rating": df.rating.astype("float32"), "timestamp": df.timestamp.astype("int32")})

    movies = df.drop_duplicates("movieId").sort_values("movieId")
    title = movies.title.astype("str").str.strip() + " (" + movies.year.astype("str") + ")"
    title = title.where(movies.title.notna(), "movie " + movies.movieId.astype("str"))
    genres = movies.genres.astype("str")
    movies = pd.DataFrame({"movie": movies.movieId.astype("int32"), "title": title, "genres": genres})

    OUT.mkdir(exist_ok=True)
    for name, table in (("ratings", ratings), ("movies", movies)):
        table.reset_index(drop=True).to_parquet(
            OUT / f"{name}.parquet", compression="zstd", compression_level=19, index=False)
    size = sum(f.stat().st_size for f in OUT.glob("*.parquet"))
    print(f"{len(ratings):,} ratings, {ratings.user.nunique()} users, {len(movies):,} movies: {size:,} bytes")


if __name__ == "__main__": main(Path(sys.argv[1] if len(sys.argv) > 1 else "/"))
