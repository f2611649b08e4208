"""A few lines of each raw file that docs/prepare.md prepares, under the names that the page has for them."""

import gzip
from collections.abc import Iterable
from pathlib import Path

from tests.data_pipeline.prepare.importers import test_avazu, test_criteo, test_ncf, test_open_bandit

ROWS = range(120)


def write_raw_data(folder: Path) -> None:
    """Writes all of them into a folder; those of two data sets called FOLDER are in `published`."""
    (folder / "data").mkdir()
    published = folder / "published"
    published.mkdir()
    movielens_100k(folder / "ml-100k")
    test_ncf.files(published, "ml-1m")
    libfm = "".join(f"{n % 2} {n % 957}:1 {957 + n % 7}:1\n" for n in ROWS)
    for path in (folder / "data/a.libfm", *(published / f"frappe.{s}.libfm" for s in ("train", "validation", "test"))):
        path.write_text(frappe() if path.parent == published else libfm)
    log(folder / "logs")
    pairs(folder)
    (folder / "train.txt").write_text("".join(test_criteo.LINES))
    days = [test_avazu.line(n, f"1410{21 + n % 5}{n % 24:02}", n % 2) for n in ROWS]
    write_gz(folder / "train.gz", [test_avazu.HEADER, *days])
    men = folder / "obp/obp/dataset/obd/random/men"
    men.parent.mkdir(parents=True)
    test_open_bandit.log(men, [test_open_bandit.line(n) for n in range(20)])


def movielens(folder: Path, users: int, movies: int) -> None:
    """MovieLens 1M as published, of fewer users and movies."""
    rows = [(user, n) for n in range(30) for user in range(1, users + 1)]
    lines: dict[str, list[tuple[object, ...]]] = {
        "ratings.dat": [(user, 1 + user * n % movies, 1 + (user + n) % 5, 978_300_000 + 100 * n) for user, n in rows],
        "users.dat": [(user, "MF"[user % 2], 25, user % 7, f"0{user}") for user in range(1, users + 1)],
        "movies.dat": [(movie, f"Film {movie} (19{50 + movie})", "Comedy|War") for movie in range(1, movies + 1)],
    }
    folder.mkdir()
    for name, of in lines.items():
        (folder / name).write_text("".join("::".join(map(str, row)) + "\n" for row in of))


def movielens_100k(folder: Path) -> None:
    """MovieLens 100K as published, with one of its folds."""
    folder.mkdir()
    ratings = [f"{1 + n % 9}\t{1 + n % 11}\t{1 + n % 5}\t{881_250_000 + n}\n" for n in ROWS]
    for name, of in (("u.data", ratings), ("u1.base", ratings[:90]), ("u1.test", ratings[90:])):
        (folder / name).write_text("".join(of))
    (folder / "u.user").write_text("".join(f"{n}|24|M|writer|0{n}\n" for n in range(1, 10)))
    genres = "|".join("1" if n == 5 else "0" for n in range(19))
    (folder / "u.item").write_text("".join(f"{n}|Film (1995)|01-Jan-1995||url|{genres}\n" for n in range(1, 12)))


def frappe() -> str:
    """Lines of Frappe's libfm files: ten fields, each with ids of its own."""
    begins = (0, 957, 5039, 5046, 5053, 5055, 5058, 5060, 5069, 5149)
    lines = (f"{2 * (n % 2) - 1} " + " ".join(f"{at + n % 2}:1" for at in begins) for n in ROWS)
    return "\n".join(lines) + "\n"


def log(folder: Path) -> None:
    """The log of the page's recipe."""
    folder.mkdir()
    header = "user_id\titem\thistory\tcity\tage\tprice\tclick\ttimestamp\n"
    rows = (f"u{n % 5}\t{n % 4}\t{n % 3} {n % 4}\tc{n % 2}\t{20 + n % 40}\t{1 + n}\t{n % 2}\t{n}\n" for n in ROWS)
    write_gz(folder / "day.tsv.gz", [header, *rows])


def pairs(folder: Path) -> None:
    """Users with their items, a user a line and a pair a line, and a log of purchases."""
    for name, first, count in (("train", 0, 6), ("valid", 6, 1), ("test", 7, 2)):
        users = (f"{u} " + " ".join(str((u * 3 + i) % 40) for i in range(first, first + count)) for u in range(20))
        write_gz(folder / f"{name}.txt.gz", (f"{line}\n" for line in users))
        rows = (
            f"c{u},p{(u * 3 + i) % 40},{1_700_000_000 + i}\n" for u in range(20) for i in range(first, first + count)
        )
        (folder / f"{name}.csv").write_text("customer,product,bought_at\n" + "".join(rows))
    bought = (f"c{u},p{(u * 7 + i) % 130},{1_700_000_000 + i}\n" for u in range(40) for i in range(9))
    (folder / "purchases.csv").write_text("customer,product,bought_at\n" + "".join(bought))


def write_gz(path: Path, lines: Iterable[str]) -> None:
    path.write_bytes(gzip.compress("".join(lines).encode()))
