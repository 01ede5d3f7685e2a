"""Fourteen tables as people have them, made from a seed: gaps, words, IDs, dates, other separators and encodings.

`python tests/tables.py FOLDER` writes them.
"""

import gzip
import sys
from pathlib import Path

import numpy as np
import polars as pl

GAPS = ("", "NA", "N/A", "n/a", "NaN", "null", "?", "-")


def _words(rng, logits, names):
    """Draw one of the names for each row of logits."""
    p = np.exp(logits - logits.max(1, keepdims=True))
    return np.array(names)[(rng.random((len(p), 1)) > (p / p.sum(1, keepdims=True)).cumsum(1)).sum(1)]


def _with_gaps(rng, column, share=0.05):
    text = [str(value) for value in column]
    return [rng.choice(GAPS) if rng.random() < share else value for value in text]


def penguins(rng, n=344):
    kind = rng.integers(0, 3, n)
    bill = rng.normal(np.array([38.8, 48.8, 47.5])[kind], 2.5).round(1)
    flipper = rng.normal(np.array([190, 196, 217])[kind], 6).round()
    mass = rng.normal(np.array([3700, 3730, 5080])[kind], 380).round(-1).astype(int)
    sex = rng.choice(["male", "female"], n)
    island = np.array(["Biscoe", "Dream", "Torgersen"])[np.where(rng.random(n) < 0.7, kind, rng.integers(0, 3, n))]
    return pl.DataFrame(
        {
            "species": np.array(["Adelie", "Chinstrap", "Gentoo"])[kind],
            "island": island,
            "bill_length_mm": _with_gaps(rng, bill),
            "flipper_length_mm": _with_gaps(rng, flipper),
            "body_mass_g": _with_gaps(rng, mass),
            "sex": _with_gaps(rng, sex),
        }
    )


def titanic(rng, n=891):
    sex, level = rng.choice(["male", "female"], n, p=[0.65, 0.35]), rng.integers(1, 4, n)
    age = rng.normal(30, 14, n).clip(1, 80).round(1)
    survived = (rng.random(n) < 1 / (1 + np.exp(-(2.4 * (sex == "female") - 0.9 * (level - 2) - 1.2)))).astype(int)
    return pl.DataFrame(
        {
            "PassengerId": np.arange(1, n + 1),
            "Survived": survived,
            "Pclass": level,
            "Name": [f"Passenger, Mr. No{k}" for k in rng.permutation(n)],
            "Sex": sex,
            "Age": _with_gaps(rng, age, 0.2),
            "Ticket": [f"{rng.choice(['A/5', 'PC', ''])} {k}".strip() for k in rng.integers(10**4, 10**6, n)],
            "Fare": rng.lognormal(3, 1, n).round(2),
            "Embarked": _with_gaps(rng, rng.choice(["S", "C", "Q"], n, p=[0.7, 0.2, 0.1]), 0.01),
        }
    )


def census(rng, n=4000):
    columns = {f"number_{k}": rng.normal(size=n).round(3) for k in range(6)}
    for k in range(7):
        words = rng.choice([f"word-{k}-{i}" for i in range(3 + 2 * k)], n)
        columns[f"word_{k}"] = ["?" if rng.random() < 0.03 else word for word in words]
    logit = sum(columns[f"number_{k}"] for k in range(6)) + 2.0 * (np.array(columns["word_3"]) == "word-3-0") - 1
    income = np.where(rng.random(n) < 1 / (1 + np.exp(-logit)), ">50K", "<=50K")
    return pl.DataFrame(columns | {"income": income})


def numbers(rng, n, d, classes, names=None):
    weight = rng.normal(size=(classes, d))
    features = rng.normal(size=(n, d))
    label = _words(rng, 1.5 * features @ weight.T, names or [f"class {k}" for k in range(classes)])
    return pl.DataFrame({f"x{k}": features[:, k].round(4) for k in range(d)} | {"label": label})


def make_tables(folder, large=(200_000, 50)):
    """Write the tables to a folder."""
    rng = np.random.default_rng(0)
    folder.mkdir(parents=True, exist_ok=True)
    penguins(rng).write_csv(folder / "penguins.csv")
    titanic(rng).write_csv(folder / "titanic.csv")
    census(rng).write_csv(folder / "census.csv")
    bank = numbers(rng, 1000, 4, 2, ["no", "yes"]).with_columns(job=pl.Series(rng.choice(["admin.", "artist"], 1000)))
    text = bank.select("job", "x0", "x1", "x2", "x3", pl.col("label").alias("y")).write_csv(separator=";")
    (folder / "bank.csv").write_text(text.replace(".", ",").replace("admin,", "admin."))
    x = rng.normal(size=(12_000, 6))
    fraud = rng.random(12_000) < 1 / (1 + np.exp(-(2 * x[:, 0] + x[:, 1] - 7)))
    pl.DataFrame(x.round(4), schema=[f"v{k}" for k in range(6)]).with_columns(
        Class=pl.Series(fraud.astype(int))
    ).write_csv(folder / "fraud.csv")
    centres = rng.normal(size=(2000, 16)) * 2
    kind = np.repeat(np.arange(2000), 5)
    many = pl.DataFrame((centres[kind] + rng.normal(size=(10_000, 16))).round(3), schema=[f"e{k}" for k in range(16)])
    many.with_columns(label=pl.Series([f"class {k}" for k in kind])).write_csv(folder / "classes2000.csv")
    dates = numbers(rng, 600, 3, 3)
    day = np.datetime64("2020-01-01") + rng.integers(0, 1000, 600)
    dates.with_columns(sold=pl.Series([str(one) for one in day])).select("sold", "x0", "x1", "x2", "label").write_csv(
        folder / "dates.csv"
    )
    ids = numbers(rng, 500, 3, 3).with_columns(
        customer_id=pl.Series(rng.permutation(10**6)[:500]),
        token=pl.Series([f"{k:08x}" for k in rng.integers(0, 2**32, 500)]),
    )
    ids.write_csv(folder / "ids.csv")
    latin = numbers(rng, 300, 3, 2, ["bœuf & crème".replace("œ", "oe"), "café"])
    (folder / "latin1.csv").write_bytes(latin.write_csv().encode("latin-1"))
    (folder / "zipped.csv.gz").write_bytes(gzip.compress(numbers(rng, 400, 4, 3).write_csv().encode()))
    (folder / "headerless.data").write_text(
        numbers(rng, 150, 4, 3, ["Iris-setosa", "Iris-versicolor", "Iris-virginica"]).write_csv(include_header=False)
    )
    quotes = numbers(rng, 300, 2, 3, ['5" pipe', "big oak, old", 'a "b" c'])
    rows = [
        f'{a},{b},{label if "," not in label else chr(34) + label + chr(34)},"note: {k % 3}, {"x" if a > 0 else "y"}"'
        for k, (a, b, label) in enumerate(quotes.rows())
    ]
    (folder / "quotes.csv").write_text("x0,x1,label,note\n" + "\n".join(rows) + "\n")
    numbers(rng, 300, 2, 3, ["1E2", "10E1", "3E2"]).write_csv(folder / "exponents.csv")
    n, d = large
    numbers(rng, n, d, 10).write_csv(folder / "large.csv")


if __name__ == "__main__":
    make_tables(Path(sys.argv[1]))
