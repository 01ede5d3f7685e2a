"""Measure passes of the classifier over data on a Dask cluster: seconds, and bytes moved.

python -m benchmarks.large [--rows 1000000 10000000] [--features 50] [--classes 10] [--workers 2] [--partition 250000]

A local cluster makes float32 features on its workers, one partition after the other, and keeps them in memory. After
each iteration of the fit the script reads three counters: the time; the bytes that workers have sent to each other; and
all bytes that went through the loopback device of this computer. The latter are the bytes between workers, scheduler
and client. They can be read only on Linux. Then the script writes the same features to Parquet files, and each pass
reads them again.
"""

import argparse
import tempfile
import time
import warnings
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import numpy as np

from benchmarks.markdown import table

ITERATIONS = 8


class Passes(NamedTuple):
    """Medians over the iterations of a fit."""

    seconds: float
    between_workers: float  # bytes
    in_all: float  # bytes


def features_and_labels(n_rows: int, n_features: int, n_classes: int, partition: int) -> tuple[Any, Any]:
    """Return lazy standard normal features, and labels drawn from the softmax of a random linear layer."""
    import dask.array as da
    from dask import delayed

    weight = np.random.default_rng(0).normal(size=(n_features, n_classes)) * 2 / np.sqrt(n_features)

    def features(seed: int, rows: int) -> Any:
        return np.random.default_rng(seed).standard_normal((rows, n_features), np.float32)

    def labels(block: Any, seed: int) -> Any:
        noise = np.random.default_rng([seed, 1]).gumbel(size=(len(block), n_classes))
        return (block @ weight + noise).argmax(1).astype(np.uint8)

    sizes = [min(partition, n_rows - start) for start in range(0, n_rows, partition)]
    blocks = [delayed(features)(seed, rows) for seed, rows in enumerate(sizes)]
    drawn = [delayed(labels)(block, seed) for seed, block in enumerate(blocks)]
    shapes = [(rows, n_features) for rows in sizes]
    return (
        da.concatenate([da.from_delayed(b, shape, np.float32) for b, shape in zip(blocks, shapes, strict=True)]),
        da.concatenate([da.from_delayed(b, shape[:1], np.uint8) for b, shape in zip(drawn, shapes, strict=True)]),
    )


def measure(client: Any, features: Any, labels: Any) -> Passes:
    """Fit for some iterations, most of which take one pass, and return the medians over them."""
    from softmaxloss.dask import SoftmaxClassifier

    def counters(*_: object) -> None:
        counts.append((time.perf_counter(), _between_workers(client), _through_loopback()))

    SoftmaxClassifier(max_iter=1).fit(features, labels)
    counts: list[tuple[float, int, int]] = []
    SoftmaxClassifier(max_iter=ITERATIONS, tol=0).fit(features, labels, callback=counters)
    return Passes(*(median(column) for column in np.diff(np.array(counts), axis=0).T))


def _between_workers(client: Any) -> int:
    sent = client.run(lambda dask_worker: dask_worker.transfer_outgoing_bytes_total)
    return sum(sent.values())


def _through_loopback() -> int:
    lines = Path("/proc/net/dev").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.strip().startswith("lo:"))


def _from_files(features: Any, labels: Any, folder: str) -> tuple[Any, Any]:
    """Write the data to Parquet files, and return features and labels that each pass reads from them again."""
    import dask.dataframe as dd

    names = [f"x{i}" for i in range(features.shape[1])]
    frame = dd.from_dask_array(features, columns=names)
    frame["label"] = dd.from_dask_array(labels)
    frame.to_parquet(folder, write_index=False)
    rows = dd.read_parquet(folder)
    return rows[names], rows["label"]


def _shown(n_partitions: int, passes: Passes) -> list[str]:
    sizes = (f"{size / 1e3:,.0f} kB" for size in (passes.between_workers, passes.in_all))
    return [str(n_partitions), f"{passes.seconds:.2f} s", *sizes]


def main() -> None:
    """Print a table."""
    import dask
    from distributed import Client, LocalCluster

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", nargs="+", type=int, default=[10**6, 10**7])
    parser.add_argument("--features", type=int, default=50)
    parser.add_argument("--classes", type=int, default=10)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--partition", type=int, default=250_000, help="rows of a partition")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    rows = []
    with (
        dask.config.set({"logging": {"distributed": "critical"}}),
        LocalCluster(n_workers=arguments.workers, threads_per_worker=1, dashboard_address=None) as cluster,
        Client(cluster) as client,
    ):
        for n_rows in arguments.rows:
            size = n_rows, arguments.features, arguments.classes
            features, labels = dask.persist(*features_and_labels(*size, arguments.partition))
            name, n_partitions = " x ".join(f"{n:,}" for n in size), features.npartitions
            rows.append([name, "memory of the workers", *_shown(n_partitions, measure(client, features, labels))])
            print(rows[-1], flush=True)
            with tempfile.TemporaryDirectory() as folder:
                files = _from_files(features, labels, folder)
                rows.append([name, "Parquet files", *_shown(n_partitions, measure(client, *files))])
            print(rows[-1], flush=True)
            del features, labels
    print(table(["rows, features, classes", "data", "partitions", "a pass", "between workers", "all messages"], rows))


if __name__ == "__main__":
    main()
