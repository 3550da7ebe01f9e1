"""What a million images cost: processor time as measured by `benchmarks.bench`, times prices.

`python -m benchmarks.cost` prints the table of docs/costs.md, which `make docs` writes; other prices are
given as options. Prices are assumptions: nothing was run on a cloud, and no bill was compared.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any, Final

from benchmarks import bench
from models.training.evaluation.markdown import markdown_table

RESULTS: Final = Path(__file__).parent / "results" / "bench.json"
MILLION: Final = 1_000_000
CONTENDER: Final = "router"
HEADINGS: Final = (
    "syntax", "MB an image", "CPU, ms an image", "vCPU hours paid", "Dataflow", "virtual machines",
)  # fmt: skip


@dataclass(frozen=True)
class Prices:
    """Prices in US dollars, and how they were obtained.

    Attributes:
        date: when they were written down.
        source: where they are from.
        dataflow_vcpu_hour: one processor of a Dataflow batch worker for an hour.
        dataflow_gb_hour: one gigabyte of its memory for an hour.
        vm_vcpu_hour: one processor of a virtual machine, with its memory, for an hour.
        gb_per_vcpu: memory of a worker per processor, in gigabytes.
        utilization: share of the paid processor time that the router uses, 0 to 1.
        million_writes: a million write requests to an object store.
        million_reads: a million read requests.
    """

    date: str = "2026-11-30"
    source: str = "list prices of Google Cloud in us-central1, on demand, not looked up again"
    dataflow_vcpu_hour: float = 0.056
    dataflow_gb_hour: float = 0.003557
    vm_vcpu_hour: float = 0.05
    gb_per_vcpu: float = 4.0
    utilization: float = 0.7
    million_writes: float = 5.0
    million_reads: float = 0.4


@dataclass(frozen=True)
class Cost:
    """The cost of a million images of a kind.

    Attributes:
        syntax: kind of transfer syntax.
        megabytes: size of an image.
        cpu_ms: processor time per image, in milliseconds.
        vcpu_hours: processor time that is paid for a million images, in hours.
        dataflow: price of that on Dataflow, without requests to the store.
        vm: price of that on virtual machines.
    """

    syntax: str
    megabytes: float
    cpu_ms: float
    vcpu_hours: float
    dataflow: float
    vm: float


def costs(results: dict[str, Any], prices: Prices) -> list[Cost]:
    """Return the cost of a million images of each kind that was measured."""
    return [_cost(results, syntax, prices) for syntax in results["bytes"]]


def table(results: dict[str, Any], prices: Prices) -> str:
    """Return the costs as a table in Markdown."""
    return markdown_table(HEADINGS, map(_row, costs(results, prices)))


def page() -> str:
    """Return docs/costs.md."""
    results, prices = json.loads(RESULTS.read_text()), Prices()
    machine, (rows, columns) = results["machine"], results["shape"]
    return f"""# Cost per million images

<!-- Written by `make docs` from benchmarks/cost.py and benchmarks/results/bench.json. -->

**Nothing was run on Google's cloud.** Processor time was measured by `python -m benchmarks.bench` on
{results["date"][:10]} with the default model of that day, on {machine["cores"]} cores
({machine["cpu"]}), over local files of {rows} x {columns} pixels.

{table(results, prices)}

Prices are assumptions of {prices.date}: {prices.source}.

{markdown_table(("assumption", "value"), _assumptions(prices))}

Not included: storage, traffic between regions, the shuffle, start of workers, disks, GPUs, and the extra
processor time of reading from a store. Requests to a store come on top: at least a read and a write per
image, ${prices.million_reads + prices.million_writes:.2f} per million images.

Other prices and another use of workers:

```bash
python -m benchmarks.cost --dataflow_vcpu_hour 0.06 --vm_vcpu_hour 0.03 --utilization 0.5 \\
  --date 2027-01-15 --source 'our contract'
```
"""


def main() -> None:
    """Print the table for the given prices."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--results", type=Path, default=RESULTS, help="of benchmarks.bench")
    for name, default in vars(Prices()).items():
        parser.add_argument(f"--{name}", type=type(default), default=default, help=f"[{default}]")
    given = vars(parser.parse_args())
    results, prices = json.loads(given.pop("results").read_text()), Prices(**given)
    print(f"Prices of {prices.date}, {prices.source}.\n\n{table(results, prices)}")


def _cost(results: dict[str, Any], syntax: str, prices: Prices) -> Cost:
    seconds = median(bench.costs(results, CONTENDER, syntax, "cpu"))
    hours = seconds * MILLION / 3600 / prices.utilization
    dataflow = prices.dataflow_vcpu_hour + prices.gb_per_vcpu * prices.dataflow_gb_hour
    return Cost(
        syntax,
        results["bytes"][syntax] / 1e6,
        seconds * 1000,
        hours,
        hours * dataflow,
        hours * prices.vm_vcpu_hour,
    )


def _assumptions(prices: Prices) -> list[tuple[str, str]]:
    return [
        ("Dataflow, a vCPU of a batch worker for an hour", f"${prices.dataflow_vcpu_hour:g}"),
        ("Dataflow, a GB of memory for an hour", f"${prices.dataflow_gb_hour:g}"),
        ("memory of a worker per vCPU", f"{prices.gb_per_vcpu:g} GB"),
        ("a vCPU of a virtual machine for an hour, with memory", f"${prices.vm_vcpu_hour:g}"),
        ("share of the paid processor time that the router uses", f"{prices.utilization:.0%}"),
        ("a million write requests to a store", f"${prices.million_writes:g}"),
        ("a million read requests to a store", f"${prices.million_reads:g}"),
    ]


def _row(one: Cost) -> list[str]:
    return [
        one.syntax,
        f"{one.megabytes:.1f}",
        f"{one.cpu_ms:.0f}",
        f"{one.vcpu_hours:.1f}",
        f"${one.dataflow:.2f}",
        f"${one.vm:.2f}",
    ]


if __name__ == "__main__":
    main()
